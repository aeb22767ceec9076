"""Arrays that may be too large for memory: then in a file that vanishes with them."""

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


class Rows:
    """Collects the rows of an array, a chunk at a time, in memory or in a file without a name.

    Args:
        count: how many rows there will be.
        limit: bytes above which they go to a file.
        folder: for the file; by default the temporary one.
    """

    def __init__(self, count: int, limit: int, folder: str | Path | None) -> None:
        self.count, self.limit, self.folder = count, limit, folder
        self.map: np.memmap | None = None
        self.chunks: list[Tensor] = []
        self.size = self.filled = 0

    def append(self, chunk: Tensor) -> None:
        """Take the next rows.

        Raises:
            ArgumentError: if the folder has no room.
        """
        if not self.filled and chunk[0].nbytes * self.count > self.limit:
            self.map, self.size = mapped((self.count, *chunk.shape[1:]), self.folder), len(chunk)
        if self.map is None:
            self.chunks.append(chunk)
        else:
            self.map[self.filled : self.filled + len(chunk)] = chunk.cpu().numpy()
        self.filled += len(chunk)

    def standardised(self) -> tuple[Tensor, Tensor, Tensor]:
        """All rows ``(n, C, …)``, standardised per channel; mean and deviation ``(C,)``."""
        if self.map is not None:
            return torch.from_numpy(self.map), *standardise(self.map, self.size)
        rows = torch.cat(self.chunks)
        every = (0, *range(2, rows.ndim))
        mean, deviation = rows.mean(every), rows.std(every).clamp_min(1e-6)
        return scaled(rows, mean, deviation), mean, deviation


def scaled(rows: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(rows − mean) / deviation by channel, for rows ``(n, C, …)``."""
    shape = (1, -1) + (1,) * (rows.ndim - 2)
    return (rows - mean.view(shape)) / deviation.view(shape)


def first_bad_row(*arrays: Tensor) -> int | None:
    """The first row in which any of the arrays is not finite, or None."""
    finite = torch.stack([torch.isfinite(array.flatten(1)).all(1) for array in arrays]).all(0)
    return None if finite.all() else int((~finite).nonzero()[0])
