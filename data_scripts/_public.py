"""Read a public data set in the folder in which it is published, with its groups."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hfld_lite.data.mat_files import mat_variable, struct_signal, windows_in_blocks
from hfld_lite.data.names import some_names
from hfld_lite.data.parts import Part
from hfld_lite.data.plausibility import cancelled_finding, collecting
from hfld_lite.data.public_sets import SETS, PublicSet, cwru_recording
from hfld_lite.data.readers import float32, listing, need_two, read_file, resampled
from hfld_lite.data.recordings import UNLABELLED, Recordings, positive
from hfld_lite.errors import ArgumentError, DataError, nearest
from hfld_lite.storage.arrays import gathered
from hfld_lite.storage.files import read_text
from hfld_lite.storage.progress import bar

LONG = {"mfpt": 48_828, "paderborn": 64_000, "cwru": 12_000}
"""Sets of long .mat recordings, which are cut into windows, and the rate in Hz that they get."""

MOST_UNREADABLE = 0.1
"""Of the files: more are not a few damaged ones."""

FOLDS = 5
"""So many groups of each class are needed for the usual split, a fifth for each of two parts."""

TABLES = ("esc50.csv", "validation_list.txt", "testing_list.txt")
"""Files that are used and are no recordings."""

LISTS = {"validation": "validation_list.txt", "testing": "testing_list.txt"}


class Entry(NamedTuple):
    """A file before it is read.

    Attributes:
        path, name: of the file, and below the folder.
        label: its class, empty if unknown.
        group: the machine, bearing, speaker or fold.
        recording: the group with --known; the same for files that hold one event.
    """

    path: Path
    name: str
    label: str
    group: str
    recording: str


class Choice(NamedTuple):
    """What the user chose; see the options."""

    machine: str | None = None
    only: str | None = None
    classes: str | None = None
    known: bool = False
    sample_rate: int | None = None
    window: int | None = None
    hop: int | None = None
    blocks: int = 20


def read_public(folder: Path, name: str, choice: Choice, progress: bool = False) -> Recordings:
    """Read a public data set.

    Args:
        folder: as it was unpacked.
        name: of SETS.
        choice: options; `sample_rate` in Hz, `window` and `hop` in samples.
        progress: show a bar.

    Raises:
        DataError: there are no such files, none has a class, or too many are damaged.
        ArgumentError: an option does not fit.
    """
    known = SETS[name]
    for option, value in choice._asdict().items():
        if option in ("sample_rate", "window", "hop", "blocks") and value is not None:
            positive(value, option)
    if name == "cwru":  # each class is one bearing
        choice = choice._replace(known=True)
    entries = _listed(folder, name, choice)
    classes = sorted({entry.label for entry in entries} - {""})
    if len(classes) != 1:  # one class is enough for a training on good parts
        need_two(classes, folder, any(not entry.label for entry in entries))
    read = _Reading(folder, name, choice, len(entries))
    signals = gathered(read.rows(bar(entries, "reading", progress=progress)))
    entries = [entry for entry, count in zip(entries, read.counts, strict=True) if count]
    counts = [count for count in read.counts if count]
    long, names = name in LONG, [entry.name for entry in entries]
    groups = _groups(entries, read.blocks, counts, name, choice)
    machine = f" ({choice.machine})" if choice.machine else ""
    return Recordings(
        signals=signals,
        labels=np.repeat(
            [classes.index(e.label) if e.label else UNLABELLED for e in entries], counts
        ),
        groups=groups,
        sample_rate=read.rate,
        class_names=classes,
        normal_classes=[label for label in known.normal if label in classes],
        origins=[
            f"{n}:{row}" for n, count in zip(names, counts, strict=True) for row in range(count)
        ],
        source=f"{'known ' * choice.known}{known.unit}s of {known.title}{machine}: {len(entries)} "
        f"files, {read.how}; published by {known.origin}; licence: {known.licence}",
        units="" if long else "full scale",
        window=(read.window, read.hop) if long else None,
        part=None if long else read.part,
        wholes=np.repeat(names, counts) if not long and read.part.kind == "windows" else None,
        notes=(*read.notes(), *_of_groups(entries, groups, counts, known, name, choice)),
    )


class _Reading:
    """Reads, resamples and cuts the files; what cannot be read is left out and named."""

    def __init__(self, folder: Path, name: str, choice: Choice, total: int) -> None:
        self.folder, self.name, self.choice, self.total = folder, name, choice, total
        self.counts: list[int] = []
        self.blocks: list[np.ndarray] = []
        self.faults: dict[str, str] = {}
        self.lower: list[str] = []
        self.rates: dict[str, set[int]] = defaultdict(set)
        self.cancelled: list[Path] = []
        self.rate = choice.sample_rate or LONG.get(name, 0)
        self.window = choice.window or (2048 if name in LONG else 0)
        self.hop = choice.hop or self.window
        self.part: Part | None = None  # of sounds, as the first file says

    @property
    def how(self) -> str:
        """What was cut, for the source."""
        if self.name not in LONG:
            return self.part.words
        return f"windows of {self.window} samples, hop {self.hop}"

    def rows(self, entries: Iterator[Entry]) -> Iterator[np.ndarray]:
        """Read the files: float32 ``(k, samples)`` of each, k in `counts`."""
        for entry in entries:
            try:
                with collecting(self.cancelled):
                    rows, blocks = self._one(entry)
            except DataError as error:
                self.faults[entry.name] = str(error)
                self._check_faults(entry)
                rows, blocks = np.empty((0, 0)), np.empty(0, int)
            self.counts.append(len(rows))
            self.blocks.append(blocks)
            if len(rows):
                yield rows
        if not any(self.counts):
            raise DataError(self.folder, "none of the files can be used", expected="some")

    def _one(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        signal, rate = _signal(entry.path, self.name)
        if not self.rate:  # of sounds, the first file's
            self.rate = rate
        self.rates[entry.label or "unlabelled"].add(rate)
        if rate < self.rate:  # what it lacks cannot be made
            self.lower.append(f"{entry.name} ({rate} Hz)")
            return np.empty((0, 0)), np.empty(0, int)
        if rate > self.rate:
            signal = resampled(signal, rate, self.rate, entry.path)
        if self.name in LONG:
            blocks = self.choice.blocks if self.choice.known else 1
            cut = windows_in_blocks(float32(signal), self.window, self.hop, blocks, entry.path)
            rows, places = cut
        else:
            if self.part is None:
                self.part = _part(self.name, self.rate, len(signal), self.window)
            rows = self.part.cut(float32(signal), self.rate, entry.path).signals
            places = np.zeros(len(rows), int)
        if not np.isfinite(rows).all():
            raise DataError(entry.path, "holds NaN or infinity")
        varied = rows.min(1) != rows.max(1)
        if not varied.any():
            raise DataError(entry.path, "is constant (silent)")
        return rows[varied], places[varied]

    def _check_faults(self, entry: Entry) -> None:
        if len(self.faults) > max(1, MOST_UNREADABLE * self.total):
            raise DataError(
                self.folder,
                f"{len(self.faults)} of {self.total} files cannot be read "
                f"({some_names(self.faults)}); {self.faults[entry.name].rstrip('.')}",
                mend="unpack the data set again",
            )

    def notes(self) -> tuple[str, ...]:
        """What was left out and what looks wrong, a sentence each."""
        said = [f"Left out, since it cannot be read: {text}" for text in self.faults.values()]
        if self.lower:
            said.append(
                f"Left out {len(self.lower)} recordings at a lower rate than {self.rate} Hz: "
                f"{some_names(self.lower)}."
            )
        said.append(cancelled_finding([path.name for path in self.cancelled], self.total))
        apart = {name: min(rates) for name, rates in self.rates.items() if len(rates) == 1}
        if len(set(apart.values())) > 1 and self.rate >= min(apart.values()):
            told = ", ".join(f"{name} at {rate} Hz" for name, rate in sorted(apart.items()))
            said.append(
                f"Classes were recorded at different rates ({told}), so that filters may tell them "
                f"apart; with --sample-rate {min(apart.values()) // 2} all are converted."
            )
        return tuple(filter(None, said))


def _signal(path: Path, name: str) -> tuple[np.ndarray, int]:
    if name == "cwru":
        variable, _, rate = cwru_recording(path)
        return mat_variable(path, variable).ravel(), rate
    if name not in LONG:
        signals, rate = read_file(path)
        return signals[0], rate
    if (found := struct_signal(path)) is None:
        expected = "a struct with vibration_1" if name == "paderborn" else "a struct with gs and sr"
        raise DataError(path, "is of another layout", expected=expected)
    return found[0][0], found[1]


def _part(name: str, rate: int, length: int, window: int) -> Part:
    """A second of a word, all of an ESC-50 clip, and windows of a second of a machine's sound."""
    if name == "speech":
        return Part("first", window or rate, pad=True)
    if name == "esc50" and not window:
        return Part("whole", length, pad=True)
    return Part("windows", window or rate)


def _listed(folder: Path, name: str, choice: Choice) -> list[Entry]:
    """Find the recordings that are wanted; say which files are left out and why."""
    listing(folder)  # says what a missing folder is
    known, found, odd = SETS[name], [], []
    _check_options(known, name, choice)
    categories = _categories(folder) if name == "esc50" else {}
    lists = _lists(folder, choice.only) if name == "speech" else {}
    _check_machine(folder, known, choice.machine)
    for path in _files(folder):
        shown = path.relative_to(folder).as_posix()
        match = known.match(f"{folder.resolve().name}/{shown}")
        parts = match.groupdict() if match else {}
        label, group = parts.get("label") or parts.get("later") or "", parts.get("group")
        part = lists.get(shown, "training") if name == "speech" else parts.get("list")
        if name == "cwru" and match:
            match = cwru_recording(path)
            label = group = match[1] if match else ""
        if categories and match:
            label, group = categories.get(path.name, ("", ""))
            match, group = label, f"fold {group}"
        if not match:
            odd += [path] * (path.name not in TABLES)
        elif choice.machine in (None, parts.get("machine")) and choice.only in (None, part):
            found.append(Entry(path, shown, label, group, _recording(shown, name)))
    _say_odd(folder, odd, known)
    if not found:
        raise DataError(
            folder, f"holds no recording of {known.title}", expected=f"files as in {known.origin}"
        )
    return _of_classes(found, choice.classes)


def _recording(shown: str, name: str) -> str:
    """What a file is a copy or a piece of."""
    stem = shown.rpartition(".")[0]
    if name == "mimii":  # published again with more or less noise, below folders of other names
        return "/".join(stem.split("/")[-4:])
    if name == "esc50":  # fold-recording-piece-class
        return "-".join(stem.split("-")[:2])
    return stem


def _say_odd(folder: Path, odd: list[Path], known: PublicSet) -> None:
    """Warn of the files that are not recordings, by name, or many of one folder by number."""
    where = defaultdict(list)
    for path in odd:
        where[path.relative_to(folder).parent.as_posix()].append(path.name)
    said = []
    for place, names in where.items():
        shown = ", ".join(names[:5]) + ", …" * (len(names) > 5)
        said.append(shown if place == "." else f"{len(names)} in {place} ({shown})")
    if said:
        warnings.warn(
            f"{folder}: left out what is not a recording of {known.title}: {'; '.join(said)}",
            stacklevel=4,
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _check_machine(folder: Path, known: PublicSet, wanted: str | None) -> None:
    """Refuse a machine type that is not there, and several without a choice."""
    if "machine" not in known.files.groupindex:
        if wanted:
            raise ArgumentError(f"{known.title} has no machine types, so leave out --machine.")
        return
    name = folder.resolve().name
    paths = (f"{name}/{path.relative_to(folder).as_posix()}" for path in _files(folder))
    found = sorted({match["machine"] for match in map(known.match, paths) if match})
    if wanted and wanted not in found:
        raise ArgumentError(f"No machine type is {wanted!r}; {nearest(wanted, found)} (--machine).")
    if len(found) > 1 and not wanted:
        raise DataError(
            folder,
            f"holds the machine types {', '.join(found)}",
            expected="one, since their normal sounds differ",
            mend=f"name one, such as --machine {found[0]}",
        )


def _check_options(known: PublicSet, name: str, choice: Choice) -> None:
    lists = {"dcase": ("train", "test"), "speech": ("training", *LISTS)}.get(name, ())
    if choice.only and choice.only not in lists:
        said = f"one of {', '.join(lists)}" if lists else "left out, as it has no lists of its own"
        raise ArgumentError(f"--only is {choice.only!r}; for {known.title} it must be {said}.")
    if choice.hop and name not in LONG:
        raise ArgumentError(f"--hop is for long .mat recordings, and {known.title} has none.")


def _categories(folder: Path) -> dict[str, tuple[str, str]]:
    """Class and fold of each clip of ESC-50, from its table."""
    table = folder / "meta" / "esc50.csv"
    if not table.is_file():
        raise DataError(folder, "lacks meta/esc50.csv", expected="ESC-50 with audio/ and meta/")
    rows = csv.DictReader(read_text(table, 1 << 24).splitlines())
    if not {"filename", "fold", "category"} <= set(rows.fieldnames or ()):
        raise DataError(table, "lacks a column", expected="filename, fold, category")
    return {row["filename"]: (row["category"], row["fold"]) for row in rows}


def _lists(folder: Path, only: str | None) -> dict[str, str]:
    """Which of the own lists of Speech Commands a file is in; the rest is for training."""
    found = {}
    for name, file in LISTS.items():
        if (folder / file).is_file():
            text = read_text(folder / file, 1 << 24)
            found |= dict.fromkeys(filter(None, map(str.strip, text.splitlines())), name)
        elif only:
            raise DataError(folder, f"lacks {file}", mend="leave out --only")
    return found


def _of_classes(entries: list[Entry], classes: str | None) -> list[Entry]:
    if not classes:
        return entries
    wanted = [name.strip() for name in classes.split(",")]
    there = sorted({entry.label for entry in entries})
    for name in wanted:
        if name not in there:
            raise ArgumentError(f"No class is {name!r}; {nearest(name, there)} (--classes).")
    return [entry for entry in entries if entry.label in wanted]


def _groups(
    entries: list[Entry], blocks: list[np.ndarray], counts: list[int], name: str, choice: Choice
) -> np.ndarray:
    """The group of each row; with --known, the recording or the block of time."""
    groups = np.repeat([entry.group for entry in entries], counts)
    if not choice.known:
        return groups
    names = np.repeat([entry.recording for entry in entries], counts)
    if name not in LONG:
        return names
    places = np.concatenate([block for block in blocks if len(block)])
    return np.array([f"{n}/block{place:02d}" for n, place in zip(names, places, strict=True)])


def _of_groups(
    entries: list[Entry],
    groups: np.ndarray,
    counts: list[int],
    known: PublicSet,
    name: str,
    choice: Choice,
) -> Iterator[str]:
    """Sentences about classes that one machine, bearing or recording has made alone."""
    alone = defaultdict(set)
    for entry in entries:
        alone[entry.label].add(entry.group)
    one = [
        f"{label or 'unlabelled'} ({next(iter(made))})"
        for label, made in sorted(alone.items())
        if len(made) == 1
    ]
    if name == "cwru":
        yield (
            "Each class is one bearing, the same in all its files and at all loads, so that what "
            f"networks learn is to tell known bearings: {', '.join(sorted(alone))}."
        )
    elif name == "mfpt":
        yield (
            "The data set names no bearings; each class seems to be one bearing, so that what "
            "networks learn may be to tell known bearings."
        )
    elif choice.known:
        yield (
            f"Each {known.unit} may be in all parts of a split (--known), so that what networks "
            f"learn is to tell known {known.unit}s."
        )
    elif one and len(one) == len(alone):
        yield f"Each class is one {known.unit} alone: {', '.join(one)}."
    labels = np.repeat([entry.label for entry in entries], counts)
    few = {label: len(set(groups[labels == label])) for label in sorted(alone) if label}
    least = min(few, key=few.__getitem__)
    if few[least] < FOLDS:
        many = few[least]
        bigger = f", or give a recipe whose validation and test are 1/{many} each" * (many > 2)
        yield (
            f"The class {least} has {many} {known.unit}{'s' * (many > 1)}, and the usual split of "
            f"hfld train needs {FOLDS} groups of each class: prepare it with --known{bigger}."
        )
