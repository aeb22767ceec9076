"""Recordings: signals with labels, groups and origins; checked, saved and loaded.

`hfld_lite.data.readers` reads them from foreign files (.mat, WAV, FLAC), and
`hfld_lite.data.splits` divides them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import InitVar, asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from hfld_lite.data import plausibility, prepared
from hfld_lite.data.names import refuse_twins, tidied, tidy
from hfld_lite.data.parts import Part
from hfld_lite.errors import ArgumentError, DataError, HfldError, nearest
from hfld_lite.storage.arrays import Chosen, choose, pieces
from hfld_lite.storage.files import bytes_digest

UNLABELLED = -1
"""The label of a recording whose class is not known."""


@dataclass(frozen=True, eq=False, repr=False)
class Recordings:
    """Signals of equal length, with what is needed to train on them and to split them honestly.

    Args:
        signals: float32 ``(n, samples)``, in memory or memory-mapped.
        labels: int64 ``(n,)``, indices into `class_names`, or −1 (UNLABELLED) where the class is
            not known: networks may be distilled on such a recording, and nothing is measured on it.
        groups: str ``(n,)``, names the physical tile: a split keeps each group in one part.
        sample_rate: in Hz.
        class_names: one or more; networks learn to tell two or more apart.
        normal_classes: the classes that count as sound; empty: no misses and no false alarms.
        origins: str ``(n,)``, ``"file:row"`` with rows counted from 0; errors name them.
            ``"recording:<i>"`` where not given.
        source: one line that describes the recordings.
        units: of the signals, ``""`` where unknown.
        simulated: whether a program made the signals.
        window: ``(window, hop)`` in samples where long recordings were cut.
        part: which part of each file these are, where that is known; others are cut alike.
        wholes: str ``(n,)``, where each row is a window whose answers are averaged: the name of
            the recording that it is cut from, which has one class and one group.
        notes: what looked wrong while they were read, a sentence each; see `findings`.
        kinds: str ``(n,)``, where several classes were made one: the class that each had before;
            see :func:`hfld_lite.data.good_parts.as_good`. Not saved.
        checked: the signals were checked before; skip the check.

    Raises:
        DataError: a field does not fit, or a signal is constant, infinite or not a number.
    """

    signals: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sample_rate: int
    class_names: tuple[str, ...]
    normal_classes: tuple[str, ...] = ()
    origins: np.ndarray | None = None
    source: str = ""
    units: str = ""
    simulated: bool = False
    window: tuple[int, int] | None = None
    part: Part | None = None
    wholes: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    kinds: np.ndarray | None = None
    checked: InitVar[bool] = False

    def __post_init__(self, checked: bool) -> None:
        signals = _signals(self.signals)
        if len(signals) == 0 and not checked:
            raise DataError("recordings", "there are none", expected="one or more")
        origins = self.origins
        if origins is None:
            origins = [f"recording:{row}" for row in range(len(signals))]
        names, normal = _classes(self.class_names, self.normal_classes)
        window = self.window
        if window is not None:
            window, hop = window if len(window) == 2 else (window, None)
            window = (positive(window, "window"), positive(hop, "the hop of window"))
        fields = {
            "signals": signals,
            "origins": _strings(origins, len(signals), "origins"),
            "groups": _strings(self.groups, len(signals), "groups", tidied),
            "sample_rate": positive(self.sample_rate, "sample_rate"),
            "class_names": names,
            "normal_classes": normal,
            "window": window,
            "notes": tuple(self.notes),
        }
        if self.part is not None and self.part.samples != signals.shape[1]:
            fields["part"] = None  # the signals were changed since they were cut
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "labels", self._checked_labels())
        if self.wholes is not None:
            object.__setattr__(self, "wholes", self._checked_wholes())
        if not checked:
            if not self.counts.any():
                raise DataError(
                    "recordings",
                    f"none of the {len(self)} has a label",
                    expected="labelled recordings of each class beside those of an unknown one",
                )
            self._check_names()
            self._check_signals()

    def _check_names(self) -> None:
        """Refuse classes that look alike, and groups that do and are not just the file's name."""
        how = "merge them with hfld_lite.data.names.merged"
        counts = self.counts
        refuse_twins("recordings", dict(zip(self.class_names, counts, strict=True)), "class", how)
        names, first, counts = np.unique(self.groups, return_index=True, return_counts=True)
        origins = self.origins[first].tolist()
        given = {
            name: count
            for name, origin, count in zip(names.tolist(), origins, counts, strict=True)
            if name not in (origin, origin.rpartition(":")[0])
        }
        refuse_twins("recordings", given, "group", how)

    def _checked_labels(self) -> np.ndarray:
        labels, classes = np.asarray(self.labels), len(self.class_names)
        if labels.dtype.kind not in "iu" or labels.shape != (len(self),):
            raise DataError(
                "recordings",
                f"labels have type {labels.dtype} and shape {labels.shape}",
                expected=f"{len(self)} integers, each the index of a class in class_names",
                mend="give signals.T, where the recordings are the columns"
                if labels.shape == (self.samples,)
                else "",
            )
        labels = labels.astype(np.int64, copy=False)
        outside = np.flatnonzero((labels < UNLABELLED) | (labels >= classes))
        if outside.size:
            raise DataError(
                place(self.origins[outside[0]]),
                f"the label is {labels[outside[0]]}",
                expected=f"0 to {classes - 1}, as there are {classes} classes, or {UNLABELLED} "
                "where the class is not known",
            )
        return labels

    def _checked_wholes(self) -> np.ndarray:
        wholes = _strings(self.wholes, len(self), "wholes")
        _, first, codes = np.unique(wholes, return_index=True, return_inverse=True)
        for values, what in ((self.groups, "group"), (self.labels, "class")):
            if (other := np.flatnonzero(values != values[first][codes])).size:
                row, name = other[0], str(wholes[other[0]])
                raise DataError(
                    place(self.origins[row]),
                    f"this window of {name!r} has another {what} than the first one",
                    expected=f"one {what} for all windows of a recording",
                )
        return wholes

    def _check_signals(self) -> None:
        """Name the first recording that is not finite, else the first that is constant."""
        ranges = []
        with np.errstate(invalid="ignore"):
            for part in pieces(self.signals):
                ranges.append((part.min(axis=1), part.max(axis=1)))
        low, high = (np.concatenate(ends) for ends in zip(*ranges, strict=True))
        for bad in (~(np.isfinite(low) & np.isfinite(high)), low == high):
            rows = np.flatnonzero(bad)
            if not rows.size:
                continue
            signal = np.asarray(self.signals[rows[0]])
            infinite = np.flatnonzero(~np.isfinite(signal))
            found = f"the recording is constant (silent), {signal[0]:g} in every sample"
            if infinite.size:
                found = f"sample {infinite[0]} is {signal[infinite[0]]} (NaN or infinity)"
            others = f", and {rows.size - 1} other recordings are like it" if rows.size > 1 else ""
            raise DataError(
                place(self.origins[rows[0]]),
                found + others,
                expected="finite float32 values" if infinite.size else "a signal that varies",
                mend="remove the recording or record it again",
            )

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def counts(self) -> np.ndarray:
        """Recordings of each class, ``(classes,)``; those without a label are not counted."""
        return np.bincount(self.labels[self.labels != UNLABELLED], minlength=len(self.class_names))

    @property
    def samples(self) -> int:
        """Samples in each recording."""
        return self.signals.shape[1]

    def select(self, indices: Sequence[int] | np.ndarray | slice) -> Recordings:
        """Return the recordings at `indices` (integers, a mask or a slice), in that order.

        A slice shares the signals. Anything else copies them, but many of a memory map (LAZY in
        `hfld_lite.storage.arrays`) stay there and are read when they are asked for.

        Raises:
            ArgumentError: an index lies outside, or is not one.
        """
        if not isinstance(indices, slice):
            indices = indices_of(indices, "indices", len(self))
        return replace(
            self,
            signals=choose(self.signals, indices),
            labels=self.labels[indices],
            groups=self.groups[indices],
            origins=self.origins[indices],
            wholes=None if self.wholes is None else self.wholes[indices],
            kinds=None if self.kinds is None else self.kinds[indices],
            checked=True,
        )

    def fingerprint(self) -> str:
        """SHA-256 of signals, labels and groups, to recognise the data of a training."""

        def parts() -> Iterator[bytes]:
            for array in (self.signals, self.labels, self.groups):
                for piece in pieces(array):
                    yield np.ascontiguousarray(piece)

        return bytes_digest(parts())

    def digests(self) -> list[str]:
        """The first 16 digits of each signal's SHA-256, to recognise it among others."""
        return digests(self.signals)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What looks wrong in them, a sentence each; see `hfld_lite.data.plausibility`."""
        return (*self.notes, *(plausibility.findings(self) if len(self) else ()))

    def summary(self) -> str:
        """Return four lines, source, counts and seconds, classes, groups, and what looks wrong."""
        seconds = self.samples / self.sample_rate
        units = f", in {self.units}" if self.units else ""
        classes = [
            f"{name} {count}{' (normal)' if name in self.normal_classes else ''}"
            for name, count in zip(self.class_names, self.counts, strict=True)
        ]
        if rest := int(np.sum(self.labels == UNLABELLED)):
            classes.append(f"unlabelled {rest}")
        names, codes = np.unique(self.groups, return_inverse=True)
        known = np.stack([codes, self.labels])[:, self.labels != UNLABELLED]
        classes_of = np.bincount(np.unique(known, axis=1)[0])
        groups = f"groups: {len(names)}"
        number = len(self) if self.wholes is None else len(np.unique(self.wholes))
        many = f"{len(self)} recordings"
        if self.wholes is not None:
            many = f"{len(self)} windows, cut from {number} recordings,"
        if len(names) == number:
            groups += ", each recording its own"
        elif mixed := np.sum(classes_of > 1):
            groups += f", {mixed} of them in more than one class"
        return "\n".join(
            (
                self.source or "recordings without a named source",
                f"{many} of {self.samples} samples at {self.sample_rate} Hz "
                f"({seconds:.4g} s each, {seconds * len(self):.4g} s in all{units})",
                f"classes: {', '.join(classes)}",
                groups,
                *(f"note: {finding}" for finding in self.findings),
            )
        )

    __str__ = summary

    def __repr__(self) -> str:
        return f"<{len(self)} recordings of {self.samples} samples: {', '.join(self.class_names)}>"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a prepared folder (.npy files and a manifest), completely or not at all.

        Args:
            folder: new or empty; one that holds recordings is replaced if `overwrite`.
            overwrite: see `folder`; a folder that holds anything else is never replaced.

        Returns:
            The folder's absolute path.

        Raises:
            DataError: the folder cannot be written, or there is something in it.
        """
        if len(self) == 0:
            raise DataError(folder, "there is no recording to save", expected="one or more")
        arrays = {
            name: getattr(self, name.removesuffix(".npy"))
            for name in prepared.ARRAYS
            if name != prepared.WHOLES or self.wholes is not None
        }
        facts = {
            "source": str(self.source),
            "simulated": bool(self.simulated),
            "count": len(self),
            "samples": self.samples,
            "sample_rate": self.sample_rate,
            "units": str(self.units),
            "window": self.window,
            "classes": self.class_names,
            "normal_classes": self.normal_classes,
            **({} if self.part is None else {"part": asdict(self.part)}),
            **({"notes": self.notes} if self.notes else {}),
        }
        return prepared.write(folder, arrays, facts, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> Recordings:
        """Read a prepared folder; the signals stay on disk (a read-only memory map).

        Args:
            folder: as written by `save`.
            verify: compare each file with its checksum; without it the signals are not read at
                all, and their content is trusted.

        Raises:
            DataError: a file is missing, damaged, or not what the manifest says.
        """
        arrays, facts = prepared.read(folder, verify=verify)
        try:
            read = cls(
                signals=arrays["signals.npy"],
                labels=np.array(arrays["labels.npy"]),
                groups=np.array(arrays["groups.npy"]),
                origins=np.array(arrays["origins.npy"]),
                class_names=facts["classes"],
                part=facts["part"],
                wholes=np.array(arrays[prepared.WHOLES]) if prepared.WHOLES in arrays else None,
                **{key: facts[key] for key in ("sample_rate", "normal_classes", "window")},
                **{key: facts[key] for key in ("source", "units", "simulated", "notes")},
                checked=True,
            )
            read._check_names()
            return read
        except HfldError as error:  # the folder is at fault, so it comes first in the message
            raise DataError(folder, str(error).rstrip("."), mend="prepare it again") from error


Known = TypeVar("Known", bound="Recordings")  # or Examples, which are made of them


def labelled(data: Known, rows: np.ndarray | None = None) -> np.ndarray:
    """Those of the rows, by default of all, that have a label."""
    rows = np.arange(len(data.labels)) if rows is None else rows
    return rows[data.labels[rows] != UNLABELLED]


def measurable(data: Known) -> Known:
    """Recordings or examples without those that have no label; a warning counts these.

    Raises:
        DataError: if none has a label.
    """
    rows = labelled(data)
    if len(rows) == len(data):
        return data
    where, rest = data.source or "recordings", len(data) - len(rows)
    if not len(rows):
        raise DataError(where, f"all {rest} recordings are unlabelled", expected="labelled ones")
    warnings.warn(
        f"{where}: {rest} of {len(data)} recordings are unlabelled; these are left out, and "
        f"{len(rows)} are measured.",
        stacklevel=3,
    )
    return data.select(rows)


def digests(signals: np.ndarray) -> list[str]:
    """The first 16 digits of each signal's SHA-256, of ``(n, samples)``."""
    return [
        bytes_digest([np.ascontiguousarray(signal)])[:16]
        for piece in pieces(signals)
        for signal in piece
    ]


def place(origin: str) -> str:
    """Phrase an origin, ``"AN.mat:3"``, as file and row."""
    file, _, row = origin.rpartition(":")
    return f"{file}, row {row} (counted from 0)"


def _signals(values: np.ndarray) -> np.ndarray:
    try:
        signals = values if isinstance(values, np.memmap | Chosen) else np.asarray(values)
    except ValueError as error:
        raise DataError(
            "recordings", "the signals differ in length", mend="cut or pad them"
        ) from error
    if signals.ndim != 2 or signals.dtype.kind not in "fiu" or signals.shape[1] < 2:
        raise DataError(
            "recordings",
            f"signals have shape {signals.shape} and type {signals.dtype}",
            expected="real numbers of shape (recordings, samples), 2 samples or more",
        )
    if signals.dtype == np.float32:
        return signals
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused as such
        return signals.astype(np.float32, copy=False)


def _classes(
    names: Iterable[str], normal: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(names, str) or isinstance(normal, str):
        raise DataError("recordings", "class names are one string", expected="a tuple of strings")
    names, normal = tuple(names), tuple(normal)
    if all(isinstance(name, str) for name in names + normal):
        names, normal = tuple(map(tidy, names)), tuple(map(tidy, normal))
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(
            "recordings", f"class names are {names}", expected="strings that are not empty"
        )
    if len(set(names)) < len(names):
        raise DataError("recordings", f"a class is named twice in {', '.join(names)}")
    if not names:
        raise DataError("recordings", "there is no class", expected="one or more")
    for name in normal:
        if name not in names:
            raise DataError(
                "recordings",
                f"the normal class {name!r} is not a class",
                mend=nearest(name, names),
            )
    if len(set(normal)) == len(names) > 1:
        raise DataError("recordings", "every class is a normal one", expected="a defective one too")
    return names, normal


def _strings(
    values: Sequence[str], count: int, name: str, change: Callable | None = None
) -> np.ndarray:
    array = np.asarray(values)
    objects = array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat)
    if objects or array.dtype.kind in "iuT" or array.size == 0:
        array = array.astype(str)
    if change and array.dtype.kind == "U" and array.ndim == 1:
        array = change(array)
    if array.dtype.kind != "U" or array.shape != (count,) or (array == "").any():
        raise DataError(
            "recordings",
            f"{name} have type {array.dtype} and shape {array.shape}",
            expected=f"{count} strings, none of them empty",
        )
    return array


def positive(value: int, name: str) -> int:
    """Return `value` if it is a whole number above 0, else raise an ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(f"{name} is {value!r}; give a whole number above 0.")
    return int(value)


def indices_of(
    values: Sequence[int] | np.ndarray, name: str, count: int | None = None
) -> np.ndarray:
    """Check integers (with `count`: that they lie below it; a mask of that length will do)."""
    array = np.asarray(values)
    if count is not None and array.dtype == bool and array.shape == (count,):
        return np.flatnonzero(array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ArgumentError(
            f"The {name} are {array.dtype} of shape {array.shape}; give a list of whole numbers."
        )
    array = array.astype(np.int64)
    if count is not None and array.size and not 0 <= array.min() <= array.max() < count:
        raise ArgumentError(
            f"The {name} run from {array.min()} to {array.max()}; there are 0 to {count - 1}."
        )
    return array
