"""Arrays that may be too large for memory: read in pieces, by chosen rows, or kept in a file."""

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.mixins
import torch
from torch import Tensor

from hfld_lite.errors import ArgumentError

LAZY = 1 << 26
"""Bytes of a memory map's rows above which they are not copied into memory when chosen, 64 MiB."""

GATHERED = 1 << 29
"""Bytes of recordings read from many files above which they are kept in one file, 512 MiB."""

PIECE = 1 << 22
"""Bytes that are read at once, 4 MiB."""


def let_go(array: Any) -> None:
    """Give back what was read of a read-only memory map; it is read again when it is needed.

    The pages stay in the system's cache, but are no longer counted as the process's memory. For
    any other array nothing happens, nor on a system that knows no such advice (Windows).
    """
    if isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        base = array.base
        while isinstance(base, np.ndarray):
            base = base.base
        base.madvise(mmap.MADV_DONTNEED)


def pieces(array: Any, rows: int = 0) -> Iterator[Any]:
    """An array's rows, so many at a time (by default PIECE); a memory map's are let go."""
    rows = rows or max(1, PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
        let_go(array)


class Chosen(numpy.lib.mixins.NDArrayOperatorsMixin):
    """Rows of a memory-mapped array ``(n, samples)`` that are read when they are asked for.

    Rows by slice, number or numbers are an array in memory; ``[:, columns]`` reads nothing. NumPy's
    functions, methods and operators work as on the array that this stands for, and read it whole.
    Made by :func:`choose`.
    """

    def __init__(self, source: np.memmap, rows: np.ndarray) -> None:
        self._source, self._rows = source, rows
        self.dtype, self.shape = source.dtype, (len(rows), *source.shape[1:])
        self.ndim = source.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        rows, *columns = key if isinstance(key, tuple) else (key,)
        if columns and isinstance(rows, slice) and rows == slice(None):
            return Chosen(self._source[:, *columns], self._rows)
        found = np.asarray(self._source[self._rows[rows]])
        let_go(self._source)
        return found[(..., *columns)] if columns else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        inputs = [np.asarray(value) if isinstance(value, Chosen) else value for value in inputs]
        return getattr(ufunc, method)(*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self[:], name)

    def choose(self, rows: np.ndarray | slice) -> "Chosen":
        """Some of these rows, not read either."""
        return Chosen(self._source, self._rows[rows])


def choose(array: Any, rows: np.ndarray | slice) -> Any:
    """Rows of an array: a copy, or a view for a slice; many rows of a memory map are not read."""
    if isinstance(array, Chosen):
        return array.choose(rows)
    large = isinstance(rows, np.ndarray) and len(rows) * array[:1].nbytes > LAZY
    lazy = large and isinstance(array, np.memmap) and array.mode == "r"
    if lazy:
        return Chosen(array, rows)
    found = array[rows]
    let_go(array)
    return found


def gathered(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The rows of arrays ``(k, samples)``, float32, one below the other.

    Those of more than GATHERED bytes are a read-only memory map of a file without a name, so that
    they are never all in memory.

    Raises:
        ArgumentError: if the temporary folder has no room.
    """
    size = 0
    with tempfile.SpooledTemporaryFile(GATHERED, suffix=".recordings") as file:
        for rows in parts:
            size, samples = size + rows.nbytes, rows.shape[1]
            try:
                file.write(np.ascontiguousarray(rows, np.float32))
                file.flush()
            except OSError as error:
                raise ArgumentError(
                    f"{tempfile.gettempdir()}: recordings of more than {size / 1e6:.0f} MB cannot "
                    f"be kept there ({error.strerror}); make room, or name another folder in "
                    "TMPDIR."
                ) from error
        if size > GATHERED:  # then they are on the disk, and the map keeps the file open
            return np.memmap(file, np.float32, "r").reshape(-1, samples)
        found = np.empty((size // (4 * samples), samples), np.float32)
        file.seek(0)
        file.readinto(found)
        return found


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
        self.rows: Tensor | None = None
        self.size = self.filled = 0

    def append(self, chunk: Tensor) -> None:
        """Take the next rows.

        Raises:
            ArgumentError: if the folder has no room.
        """
        shape = (self.count, *chunk.shape[1:])
        if not self.filled and chunk[0].nbytes * self.count > self.limit:
            self.map, self.size = mapped(shape, self.folder), len(chunk)
        elif not self.filled:
            self.rows = torch.empty(shape, dtype=chunk.dtype, device=chunk.device)
        place = slice(self.filled, self.filled + len(chunk))
        if self.map is None:
            self.rows[place] = chunk
        else:
            self.map[place] = chunk.cpu().numpy()
        self.filled += len(chunk)

    def standardised(self) -> tuple[Tensor, Tensor, Tensor]:
        """All rows ``(n, C, …)``, standardised per channel; mean and deviation ``(C,)``."""
        if self.map is not None:
            return torch.from_numpy(self.map), *standardise(self.map, self.size)
        rows = self.rows
        every, shape = (0, *range(2, rows.ndim)), (1, -1) + (1,) * (rows.ndim - 2)
        mean, deviation = rows.mean(every), rows.std(every).clamp_min(1e-6)
        rows.sub_(mean.view(shape)).div_(deviation.view(shape))  # in place: no copy of all
        return rows, mean, deviation


def scaled(rows: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(rows − mean) / deviation by channel, for rows ``(n, C, …)``."""
    shape = (1, -1) + (1,) * (rows.ndim - 2)
    return (rows - mean.view(shape)) / deviation.view(shape)


def first_bad_row(*arrays: Tensor) -> int | None:
    """The first row in which any of the arrays is not finite, or None."""
    finite = torch.stack([torch.isfinite(array.flatten(1)).all(1) for array in arrays]).all(0)
    return None if finite.all() else int((~finite).nonzero()[0])
