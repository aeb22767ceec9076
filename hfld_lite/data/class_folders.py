"""Recordings from folders with a subfolder for each class, one recording a file."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hfld_lite.data.parts import Cut, Part, choose_part
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.readers import (
    READERS,
    class_endings,
    endings_text,
    expression,
    float32,
    known_classes,
    layout,
    left_out,
    listing,
    need_two,
    pooled_order,
    read_file,
    resampled,
    some,
)
from hfld_lite.data.recordings import Recordings, positive
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.files import read_text
from hfld_lite.storage.progress import bar

_MANIFEST_BYTES = 1 << 24
_NORMAL = {"n", "normal", "ok", "good", "sound", "intact"}


LAYOUT = "one subfolder of {endings} files per class, or a manifest.csv"
_NAMED = "where the files' names contain the class, give --label-pattern (label_pattern=)"


class _File(NamedTuple):
    """A file: its name below the folder, its class, its group, and what is known before reading."""

    path: Path
    name: str
    label: str
    group: str
    rate: int | None
    samples: int
    channels: int
    signal: np.ndarray | None
    """Read already, where the format has no header that tells the rate."""

    def length(self, rate: int) -> int:
        """Samples at `rate` Hz."""
        return -(-self.samples * rate // (self.rate or rate))


def _is_here(inside: list[Path]) -> bool:
    if any(path.name == "manifest.csv" for path in inside):
        return True
    below = [path for folder in inside if folder.is_dir() for path in listing(folder)]
    flat = not any(path.suffix.lower() == ".mat" or path.name == MANIFEST for path in inside)
    return any(path.suffix.lower() in class_endings() for path in below + inside * flat)


@layout("{endings} files in class folders", LAYOUT, _is_here)
def read_wav_folder(
    folder: str | Path,
    *,
    part: str | None = None,
    samples: int | None = None,
    pad: bool = False,
    sample_rate: int | None = None,
    resample: bool = False,
    manifest: str | Path | None = None,
    label_pattern: str | None = None,
    group_pattern: str | None = None,
    normal: Sequence[str] | None = None,
    progress: bool = False,
) -> Recordings:
    """Read a folder of WAV or FLAC files, or others that a `reader` is registered for.

    Each file holds one recording. The classes are the subfolders, or they are given by a manifest,
    a CSV file with the columns ``file`` (path below `folder`), ``label`` (class name) and, if
    wanted, ``group`` (physical tile), or by the files' names. Several channels of a sound are
    averaged into one. The files may differ in length: a part of each is used.

    Args:
        folder: what to read.
        part: which part of each file: first, loudest, onset, whole or windows; see
            :class:`~hfld_lite.data.parts.Part`. Where not given: the first ones if `samples` is
            given, else by the rule of :func:`~hfld_lite.data.parts.choose_part`.
        samples: how many of each file; by default as that rule says.
        pad: append zeros to files shorter than `samples` instead of refusing them.
        sample_rate: in Hz, what the files must have, or, with `resample`, will have; required for
            formats that do not tell it.
        resample: convert files of other rates (polyphase filter) to `sample_rate`, or where that
            is not given to the most common rate.
        manifest: the CSV file; where not given, ``manifest.csv`` in `folder` if it is there.
        label_pattern: for a folder without subfolders or manifest: regular expression that finds
            the class in a file's name, by its one group: ``"_([a-z]+)_"``.
        group_pattern: regular expression that finds the tile in a file's name, by its one group:
            ``"(tile[0-9]+)"``. Without it and without the column, each file is its own group.
        normal: names of the normal classes; where not given: n, normal, ok, good, sound, intact
            in any case, or those that end in N where all are like AN, AD.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout, or damaged, or too short for the part.
        ArgumentError: an argument is wrong.
    """
    folder = Path(folder)
    if samples is not None or part is not None:
        Part(part or "first", 1 if samples is None else samples, pad)  # raises what is wrong
    if sample_rate is not None:
        positive(sample_rate, "sample_rate")
    if manifest is None and (folder / "manifest.csv").is_file():
        manifest = folder / "manifest.csv"
    if manifest and label_pattern is not None:
        raise ArgumentError("The manifest has the classes already, so leave out label_pattern.")
    if label_pattern is not None:
        listed = _from_names(folder, expression(label_pattern, "label_pattern"))
    else:
        listed = _from_manifest(folder, Path(manifest)) if manifest else _from_subfolders(folder)
    if group_pattern is not None:
        listed = _grouped(listed, expression(group_pattern, "group_pattern"))
    names = sorted({label for _, label, _ in listed.values()})
    normal, names = _wav_classes(names, normal)
    need_two(names, folder)
    files = [_File(path, *entry, *_opened(path)) for path, entry in listed.items()]
    rate = _common_rate(files, sample_rate, resample)
    shown = bar(files, "reading", progress=progress)
    if samples is None:
        read = [_signal(file, rate) for file in shown]
        chosen = choose_part(read, rate, kind=part, pad=pad)
        _check_lengths(files, rate, chosen)
        signals = (read.pop(0) for _ in files)  # each is given back as soon as it is cut
    else:  # only the parts are kept in memory
        chosen = Part(part or "first", samples, pad)
        _check_lengths(files, rate, chosen)
        signals = (_signal(file, rate) for file in shown)
    cuts = [chosen.cut(x, rate, file.path) for x, file in zip(signals, files, strict=True)]
    said = _said(files, rate, chosen, cuts)
    told = said
    if said and samples is None and chosen.kind != "whole":
        why = "the number of samples" if part else "the part"
        said += f"; {why} was chosen by the files' lengths and energies"
        told = f"{said}: {chosen.options}, which may be given otherwise (part=, samples=)"
    if told:
        warnings.warn(f"{folder}: of {len(files)} files, {told}", stacklevel=2)
    counts = [len(cut.signals) for cut in cuts]
    windows = chosen.kind == "windows"
    return Recordings(
        signals=np.concatenate([cut.signals for cut in cuts]),
        labels=np.repeat([names.index(file.label) for file in files], counts),
        groups=np.repeat([file.group for file in files], counts),
        sample_rate=rate,
        class_names=names,
        normal_classes=normal,
        origins=np.array(
            [
                f"{file.name}:{row}"
                for file, cut in zip(files, cuts, strict=True)
                for row in range(len(cut.signals))
            ]
        ),
        source=f"{folder.resolve().name}: {len(files)} {_kinds(files)} files"
        f"{said and f' ({said})'}",
        units=_units(files),
        part=chosen,
        wholes=np.repeat([file.name for file in files], counts) if windows else None,
    )


def _said(files: Sequence[_File], rate: int, part: Part, cuts: Sequence[Cut]) -> str:
    """Count what was done to the files, in words; nothing where they are used as they are."""
    longer = sum(file.length(rate) > part.samples for file in files)
    steady = sum(cut.no_onset for cut in cuts)
    windows, silent = sum(len(cut.signals) for cut in cuts), sum(cut.silent for cut in cuts)
    notes = {
        "mixed down to one channel": sum(file.channels > 1 for file in files),
        f"resampled to {rate} Hz": sum(file.rate not in (rate, None) for file in files),
        f"cut to {part.words}": 0 if part.kind == "windows" else max(0, longer - steady),
        f"cut into {part.words} over the file": len(files) * (part.kind == "windows"),
        "steady without an onset, so that their loudest stretch is used": steady,
        f"padded with zeros to {part.samples} samples": sum(cut.padded for cut in cuts),
    }
    said = [f"{count} {what}" for what, count in notes.items() if count]
    if part.kind == "windows":
        said.append(f"{windows} windows in all")
    if silent:
        said.append(f"{silent} silent windows left out")
    return "; ".join(said)


def _from_subfolders(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """Find the files: name below the folder, class, group."""
    found, left, endings = {}, [], endings_text(class_endings())
    for inside in listing(folder):
        if not inside.is_dir() or inside.name.startswith("."):
            left.append(inside)
            continue
        files = listing(inside)
        known = [p for p in files if p.suffix.lower() in class_endings() and p.is_file()]
        if not known:
            raise DataError(
                inside,
                f"holds no {endings} file: {some(files)}",
                expected=LAYOUT.format(endings=endings),
                mend="move the folder elsewhere if it is not a class",
            )
        left += [path for path in files if path not in known]
        for path in known:
            name = path.relative_to(folder).as_posix()
            found[path] = (name, inside.name, name)
    if not found:
        expected = LAYOUT.format(endings=endings)
        flat = any(path.suffix.lower() in class_endings() for path in left)
        raise DataError(
            folder,
            f"holds no class folder: {some(left)}",
            expected=expected,
            mend=_NAMED if flat else "",
        )
    left_out(folder, left, f"are not {endings} files in a class's folder")
    return found


def _from_names(folder: Path, pattern: re.Pattern) -> dict[Path, tuple[str, str, str]]:
    """Find the files in the folder itself: name, class in the name, group."""
    inside, endings = listing(folder), endings_text(class_endings())
    files = [p for p in inside if p.suffix.lower() in class_endings() and p.is_file()]
    if not files:
        raise DataError(
            folder,
            f"holds no {endings} file: {some(inside)}",
            expected=f"{endings} files beside each other, since label_pattern is given",
        )
    left_out(folder, [p for p in inside if p not in files], f"are not {endings} files")
    return {
        path: (path.name, _in_name(path, pattern, "class", "label_pattern"), path.name)
        for path in files
    }


def _in_name(path: Path, pattern: re.Pattern, what: str, option: str) -> str:
    """What the expression's one group finds in a file's name."""
    match = pattern.search(path.name)
    if not match or not match[1]:
        raise DataError(
            path,
            f"the name does not contain the {what}",
            expected=f"a name in which {pattern.pattern!r} is found",
            mend=f"rename the file or give another {option}",
        )
    return match[1]


def _from_manifest(folder: Path, manifest: Path) -> dict[Path, tuple[str, str, str]]:
    """Read the files' names below the folder, classes and groups from a CSV file."""
    root, found, line = folder.resolve(), {}, 1
    if not folder.is_dir():
        raise DataError(folder, "is not there", expected="a folder")
    try:
        text = read_text(manifest, _MANIFEST_BYTES, "utf-8-sig")
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        if sorted(reader.fieldnames or []) not in (["file", "label"], ["file", "group", "label"]):
            raise DataError(
                f"{manifest}, line 1",
                f"the columns are {', '.join(reader.fieldnames or []) or 'none'}",
                expected="file,label or file,label,group, with commas between",
            )
        for row in reader:
            line = reader.line_num
            if None in row or not all(row.values()):
                raise DataError(
                    f"{manifest}, line {line}",
                    "a field is empty, missing or superfluous",
                    expected=f"{len(reader.fieldnames)} fields",
                )
            path = (root / row["file"]).resolve()
            fault = ""
            if not path.is_relative_to(root):
                fault = "lies outside the folder"
            elif not path.is_file():
                fault = "is not there"
            elif path.suffix.lower() not in class_endings():
                fault = f"does not end in {endings_text(class_endings())}"
            elif path in found:
                fault = "is listed twice"
            if fault:
                raise DataError(
                    f"{manifest}, line {line}",
                    f"the file {row['file']!r} {fault}",
                    expected=f"a file below {folder}, listed once",
                )
            name = path.relative_to(root).as_posix()
            found[path] = (name, row["label"], row.get("group", name))
    except (OSError, ValueError, RuntimeError, csv.Error) as error:  # Runtime: links in a circle
        raise DataError(
            f"{manifest}, line {line}", f"cannot be read ({error})", expected="a CSV file in UTF-8"
        ) from error
    left = [path for path in sorted(root.rglob("*")) if path.is_file() and path not in found]
    left_out(folder, [path for path in left if path != manifest.resolve()], "the manifest lacks")
    return found


def _grouped(listed: dict[Path, tuple], pattern: re.Pattern) -> dict[Path, tuple]:
    """Replace each group by the tile's name, which is found in the file's name."""
    grouped = {}
    for path, (name, label, group) in listed.items():
        if group != name:
            raise ArgumentError("The manifest has groups already, so leave out group_pattern.")
        grouped[path] = (name, label, _in_name(path, pattern, "tile", "group_pattern"))
    return grouped


def _wav_classes(names: Sequence[str], normal: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the normal classes and all classes in order: types, else normal ones first."""
    pooled = all(re.fullmatch("[A-Z0-9]{0,2}[ND]", name) for name in names)
    if normal is None:
        normal = [name for name in names if name.lower() in _NORMAL]
        normal = normal or [name for name in names if pooled and name.endswith("N")]
    normal = known_classes(normal, names)
    key = pooled_order if pooled else lambda name: (name not in normal, name)
    return normal, sorted(set(names), key=key)


def _opened(path: Path) -> tuple[int | None, int, int, np.ndarray | None]:
    """Return a file's rate in Hz, samples, channels, and its signal if it had to be read."""
    if header := READERS[path.suffix.lower()].header:
        return *header(path), None
    signals, rate = read_file(path)
    if len(signals) != 1:
        raise DataError(path, f"holds {len(signals)} recordings", expected="one in each file")
    return rate, signals.shape[1], 1, signals[0]


def _signal(file: _File, rate: int) -> np.ndarray:
    """Return a file's signal as one channel at `rate` Hz: float32 ``(samples,)``."""
    signal = read_file(file.path)[0][0] if file.signal is None else file.signal
    if file.rate not in (rate, None):
        signal = resampled(signal, file.rate, rate, file.path)
    return float32(signal)


def _kinds(files: Sequence[_File]) -> str:
    return " and ".join(sorted({file.path.suffix.lower() for file in files}))


def _units(files: Sequence[_File]) -> str:
    units = {READERS[file.path.suffix.lower()].units for file in files}
    return units.pop() if len(units) == 1 else ""


def _common_rate(files: Sequence[_File], sample_rate: int | None, resample: bool) -> int:
    told = Counter(file.rate for file in files if file.rate)
    if not (told or sample_rate):
        raise DataError(
            files[0].path,
            "does not tell its sample rate",
            mend="give it in Hz (sample_rate=…, --sample-rate)",
        )
    rate = sample_rate or told.most_common(1)[0][0]
    for file in files:
        if file.rate not in (rate, None) and not resample:
            usual = next((other for other in files if other.rate == rate), None)
            raise DataError(
                file.path,
                f"is at {file.rate} Hz",
                expected=f"{rate} Hz" + (f", as {usual.name} is" if usual else ""),
                mend="ask for resampling (resample=True, --resample)",
            )
    return rate


def _check_lengths(files: Sequence[_File], rate: int, part: Part) -> None:
    """Refuse files that are too short, and name the shortest."""
    shortest = min(files, key=lambda file: file.length(rate))
    least = shortest.length(rate)
    if part.kind == "whole" and least < part.samples and not part.pad:
        longest = max(files, key=lambda file: file.length(rate))
        raise DataError(
            shortest.path,
            f"has {least} samples and {longest.name} has {longest.length(rate)}",
            expected="files of equal length for --part whole (part='whole')",
            mend="add --pad (pad=True) for zeros at the end, or choose another part, such as "
            f"--part first --samples {least} (part='first', samples={least})",
        )
    mend = f"ask for fewer samples (--samples {least}, samples={least})"
    part.check_length(least, shortest.path, f"{mend} or for zeros at the end (--pad, pad=True)")
