"""What a notebook runs on, in one line."""

import platform
import warnings

import torch

from hfld_lite.edge.analysis import processor
from hfld_lite.storage.threads import use_threads
from hfld_lite.version import __version__


def start(version: str) -> None:
    """Print what a notebook runs on; warn if it was written for another version of the package.

    Args:
        version: The version whose outputs are stored in the notebook, such as ``"0.7.0"``.
    """
    if version != __version__:
        warnings.warn(
            f"this notebook was written for hfld_lite {version}, and {__version__} is installed: "
            "if it fails or shows other numbers, restart the kernel after "
            f"%pip install hfld_lite=={version}",
            stacklevel=2,
        )
    print(environment())


def environment() -> str:
    """Versions, processor and threads in one line.

    What the notebook computes by itself uses these threads from here on; a training looks again at
    its start. See :mod:`hfld_lite.storage.threads`, and set OMP_NUM_THREADS to choose the number.
    """
    return (
        f"hfld_lite {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}, {use_threads()}"
    )
