"""Recordings from folders with a subfolder for each class, one recording a file."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hfld_lite.data.manifests import manifest_in, read_manifest
from hfld_lite.data.names import no_label, one_spelling, tidy
from hfld_lite.data.parts import Cut, Part, choose_part
from hfld_lite.data.plausibility import cancelled_finding, collecting, reading_findings
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.readers import (
    READERS,
    class_endings,
    endings_text,
    expression,
    float32,
    known_classes,
    label_of,
    layout,
    left_out,
    listing,
    need_two,
    of_format,
    of_people,
    pooled_order,
    read_file,
    resampled,
    some,
)
from hfld_lite.data.recordings import Recordings, positive
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.arrays import gathered
from hfld_lite.storage.progress import bar

_NORMAL = {"n", "normal", "ok", "good", "sound", "intact"}


LAYOUT = (
    "one subfolder of {endings} files per class (unlabelled/ for recordings of an unknown class), "
    "or a manifest.csv"
)
_NAMED = "where the files' names contain the class, give --label-pattern (label_pattern=)"


class _File(NamedTuple):
    """A file: its name below the folder, its class, its group, and what is known before reading."""

    path: Path
    name: str
    label: str
    """Empty where the class is not known."""
    group: str
    rate: int | None
    samples: int
    channels: int
    signal: np.ndarray | None
    """Read already, where the format has no header that tells the rate."""
    note: str = ""

    def length(self, rate: int) -> int:
        """Samples at `rate` Hz."""
        return -(-self.samples * rate // (self.rate or rate))


def _is_here(inside: list[Path]) -> bool:
    if manifest_in(inside):
        return True
    below = [path for folder in inside if folder.is_dir() for path in of_people(listing(folder))]
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
    merge_names: bool = False,
    one_class: bool = False,
    progress: bool = False,
) -> Recordings:
    """Read a folder of WAV or FLAC files, or others that a `reader` is registered for.

    Each file holds one recording. The classes are the subfolders, or they are given by a manifest,
    a CSV file with the columns ``file`` (path below `folder`), ``label`` (class name) and, if
    wanted, ``group`` (physical tile), or by the files' names. Several channels of a sound are
    averaged into one. The files may differ in length: a part of each is used. Blanks around names
    and Unicode's forms make no difference.

    Where the class of a recording is not known, its label in the manifest is empty or -1, or it is
    in the subfolder ``unlabelled`` (or ``unlabeled``) beside those of the classes.

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
        merge_names: give names of classes, and of groups, that look alike (Good and good, 7 and
            7.0) the commonest spelling of them, instead of refusing them.
        one_class: accept a single class.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout, or damaged, or too short for the part; or two
            names look alike.
        ArgumentError: an argument is wrong.
    """
    folder = Path(folder)
    if samples is not None or part is not None:
        Part(part or "first", 1 if samples is None else samples, pad)  # raises what is wrong
    if sample_rate is not None:
        positive(sample_rate, "sample_rate")
    if manifest is None and folder.is_dir():
        manifest = manifest_in(listing(folder))
    if manifest and label_pattern is not None:
        raise ArgumentError("The manifest has the classes already, so leave out label_pattern.")
    if label_pattern is not None:
        listed = _from_names(folder, expression(label_pattern, "label_pattern"))
    else:
        listed = read_manifest(folder, Path(manifest)) if manifest else _from_subfolders(folder)
    if group_pattern is not None:
        listed = _grouped(listed, expression(group_pattern, "group_pattern"))
    listed = _spelled(listed, manifest or folder, merge_names)
    labels = {label for _, label, _ in listed.values()}
    names = sorted(labels - {""})
    if not (one_class and names):
        need_two(names, folder, "" in labels)
    normal, names = _wav_classes(names, normal)
    files = [_File(path, *entry, *_opened(path)) for path, entry in listed.items()]
    rate = _common_rate(files, sample_rate, resample)
    shown = bar(files, "reading", progress=progress)
    cancelled: list[Path] = []
    if samples is None:
        read = [_signal(file, rate, cancelled) for file in shown]
        chosen = choose_part(read, rate, kind=part, pad=pad)
        _check_lengths(files, rate, chosen)
        signals = (read.pop(0) for _ in files)  # each is given back as soon as it is cut
    else:  # only the parts are kept in memory
        chosen = Part(part or "first", samples, pad)
        _check_lengths(files, rate, chosen)
        signals = (_signal(file, rate, cancelled) for file in shown)
    cuts: list[Cut] = []

    def taken() -> Iterator[np.ndarray]:
        for x, file in zip(signals, files, strict=True):
            cut = chosen.cut(x, rate, file.path)
            cuts.append(cut._replace(signals=np.empty((len(cut.signals), 0))))  # for their number
            yield cut.signals

    taken_signals = gathered(taken())
    said = _said(files, rate, chosen, cuts)
    told = said
    if said and samples is None and chosen.kind != "whole":
        why = "the number of samples" if part else "the part"
        said += f"; {why} was chosen by the files' lengths and energies"
        told = f"{said}: {chosen.options}, which may be given otherwise (part=, samples=)"
    if told:
        warnings.warn(f"{folder}: of {len(files)} files, {told}", stacklevel=2)
    counts = [len(cut.signals) for cut in cuts]
    notes = reading_findings(
        [file.length(rate) for file in files],
        [count * chosen.samples for count in counts],
        [label_of(file.label, names) for file in files],
        [file.group for file in files],
        names,
        chosen.kind,
    )
    named = [file.name for file in files if file.path in set(cancelled)]
    notes += (cancelled_finding(named, len(files)),) * bool(named)
    windows = chosen.kind == "windows"
    return Recordings(
        signals=taken_signals,
        labels=np.repeat([label_of(file.label, names) for file in files], counts),
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
        notes=notes,
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
        **Counter(file.note for file in files if file.note),
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
        if not inside.is_dir() or not of_people([inside]):
            left.append(inside)
            continue
        files = listing(inside)
        known = of_format(files, class_endings())
        if not known:
            raise DataError(
                inside,
                f"holds no {endings} file: {some(files)}",
                expected=LAYOUT.format(endings=endings),
                mend="move the folder elsewhere if it is not a class",
            )
        left += sorted({*files} - {*known})
        for path in known:
            name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            found[path] = (name, inside.name, name)
    if not found:
        expected = LAYOUT.format(endings=endings)
        flat = of_format(left, class_endings())
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
    files = of_format(inside, class_endings())
    if not files:
        raise DataError(
            folder,
            f"holds no {endings} file: {some(inside)}",
            expected=f"{endings} files beside each other, since label_pattern is given",
        )
    left_out(folder, sorted({*inside} - {*files}), f"are not {endings} files")
    names = {path: unicodedata.normalize("NFC", path.name) for path in files}
    return {
        path: (name, _in_name(path, pattern, "class", "label_pattern"), name)
        for path, name in names.items()
    }


def _in_name(path: Path, pattern: re.Pattern, what: str, option: str) -> str:
    """What the expression's one group finds in a file's name."""
    match = pattern.search(unicodedata.normalize("NFC", path.name))
    if not match or not tidy(match[1] or ""):
        raise DataError(
            path,
            f"the name does not contain the {what}",
            expected=f"a name in which {pattern.pattern!r} is found",
            mend=f"rename the file or give another {option}",
        )
    return match[1]


def _grouped(listed: dict[Path, tuple], pattern: re.Pattern) -> dict[Path, tuple]:
    """Replace each group by the tile's name, which is found in the file's name."""
    grouped = {}
    for path, (name, label, group) in listed.items():
        if group != name:
            raise ArgumentError("The manifest has groups already, so leave out group_pattern.")
        grouped[path] = (name, label, _in_name(path, pattern, "tile", "group_pattern"))
    return grouped


def _spelled(
    listed: dict[Path, tuple[str, str, str]], where: object, merge: bool
) -> dict[Path, tuple[str, str, str]]:
    """Give each class and each group one spelling; refuse files whose names are equal then."""
    count = Counter(name for name, _, _ in listed.values())
    for path, (name, _, _) in listed.items():
        if count[name] > 1:
            raise DataError(
                path,
                f"{count[name]} files have names that differ only in Unicode's form",
                expected="one of them",
                mend="compare them, and move the others elsewhere or rename them",
            )
    written = [label for _, label, _ in listed.values()]
    unknown = {label for label in written if no_label(label)}
    _check_negative(where, written)
    known = [label for label in written if label not in unknown]
    labels = one_spelling(where, known, "class", merge)
    labels |= dict.fromkeys(unknown, "")
    given = [group for name, _, group in listed.values() if group != name]
    groups = one_spelling(where, given, "group", merge)  # names of files remain as they are
    return {
        path: (name, labels[label], name if group == name else groups[group])
        for path, (name, label, group) in listed.items()
    }


def _check_negative(where: object, labels: Sequence[str]) -> None:
    """Refuse other negative numbers beside -1, which might be a number like them."""
    numbers = {tidy(label) for label in labels}
    others = sorted(n for n in numbers if re.fullmatch(r"-[0-9.]+", n) and not no_label(n))
    if others and any(re.fullmatch(r"-1(\.0+)?", n) for n in numbers):
        raise DataError(
            where,
            f"there are the labels -1 and {others[0]}",
            expected="-1 as the only negative label: it means that the class is not known",
            mend="name the classes otherwise, or leave the label empty where it is not known",
        )


def _wav_classes(names: Sequence[str], normal: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the normal classes and all classes in order: types, else normal ones first."""
    pooled = all(re.fullmatch("[A-Z0-9]{0,2}[ND]", name) for name in names)
    if normal is None:
        normal = [name for name in names if name.lower() in _NORMAL]
        normal = normal or [name for name in names if pooled and name.endswith("N")]
    normal = known_classes(normal, names)
    key = pooled_order if pooled else lambda name: (name not in normal, name)
    return normal, sorted(set(names), key=key)


def _opened(path: Path) -> tuple:
    """Return what `_File` has after the group."""
    if header := READERS[path.suffix.lower()].header:
        rate, samples, channels, *note = header(path)
        return rate, samples, channels, None, *note
    signals, rate = read_file(path)
    if len(signals) != 1:
        raise DataError(path, f"holds {len(signals)} recordings", expected="one in each file")
    return rate, signals.shape[1], 1, signals[0]


def _signal(file: _File, rate: int, cancelled: list[Path]) -> np.ndarray:
    """Return a file's signal as one channel at `rate` Hz: float32 ``(samples,)``.

    A file whose channels cancel in that is put into `cancelled`.
    """
    with collecting(cancelled):
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
