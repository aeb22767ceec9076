"""What a notebook runs on, in one line."""

import platform

import torch

from hfld_lite.edge.analysis import processor
from hfld_lite.storage.threads import use_threads
from hfld_lite.version import __version__


def environment() -> str:
    """Versions, processor and threads in one line.

    What the notebook computes by itself uses these threads from here on; a training looks again at
    its start. See :mod:`hfld_lite.storage.threads`, and set OMP_NUM_THREADS to choose the number.
    """
    return (
        f"hfld_lite {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}, {use_threads()}"
    )
