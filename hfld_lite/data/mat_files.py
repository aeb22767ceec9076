"""Recordings from MATLAB files: one recording a row, or one long recording a file."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hfld_lite.data.parts import Part
from hfld_lite.data.readers import (
    expression,
    float32,
    known_classes,
    layout,
    left_out,
    listing,
    need_two,
    pooled_order,
    reader,
    some,
)
from hfld_lite.data.recordings import Recordings, place, positive
from hfld_lite.errors import DataError
from hfld_lite.storage.files import regular_size, unfolded
from hfld_lite.storage.progress import bar

TILE_LAYOUT = "one .mat file per type and class, *N.mat normal and *D.mat defective"
LONG_NAME = r"(?P<label>.+)_load\d+"

_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # the codes of integers and floats in a .mat file
_CLASSES = range(6, 16)  # the codes of matrices of numbers: double, single, int8, …, uint64
_VERSION_4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of one number, by its code


def _stems(inside: list[Path]) -> list[str]:
    return [path.stem for path in inside if path.suffix.lower() == ".mat"]


def _are_long(inside: list[Path]) -> bool:
    stems = _stems(inside)
    return bool(stems) and all(re.fullmatch(LONG_NAME, stem) for stem in stems)


def _are_tiles(inside: list[Path]) -> bool:
    return bool(_stems(inside)) and not _are_long(inside)


@layout("tiles in .mat files", TILE_LAYOUT, _are_tiles)
def read_mat(
    paths: str | Path | Iterable[str | Path],
    *,
    variable: str = "data",
    sample_rate: int = 40_000,
    part: str = "first",
    samples: int = 7000,
    pool: bool = True,
    progress: bool = False,
) -> Recordings:
    """Read recordings in the layout that the HFLKD paper's released code reads.

    One .mat file per type and class, ``*N.mat`` normal and ``*D.mat`` defective. Its variable holds
    one recording per row, of which a part is used, the first `samples` columns by default. The
    layout does not say which tile a row belongs to, so each recording is a group of its own.

    Args:
        paths: a folder, a file, or several.
        variable: name of the variable in each file.
        sample_rate: in Hz; the files do not contain it.
        part: which part of each row: first, loudest, onset, whole or windows; see
            :class:`~hfld_lite.data.parts.Part`.
        samples: how many to use of each row; with *whole* all are used.
        pool: a class for each file (AN, AD, BN, …), types in order and N before D; else the two
            classes N and D over all types.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout.
    """
    chosen = Part(part, samples)
    files = _mat_files(paths)
    for file in files:
        if not file.stem.endswith(("N", "D")):
            raise DataError(
                file,
                "the name ends neither in N nor in D",
                expected=TILE_LAYOUT,
                mend="rename the file or move it elsewhere (long recordings: read_long_mat)",
            )
    files.sort(key=lambda file: pooled_order(file.stem))
    classes = [file.stem if pool else file.stem[-1] for file in files]
    names = sorted(set(classes), key=pooled_order)
    need_two(names, paths)
    cuts, labels, rows = [], [], []
    for file, label in zip(bar(files, "reading", progress=progress), classes, strict=True):
        array = mat_variable(file, variable)
        if part == "whole":
            chosen = Part(part, chosen.samples if cuts else array.shape[1])
        if array.shape[1] < chosen.samples or (part == "whole" and array.shape[1] > chosen.samples):
            raise DataError(
                f"{file}, rows 0 to {len(array) - 1}",
                f"{variable!r} has {array.shape[1]} samples a row, shape {array.shape}",
                expected=f"{chosen.samples}{' or more' * (part != 'whole')}",
                mend="ask for fewer samples, or transpose the variable if recordings are columns",
            )
        origins = [f"{file.name}:{row}" for row in range(len(array))]
        named = zip(float32(array), map(place, origins), strict=True)
        cuts += [chosen.cut(signal, sample_rate, where) for signal, where in named]
        labels += [names.index(label)] * len(array)
        rows += origins
    counts = [len(cut.signals) for cut in cuts]
    groups = np.repeat(rows, counts)
    if steady := sum(cut.no_onset for cut in cuts):
        warnings.warn(
            f"{files[0].parent}: of {len(cuts)} rows, {steady} are steady without an onset, so "
            "that their loudest stretch is used",
            stacklevel=2,
        )
    return Recordings(
        signals=np.concatenate([cut.signals for cut in cuts]),
        labels=np.repeat(labels, counts),
        groups=groups,
        sample_rate=sample_rate,
        class_names=names,
        normal_classes=[name for name in names if name.endswith("N")],
        origins=[f"{row}:{i}" for row, n in zip(rows, counts, strict=True) for i in range(n)]
        if part == "windows"
        else groups,
        source=f"{', '.join(file.name for file in files)}: {variable!r}, {chosen.words} of each "
        "row; the tile of a row is unknown",
        part=chosen,
        wholes=groups if part == "windows" else None,
    )


@layout(
    "long recordings in .mat files",
    "one .mat file per long recording, CLASS_loadNUMBER.mat",
    _are_long,
)
def read_long_mat(
    paths: str | Path | Iterable[str | Path],
    *,
    variable: str = "DE_time",
    sample_rate: int = 12_000,
    window: int = 2048,
    hop: int | None = None,
    blocks: int = 20,
    leave_out: Sequence[str] = (),
    normal: Sequence[str] | None = None,
    label: str = LONG_NAME,
    what: str = "known bearings",
    progress: bool = False,
) -> Recordings:
    """Read long recordings, one per .mat file, and cut them into windows.

    Each recording is first cut into equal blocks of time, then each block into windows, so that no
    window crosses a border between blocks. The groups are the blocks (``file/block03``): a split
    keeps them whole. Both parts still contain every machine: if a class is one physical bearing, a
    network learns to distinguish *known bearings*.

    Args:
        paths: a folder, a file, or several.
        variable: name of the variable in each file, a vector.
        sample_rate: in Hz; the files do not contain it.
        window: samples of a window.
        hop: samples from one window's start to the next's; `window` where not given.
        blocks: how many to a recording.
        leave_out: names of classes that are not read.
        normal: names of the normal classes; where not given, N if there is one.
        label: regular expression for a file's name without its ending; its group ``label`` is the
            class.
        what: the beginning of `source`.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout.
        ArgumentError: a class name or the expression is wrong.
    """
    hop = window if hop is None else hop
    for name, value in (("window", window), ("hop", hop), ("blocks", blocks)):
        positive(value, name)
    pattern = expression(label, "label", named="label")
    found = {}
    for file in _mat_files(paths):
        match = pattern.fullmatch(file.stem)
        if not match or not match["label"]:
            raise DataError(
                file,
                "the name does not contain the class",
                expected=f"a name that fits {label!r} before .mat",
                mend="rename the file, take it out or give another label expression",
            )
        found[file] = match["label"]
    leave_out = known_classes(leave_out, found.values(), "leave_out")
    files = [file for file in found if found[file] not in leave_out]
    names = sorted({found[file] for file in files})
    need_two(names, paths)
    signals, labels, groups, origins, unused = [], [], [], [], []
    for file in bar(files, "reading", progress=progress):
        array = mat_variable(file, variable)
        if min(array.shape) > 1:
            raise DataError(file, f"{variable!r} has shape {array.shape}", expected="a vector")
        cut, block = _windows(float32(array.ravel()), window, hop, blocks, file)
        signals.append(cut)
        labels += [names.index(found[file])] * len(cut)
        groups += [f"{file.stem}/block{number:02d}" for number in block]
        origins += [f"{file.name}:{row}" for row in range(len(cut))]
        used = np.bincount(block, minlength=blocks)
        unused.append(1 - np.sum((used - 1) * min(hop, window) + window) / array.size)
    left = Counter(label for label in found.values() if label in leave_out)
    left = ", ".join(
        f"{name} ({count} file{'s' * (count > 1)})" for name, count in sorted(left.items())
    )
    return Recordings(
        signals=np.concatenate(signals),
        labels=np.array(labels),
        groups=np.array(groups),
        sample_rate=sample_rate,
        class_names=names,
        normal_classes=known_classes(
            [n for n in names if n == "N"] if normal is None else normal, names
        ),
        origins=np.array(origins),
        window=(window, hop),
        source=f"{what}: {len(files)} recordings ({variable!r}), each cut into {blocks} blocks of "
        f"time and these into windows of {window} samples, hop {hop}; {np.mean(unused):.1%} of "
        f"the samples fill no window{left and '; left out by name: ' + left}",
    )


def _mat_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    files = []
    for path in map(Path, [paths] if isinstance(paths, str | os.PathLike) else paths):
        if path.is_file():
            files.append(path)
            continue
        inside = listing(path)
        found = [p for p in inside if p.suffix.lower() == ".mat" and p.is_file()]
        if not found:
            raise DataError(path, f"holds no .mat file: {some(inside)}", expected=TILE_LAYOUT)
        left_out(path, [p for p in inside if p not in found], "are not .mat files")
        files += found
    for name, times in Counter(file.name for file in files).items():
        if times > 1:
            raise DataError(name, f"{times} files have this name", mend="rename one of them")
    return files


@reader(".mat", class_folders=False)
def _read_rows(
    path: Path, variable: str | None = None, long: bool = False
) -> tuple[np.ndarray, None]:
    """Read a .mat file whose variable holds a recording a row, or one long one."""
    return mat_variable(path, variable or ("DE_time" if long else "data")), None


def mat_variable(file: Path, name: str) -> np.ndarray:
    """Read a matrix of real numbers from a .mat file."""
    import scipy.io  # here, since `import hfld_lite` should not wait for it
    import scipy.io.matlab

    if file.stat().st_size == 0 and file.is_file():
        raise DataError(file, "the file is empty", mend="copy it again")
    try:
        regular_size(file)
        version, _ = scipy.io.matlab.matfile_version(file, appendmat=False)
        real = {0: _check_version_4, 1: _check_version_5}.get(version, lambda *_: False)(file, name)
        there: dict[str, str] = {}
        for entry in scipy.io.whosmat(file, appendmat=False):
            there.setdefault(entry[0], entry[2])  # loadmat returns the first of a name
        sound = real and there.get(name) in _NUMBERS
        content = scipy.io.loadmat(file, variable_names=[name], appendmat=False) if sound else {}
    except NotImplementedError as error:
        raise DataError(
            file,
            "the file is in the format of MATLAB 7.3 (HDF5), which is not supported",
            mend=f"save it in MATLAB with save('{file.name}', '{name}', '-v7')",
        ) from error
    except Exception as error:  # scipy raises many kinds on damaged input
        raise DataError(
            file,
            f"the file is truncated or not a MATLAB file ({error})",
            expected="a .mat file, version 7 or older",
            mend="copy it again",
        ) from error
    if name not in there:
        raise DataError(
            file,
            f"there is no variable {name!r}",
            expected=f"one of those in the file: {', '.join(there) or 'none'}",
            mend="give the name by the argument `variable`",
        )
    array = content.get(name)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(file, f"{name!r} is not a matrix of real numbers", expected=TILE_LAYOUT)
    if array.size == 0:
        raise DataError(file, f"{name!r} is empty, shape {array.shape}", expected="recordings")
    return array


def _check_version_4(file: Path, name: str) -> bool:
    """Compare what each header claims with the file's size, which scipy does not; True.

    A header is five integers: type (its tens name the numbers' kind), rows, columns, whether
    complex, length of the name ("MAT-File Format", The MathWorks, version 4).
    """
    left = regular_size(file)
    with file.open("rb") as stream:
        first = stream.read(4)
        order = "<" if first == bytes(4) or 0 <= struct.unpack("<i", first)[0] <= 5000 else ">"
        stream.seek(0)
        while len(header := stream.read(20)) == 20:
            kind, rows, columns, imaginary, length = struct.unpack(order + "5i", header)
            size = _VERSION_4_BYTES.get(kind // 10 % 10, 8) * (1 + (imaginary == 1))
            claimed = length + rows * columns * size
            left -= 20
            if min(rows, columns, length) < 0 or claimed > left:
                raise ValueError(
                    f"a variable of shape ({rows}, {columns}) is claimed, and {left} bytes are left"
                )
            left -= claimed
            stream.seek(claimed, os.SEEK_CUR)
    return True


def _check_version_5(file: Path, name: str) -> bool:
    """Compare what each element claims with the file's size; return whether the variable is real.

    On an unknown type code scipy does not raise: the interpreter crashes
    (https://github.com/scipy/scipy/pull/25829). And it reserves what is claimed. So the tags of
    each matrix are checked first: flags, dimensions, name, data ("MAT-File Format", The
    MathWorks, version 5). A compressed matrix may claim what its bytes could unfold to.

    Raises:
        ValueError: an element claims more than there is, or the variable's data has no known type.
    """
    whole, real = regular_size(file), None
    with file.open("rb") as stream:
        order = "<II" if stream.read(128).endswith(b"IM") else ">II"
        while len(tag := stream.read(8)) == 8:
            kind, size = struct.unpack(order, tag)
            end = stream.tell() + size
            if end > whole:
                raise ValueError(f"an element claims {size} bytes, {end - whole} more than it has")
            start, claimed = stream.read(min(size, 1024)), size
            if kind == 15:  # a compressed matrix, its own tag included
                start = zlib.decompressobj().decompress(start, 1024)
                if len(start) < 8:
                    raise ValueError("a compressed element holds nothing")
                claimed, start = struct.unpack_from(order, start)[1], start[8:]
                if claimed > unfolded(size):
                    raise ValueError(f"{size} compressed bytes claim to hold {claimed}")
            parts = _parts(start, claimed, order)
            if real is None and len(parts) == 4 and parts[2][1] == name.encode():
                flags = struct.unpack_from(order, parts[0][1])[0]
                real = not flags & 0x800 and flags & 0xFF in _CLASSES  # 0x800 means complex
                if real and parts[3][0] not in _TYPES:
                    raise ValueError(f"{name!r} has data of type {parts[3][0]}")
            stream.seek(end)
    return bool(real)


def _parts(start: bytes, claimed: int, order: str) -> list[tuple[int, bytes]]:
    """The first four elements of a matrix of ``claimed`` bytes: each one's type and its bytes."""
    parts, at = [], 0
    while len(parts) < 4 and at + 8 <= len(start):
        kind, size = struct.unpack_from(order, start, at)
        at += 8
        if kind >> 16:  # a small element: up to 4 bytes, in the second half of its tag
            kind, size, at = kind & 0xFFFF, kind >> 16, at - 4
        if at + size > claimed:
            raise ValueError(f"an element of {claimed} bytes claims to hold one of {size}")
        parts.append((kind, start[at : at + size]))
        at += size + -(at + size) % 8
    return parts


def _windows(
    signal: np.ndarray, window: int, hop: int, blocks: int, file: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``(samples,)`` into blocks, these into windows: ``(n, window)`` and each one's block."""
    if len(signal) // blocks < window:
        raise DataError(
            file,
            f"has {len(signal)} samples, {len(signal) // blocks} in each of {blocks} blocks",
            expected=f"blocks of {window} samples (one window) or more",
            mend="ask for fewer blocks or a shorter window",
        )
    ends = np.arange(blocks + 1) * len(signal) // blocks
    views = np.lib.stride_tricks.sliding_window_view
    cut = [views(signal[a:b], window)[::hop] for a, b in pairwise(ends)]
    return np.concatenate(cut), np.repeat(np.arange(blocks), [len(part) for part in cut])
