"""Arrays that are too large for memory: in a file that vanishes with them."""

import errno
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hfld_lite.errors import ArgumentError


def mapped(shape: tuple[int, ...], folder: str | Path | None) -> np.memmap:
    """A memory-mapped float32 array in a file without a name.

    Raises:
        ArgumentError: if the folder (by default the temporary one) has no room.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    place = folder or tempfile.gettempdir()
    try:
        # The map keeps the file open, which vanishes with it.
        with tempfile.TemporaryFile(dir=folder, suffix=".features") as file:
            if shutil.disk_usage(place).free < size:  # a map on a full disk kills the process
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        raise ArgumentError(
            f"{place}: the teacher's answers, {size / 1e6:.0f} MB, cannot be kept there "
            f"({error.strerror}); make room, or choose another folder."
        ) from error


def standardise(mapped: np.memmap, size: int) -> tuple[Tensor, Tensor]:
    """Standardise each channel in place, ``size`` rows at a time, with sums in double precision.

    Returns:
        mean and deviation, ``(C,)``.
    """
    every = (0, *range(2, mapped.ndim))
    shape = (1, -1) + (1,) * (mapped.ndim - 2)
    chunks = [mapped[start : start + size] for start in range(0, len(mapped), size)]
    count = mapped.size // mapped.shape[1]
    mean = sum(chunk.sum(every, dtype=np.float64) for chunk in chunks) / count
    squares = sum(np.square(chunk - mean.reshape(shape)).sum(every) for chunk in chunks)
    deviation = np.sqrt(squares / (count - 1)).clip(1e-6)
    for chunk in chunks:
        chunk[:] = (chunk - mean.reshape(shape)) / deviation.reshape(shape)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
