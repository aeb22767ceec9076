"""Recordings from MATLAB files: one recording a row, or one long recording a file."""

from __future__ import annotations

import os
import re
import struct
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hfld_lite.data.mat_structs import check_struct
from hfld_lite.data.names import no_label, some_names, tidy
from hfld_lite.data.parts import Part
from hfld_lite.data.plausibility import reading_findings
from hfld_lite.data.readers import (
    expression,
    float32,
    known_classes,
    label_of,
    layout,
    left_out,
    listing,
    need_two,
    of_format,
    pooled_order,
    reader,
    some,
)
from hfld_lite.data.recordings import Recordings, place, positive
from hfld_lite.errors import DataError
from hfld_lite.storage.files import regular_size, stand_in, unfolded
from hfld_lite.storage.progress import bar

TILE_LAYOUT = "one .mat file per type and class, *N.mat normal and *D.mat defective"
LONG_NAME = r"^(.+)_(?:load)?\d+\.(?i:mat)$"
LONG_VARIABLE = "DE_time,*_DE_time"  # of Case Western Reserve University: X105_DE_time, …

NORMAL_48K = {f"X{number:03d}_DE_time" for number in range(97, 101)}
PADERBORN, PADERBORN_RATE = "vibration_1", 64_000

_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # the codes of integers and floats in a .mat file
_CLASSES = range(6, 16)  # the codes of matrices of numbers: double, single, int8, …, uint64
_VERSION_4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of one number, by its code


def _are_long(inside: list[Path]) -> bool:
    found = [path for path in inside if path.suffix.lower() == ".mat"]
    named = all(re.search(LONG_NAME, path.name) for path in found)
    return bool(found) and (named or not any(path.stem.endswith(("N", "D")) for path in found))


def _are_tiles(inside: list[Path]) -> bool:
    return any(path.suffix.lower() == ".mat" for path in inside) and not _are_long(inside)


@layout("tiles in .mat files", TILE_LAYOUT, _are_tiles)
def read_mat(
    paths: str | Path | Iterable[str | Path],
    *,
    variable: str = "data",
    sample_rate: int = 40_000,
    part: str = "first",
    samples: int = 7000,
    pool: bool = True,
    one_class: bool = False,
    progress: bool = False,
) -> Recordings:
    """Read recordings in the layout that the HFLKD paper's released code reads.

    One .mat file per type and class, ``*N.mat`` normal and ``*D.mat`` defective. Its variable holds
    one recording per row, of which a part is used, the first `samples` columns by default. The
    layout does not say which tile a row belongs to, so each recording is a group of its own. The
    rows of ``unlabelled.mat`` are of an unknown class.

    Where the rows of a variable are too short and its columns are not, the recordings are its
    columns, and a warning says so.

    Args:
        paths: a folder, a file, or several.
        variable: name of the variable in each file, or a pattern; see :func:`mat_variable`.
        sample_rate: in Hz; the files do not contain it.
        part: which part of each row: first, loudest, onset, whole or windows; see
            :class:`~hfld_lite.data.parts.Part`.
        samples: how many to use of each row; with *whole* all are used.
        pool: a class for each file (AN, AD, BN, …), types in order and N before D; else the two
            classes N and D over all types.
        one_class: accept a single class.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout.
    """
    chosen = Part(part, samples)
    files = _mat_files(paths)
    for file in files:
        if not file.stem.endswith(("N", "D")) and not no_label(file.stem):
            raise DataError(
                file,
                "the name ends neither in N nor in D",
                expected=TILE_LAYOUT,
                mend="rename the file or move it elsewhere (long recordings: read_long_mat)",
            )
    files.sort(key=lambda file: pooled_order(file.stem))
    classes = [
        "" if no_label(file.stem) else file.stem if pool else file.stem[-1] for file in files
    ]
    names = sorted({name for name in classes if name}, key=pooled_order)
    if not (one_class and names):
        need_two(names, paths, "" in classes)
    cuts, labels, rows, lengths, turned = [], [], [], [], []
    for file, label in zip(bar(files, "reading", progress=progress), classes, strict=True):
        array = mat_variable(file, variable)
        if _are_columns(array, samples) and part != "whole":
            turned.append(f"{file.name}, shape {array.shape}")
            array = array.T
        if part == "whole":
            chosen = Part(part, chosen.samples if cuts else array.shape[1])
        if array.shape[1] < chosen.samples or (part == "whole" and array.shape[1] > chosen.samples):
            raise DataError(
                f"{file}, rows 0 to {len(array) - 1}",
                f"{variable!r} has {array.shape[1]} samples a row, shape {array.shape}",
                expected=f"{chosen.samples}{' or more' * (part != 'whole')}",
                mend=f"ask for fewer samples (--samples {array.shape[1]}, or, if the recordings "
                f"are columns, --samples {len(array)})",
            )
        origins = [f"{file.name}:{row}" for row in range(len(array))]
        named = zip(float32(array), map(place, origins), strict=True)
        cuts += [chosen.cut(signal, sample_rate, where) for signal, where in named]
        labels += [label_of(label, names)] * len(array)
        rows += origins
        lengths += [array.shape[1]] * len(array)
    if turned:
        warnings.warn(
            f"{files[0].parent}: in {len(turned)} of {len(files)} files {_COLUMNS} {samples} "
            f"samples: {some_names(turned)}",
            stacklevel=2,
        )
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
        notes=reading_findings(
            lengths, [len(cut.signals) * chosen.samples for cut in cuts], labels, rows, names, part
        ),
    )


@layout(
    "long recordings in .mat files",
    "one .mat file per long recording, CLASS_loadNUMBER.mat",
    _are_long,
)
def read_long_mat(
    paths: str | Path | Iterable[str | Path],
    *,
    variable: str = LONG_VARIABLE,
    sample_rate: int = 12_000,
    window: int = 2048,
    hop: int | None = None,
    blocks: int = 20,
    leave_out: Sequence[str] = (),
    normal: Sequence[str] | None = None,
    label_pattern: str = LONG_NAME,
    what: str = "known bearings",
    one_class: bool = False,
    progress: bool = False,
) -> Recordings:
    """Read long recordings, one per .mat file, and cut them into windows.

    Each recording is first cut into equal blocks of time, then each block into windows, so that no
    window crosses a border between blocks. The groups are the blocks (``file/block03``): a split
    keeps them whole. Both parts still contain every machine: if a class is one physical bearing, a
    network learns to distinguish *known bearings*. The class *unlabelled* stands for an unknown
    one (``unlabelled_load0.mat``).

    Args:
        paths: a folder, a file, or several.
        variable: name of the variable in each file, a vector, or a pattern such as
            ``"X*_DE_time"``; see :func:`mat_variable`.
        sample_rate: in Hz; the files do not contain it.
        window: samples of a window.
        hop: samples from one window's start to the next's; `window` where not given.
        blocks: how many to a recording.
        leave_out: names of classes that are not read.
        normal: names of the normal classes; where not given, N or normal if there is one.
        label_pattern: regular expression that finds the class in a file's name, by its one group;
            by default what is before ``_load0``, or before ``_0``.
        what: the beginning of `source`.
        one_class: accept a single class.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout.
        ArgumentError: a class name or the expression is wrong.
    """
    hop = window if hop is None else hop
    for name, value in (("window", window), ("hop", hop), ("blocks", blocks)):
        positive(value, name)
    pattern = expression(label_pattern, "label_pattern")
    found = {}
    for file in _mat_files(paths):
        match = pattern.search(unicodedata.normalize("NFC", file.name))
        if not match or not tidy(match[1] or ""):
            raise DataError(
                file,
                "the name does not contain the class",
                expected="CLASS_loadNUMBER.mat or CLASS_NUMBER.mat (tiles: *N.mat and *D.mat)"
                if label_pattern == LONG_NAME
                else f"a name in which {label_pattern!r} is found",
                mend="rename the file, take it out or say where the class is in the name "
                "(--label-pattern, label_pattern=)",
            )
        found[file] = tidy(match[1])
    leave_out = known_classes(leave_out, found.values(), "leave_out")
    files = [file for file in found if found[file] not in leave_out]
    names = sorted({found[file] for file in files if not no_label(found[file])})
    if not (one_class and names):
        need_two(names, paths, any(no_label(found[file]) for file in files))
    signals, labels, groups, origins, unused, chosen = [], [], [], [], [], {}
    for file in bar(files, "reading", progress=progress):
        chosen[file.name] = name = variable_name(file, variable)
        array = mat_variable(file, name)
        if min(array.shape) > 1:
            raise DataError(
                file,
                f"{name!r} has shape {array.shape}",
                expected="a vector",
                mend="a recording in each row or column is read from files named *N.mat and *D.mat "
                "(read_mat)",
            )
        cut, block = windows_in_blocks(float32(array.ravel()), window, hop, blocks, file)
        signals.append(cut)
        labels += [label_of(found[file], names)] * len(cut)
        groups += [f"{file.stem}/block{number:02d}" for number in block]
        origins += [f"{file.name}:{row}" for row in range(len(cut))]
        used = np.bincount(block, minlength=blocks)
        unused.append(1 - np.sum((used - 1) * min(hop, window) + window) / array.size)
    left = Counter(label for label in found.values() if label in leave_out)
    left = ", ".join(
        f"{name} ({count} file{'s' * (count > 1)})" for name, count in sorted(left.items())
    )
    first, *others = dict.fromkeys(chosen.values())
    shown = f"{first!r}"
    if others:
        shown = f"{first!r}, …"
        named = some_names(f"{name} of {file}" for file, name in chosen.items())
        warnings.warn(
            f"{files[0].parent}: the variables that fit {variable!r} are {named}", stacklevel=2
        )
        if not NORMAL_48K.isdisjoint(chosen.values()):
            warnings.warn(
                f"{files[0].parent}: Case Western's normal recordings (X097 to X100) were sampled "
                f"at 48000 Hz and are read as if at {sample_rate} Hz, as the others, so that the "
                "rate may tell them apart; data_scripts/prepare_public.py converts them",
                stacklevel=2,
            )
    return Recordings(
        signals=np.concatenate(signals),
        labels=np.array(labels),
        groups=np.array(groups),
        sample_rate=sample_rate,
        class_names=names,
        normal_classes=known_classes(
            [n for n in names if n.lower() in ("n", "normal")] if normal is None else normal, names
        ),
        origins=np.array(origins),
        window=(window, hop),
        source=f"{what}: {len(files)} recordings ({shown}), each cut into {blocks} blocks of "
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
        found = of_format(inside, [".mat"])
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
    path: Path, variable: str | None = None, long: bool = False, samples: int | None = None
) -> tuple[np.ndarray, int | None]:
    """Read a .mat file whose variable holds a recording a row, or one long one.

    Where `samples` are wanted that the rows do not have and the columns do, these are the
    recordings.
    """
    if long and variable is None and (found := struct_signal(path)):
        return found
    array = mat_variable(path, variable or (LONG_VARIABLE if long else "data"))
    if samples and not long and _are_columns(array, samples):
        warnings.warn(f"{path}: {_COLUMNS} {samples} samples, shape {array.shape}", stacklevel=2)
        array = array.T
    return array, None


_COLUMNS = "the recordings are the columns, since the rows have fewer than"


def _are_columns(array: np.ndarray, samples: int) -> bool:
    return array.shape[1] < samples <= array.shape[0]


def variable_name(file: Path, wanted: str) -> str:
    """Which variable of a .mat file is meant.

    Args:
        file: whose variables are listed.
        wanted: a name, or a pattern such as ``"X*_DE_time"`` (`*`, `?` and `[…]` as in a shell), or
            several with commas between: the first that fits counts.

    Raises:
        DataError: the file cannot be listed, or two variables fit and the file's name does not
            contain the number of one of them.
    """
    patterns = [part.strip() for part in wanted.split(",")]
    if patterns == [wanted] and not re.search(r"[*?[]", wanted):
        return wanted  # said to be missing when it is read
    there = _listed(file, "")[0]
    for pattern in patterns:
        found = [name for name in there if fnmatchcase(name, pattern)]
        if len(found) > 1:
            numbers = _numbers(file.stem)
            found = [name for name in found if _numbers(name) & numbers] or found
        if len(found) > 1:
            raise DataError(
                file,
                f"{' and '.join(found)} fit {pattern!r}",
                expected="one variable",
                mend=f"name the one you want before the pattern (--variable '{found[-1]},"
                f"{pattern}', variable=)",
            )
        if found:
            return found[0]
    return wanted


def _numbers(text: str) -> set[int]:
    return set(map(int, re.findall("[0-9]+", text)))


def mat_variable(file: Path, name: str) -> np.ndarray:
    """Read a matrix of real numbers from a .mat file.

    Args:
        file: to be read.
        name: of the variable, or a pattern; see :func:`variable_name`.

    Raises:
        DataError: the file is damaged, or has no such variable.
    """
    import scipy.io  # here, since `import hfld_lite` should not wait for it

    name = variable_name(file, name)
    there, real = _listed(file, name)
    if name not in there:
        hint = "give the name, or a pattern such as 'X*_DE_time' (--variable, variable=)"
        if structs := [other for other, kind in there.items() if kind == "struct"]:
            hint = _from_struct(file, structs[0])
        raise DataError(
            file,
            f"there is no variable {name!r}",
            expected=f"one of those in the file: {', '.join(there) or 'none'}",
            mend=hint,
        )
    if there[name] == "struct":
        found = f"{name!r} is not a matrix of real numbers but a struct"
        raise DataError(file, found, mend=_from_struct(file, name))
    sound = real and there[name] in _NUMBERS
    content = (
        _asked(file, name, lambda: scipy.io.loadmat(file, variable_names=[name], appendmat=False))
        if sound
        else {}
    )
    array = content.get(name)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(file, f"{name!r} is not a matrix of real numbers", expected=TILE_LAYOUT)
    if array.size == 0:
        raise DataError(file, f"{name!r} is empty, shape {array.shape}", expected="recordings")
    return array


def struct_signal(file: Path) -> tuple[np.ndarray, int] | None:
    """The vibration in a struct as MFPT and Paderborn University publish it, and its rate in Hz.

    MFPT's struct has the fields ``gs`` and ``sr``. Paderborn's has ``Y``, an array of structs with
    ``Name`` and ``Data``, of which the one named ``vibration_1`` was sampled at 64 kHz.

    Returns:
        ``(1, samples)`` and the rate; None where the file has no such struct, or is not of
        version 5.

    Raises:
        DataError: the file is damaged.
    """
    import scipy.io
    import scipy.io.matlab

    structs = [name for name, kind in _listed(file, "")[0].items() if kind == "struct"]
    if len(structs) != 1 or scipy.io.matlab.matfile_version(file, appendmat=False)[0] != 1:
        return None
    name = structs[0]

    def content() -> Any:
        check_struct(file, name)
        options = {"variable_names": structs, "simplify_cells": True, "appendmat": False}
        return scipy.io.loadmat(file, **options)[name]

    fields = _asked(file, name, content)
    if not isinstance(fields, dict):
        return None
    signal, rate = fields.get("gs"), fields.get("sr")
    if "Y" in fields:
        entries = [entry for entry in np.atleast_1d(fields["Y"]) if isinstance(entry, dict)]
        found = [e.get("Data") for e in entries if str(e.get("Name", "")).strip() == PADERBORN]
        signal, rate = (found or [None])[0], PADERBORN_RATE
    if signal is None or rate is None:
        return None
    signal = np.asarray(signal)
    if signal.dtype.kind not in "fiu" or not signal.size or max(signal.shape) != signal.size:
        raise DataError(
            file,
            f"{name!r} holds a signal of {signal.dtype}, shape {signal.shape}",
            expected="a vector of real numbers",
        )
    if not np.isscalar(rate) or not np.isreal(rate) or not 1 <= rate < 1e9:
        raise DataError(file, f"{name!r} has the sample rate {rate!r}", expected="a number of Hz")
    return signal.reshape(1, -1), round(rate)


def _from_struct(file: Path, name: str) -> str:
    """How to take a vector out of a struct, as MFPT's files have it (bearing.gs, bearing.sr)."""
    return (
        "copy the signal out of the struct in Python: from scipy.io import loadmat, savemat; "
        f"d = loadmat('{file.name}')['{name}'][0, 0]; "
        f"savemat('new/{file.name}', {{'x': d['gs']}}); then give --variable x (d.dtype.names "
        "lists the fields; in MFPT's files gs is the signal "
        "and sr the rate, for --sample-rate)"
    )


def _listed(file: Path, name: str) -> tuple[dict[str, str], bool]:
    """The variables of a .mat file with their kinds, and whether `name` holds real numbers.

    The file is checked before scipy lists it.
    """
    import scipy.io
    import scipy.io.matlab

    def listed() -> tuple[dict[str, str], bool]:
        regular_size(file)
        version, _ = scipy.io.matlab.matfile_version(file, appendmat=False)
        real = {0: _check_version_4, 1: _check_version_5}.get(version, lambda *_: False)(file, name)
        there: dict[str, str] = {}
        for entry in scipy.io.whosmat(file, appendmat=False):
            there.setdefault(entry[0], entry[2])  # loadmat returns the first of a name
        return there, real

    if file.stat().st_size == 0 and file.is_file():
        raise DataError(file, "the file is empty", mend="copy it again")
    return _asked(file, name, listed)


def _asked(file: Path, name: str, ask: Callable[[], Any]) -> Any:
    """What scipy answers; its errors in words."""
    try:
        return ask()
    except NotImplementedError as error:
        raise DataError(
            file,
            "the file is in the format of MATLAB 7.3 (HDF5), which is not supported",
            mend=f"save it in MATLAB with save('{file.name}', '{name}', '-v7')",
        ) from error
    except Exception as error:  # scipy raises many kinds on damaged input
        damaged = f"the file is truncated or not a MATLAB file ({error})", "copy it again"
        what, mend = (stand_in(_beginning(file)) if file.is_file() else None) or damaged
        raise DataError(
            file, what, expected="a .mat file, version 7 or older", mend=mend
        ) from error


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(1024)
    except OSError:
        return b""


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


def windows_in_blocks(
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
