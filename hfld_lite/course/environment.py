"""What a notebook runs on, in one line."""

import platform

import torch

from hfld_lite.edge.analysis import processor
from hfld_lite.version import __version__


def environment() -> str:
    """Versions, processor and threads in one line."""
    return (
        f"hfld_lite {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}, {torch.get_num_threads()} threads"
    )
