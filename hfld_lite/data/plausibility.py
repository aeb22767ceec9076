"""What looks wrong in recordings that can be read, each finding in a sentence with a count.

`findings` looks at all recordings once, a few at a time. None of it ends a run; `split` keeps equal
recordings in one part (`hfld_lite.data.splits`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hfld_lite.data.names import some_names
from hfld_lite.storage.arrays import let_go, pieces

if TYPE_CHECKING:
    from hfld_lite.data.recordings import Recordings

CLIPPED_RUN = 3
"""A clipped recording stays at its lowest or highest value for so many samples at least."""

OFFSET = 5.0
"""A mean of so many times the RMS of the rest is a constant offset."""

SILENT = 1e-3
"""A recording of so small a part of the median RMS (−60 dB) is nearly silent."""

CANCEL = 0.25
"""Channels cancel if the RMS of their mean is below so small a part of theirs."""

SEPARATED = 0.95
"""Level or length alone tells classes apart if one threshold has such a balanced accuracy,"""

LEAST_RECORDINGS, LEAST_GROUPS = 8, 5
"""where each class has so many recordings and groups: few are apart by chance."""

IMBALANCE = 100

_USED = {"onset": 0.02}
_LEAST_USED = 0.1
_LEVELS, _JUMP = 100, 4  # see _flat
_KEY = 16  # samples by which recordings that may be equal are found
_CHUNK = 1 << 17  # values looked at together, 1 MiB: they stay in the processor's cache


class _Levels(NamedTuple):
    """Of each recording: mean, RMS of the rest, and whether it is clipped, ``(n,)``."""

    mean: np.ndarray
    rms: np.ndarray
    clipped: np.ndarray


def findings(recordings: Recordings) -> tuple[str, ...]:
    """What looks wrong, a sentence each; usually nothing.

    The signals are read once, in pieces of about 1 MiB.
    """
    found = _levels(recordings.signals)
    silent = found.rms <= np.maximum(SILENT * np.median(found.rms), 1e-6 * np.abs(found.mean))
    loud = np.where(silent, np.inf, found.rms)
    offset = (np.abs(found.mean) > OFFSET * loud) & (recordings.samples >= _KEY)
    said = [
        _said(
            recordings,
            offset,
            ("has", "have"),
            "a constant offset",
            f"the mean is up to {(np.abs(found.mean) / loud).max():.3g} times the RMS of the "
            "rest; the mean is removed before networks read them (not in the spectrum of the "
            "released code)",
        ),
        _said(
            recordings,
            found.clipped,
            ("is", "are"),
            "clipped",
            "the signal stays at its lowest or highest value for several samples; record with a "
            "lower gain",
        ),
        _said(
            recordings,
            silent,
            ("is", "are"),
            "nearly silent",
            "the RMS is 60 dB or more below the median; check the microphone",
        ),
        *_equal(recordings),
        _imbalance(recordings),
        _level_tells(recordings, found.rms),
        _other_way_round(recordings),
    ]
    return tuple(filter(None, said))


def reading_findings(
    lengths: Sequence[int],
    used: Sequence[int],
    labels: Sequence[int],
    groups: Sequence[str],
    class_names: Sequence[str],
    kind: str = "first",
) -> tuple[str, ...]:
    """What only the reader knows: how long files were, and how much of them is used.

    Args:
        lengths: samples of each file or row, before it was cut.
        used: samples of it that are used.
        labels, groups: its class and its group.
        class_names: of all classes.
        kind: of the part; see `hfld_lite.data.parts.Part`. The rest of a file beyond an onset is
            usually quiet, so that less of it may be used.
    """
    lengths, said = np.asarray(lengths, float), []
    share = np.sum(used) / max(lengths.sum(), 1)
    if share < _USED.get(kind, _LEAST_USED):
        said.append(
            f"Only {100 * share:.2g} % of the samples are used, {int(np.max(used))} of "
            f"{int(np.median(lengths))} in the median recording; ask for more (--samples), or for "
            "windows over all of it (--part windows)."
        )
    found = separations(lengths, labels, groups, len(class_names))
    if found:
        said.append(
            f"The length alone tells {_border(found, class_names, '{:.0f} samples')}; networks "
            "read equally many samples of each, but check that the classes were recorded and cut "
            "in the same way."
        )
    return tuple(said)


_collected: ContextVar[list[Path] | None] = ContextVar("_collected", default=None)


@contextmanager
def collecting(cancelled: list[Path]) -> Iterator[None]:
    """Put files whose channels cancel into a list, instead of a warning for each."""
    token = _collected.set(cancelled)
    try:
        yield
    finally:
        _collected.reset(token)


def mixed(channels: np.ndarray, path: Path) -> np.ndarray:
    """The mean ``(samples,)`` of a file's channels ``(samples, k)``; said if they cancel."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    mean = channels.mean(axis=1)
    if cancels(channels, mean):
        if (found := _collected.get()) is not None:
            found.append(path)
        else:
            warnings.warn(cancelled_finding([str(path)], 1), stacklevel=2)
    return mean


def cancelled_finding(names: Sequence[str], count: int) -> str:
    """A sentence about files whose channels cancel when they are averaged; empty if none do."""
    if not names:
        return ""
    return (
        f"The channels of {len(names)} of {count} files cancel when they are averaged, as one is "
        f"about the negative of another ({some_names(names)}); keep one channel of each of these "
        "files (sox in.wav out.wav remix 1)."
    )


def cancels(channels: np.ndarray, mixed: np.ndarray) -> bool:
    """Whether channels ``(samples, k)`` cancel in their mean ``(samples,)``; DC does not count."""
    before, after = channels - channels.mean(0), mixed - mixed.mean()
    power = np.vecdot(before, before, axis=0).max()
    return bool(np.vecdot(after, after) < CANCEL**2 * power)


def equal_rows(signals: np.ndarray) -> list[np.ndarray]:
    """The rows of ``(n, samples)`` that equal others sample for sample, an array for each set.

    Constant rows are left out. A few samples of each row say which ones are compared whole.
    """
    middle = max(0, (signals.shape[1] - _KEY) // 2)
    cut = (piece[:, middle : middle + _KEY] for piece in pieces(signals))
    keys = np.fromiter((hash(key.tobytes()) for piece in cut for key in piece), int, len(signals))
    _, codes, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sets: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(counts[codes] > 1):
        signal = np.ascontiguousarray(signals[row])
        if signal.min() != signal.max():
            sets.setdefault(hashlib.sha256(signal).digest(), []).append(int(row))
        let_go(signals)
    return [np.array(rows) for rows in sets.values() if len(rows) > 1]


def longest_run(signals: np.ndarray) -> np.ndarray:
    """Longest run of samples at the recording's lowest or highest value, ``(n,)``."""
    if len(signals) > (rows := max(1, _CHUNK // signals.shape[1])):
        return np.concatenate([longest_run(piece) for piece in pieces(signals, rows)])
    signals = np.asarray(signals)
    low, high = signals.min(1, keepdims=True), signals.max(1, keepdims=True)
    extreme = run = (signals == low) | (signals == high)
    longest = np.zeros(len(signals), int)
    while run.size and run.any():  # runs are short: one pass for each sample of the longest
        length = longest.max() + 1
        longest[run.any(1)] = length
        run = run[:, :-1] & extreme[:, length:]
    return longest


def separations(
    values: np.ndarray, labels: Sequence[int], groups: Sequence[str], classes: int
) -> list[tuple[list[int], list[int], float, float]]:
    """Where one threshold on one value tells classes apart.

    The classes are ordered by their medians, and each cut between two neighbours is tried.

    Args:
        values: ``(n,)``.
        labels, groups: of each value; one without a label does not count.
        classes: how many there are.

    Returns:
        for each cut that does: the classes below and above, the threshold, the balanced accuracy.
    """
    known = np.asarray(labels) >= 0
    values, labels, groups = (np.asarray(part)[known] for part in (values, labels, groups))
    counts = np.bincount(labels, minlength=classes)
    enough = [
        c
        for c in np.flatnonzero(counts >= LEAST_RECORDINGS)
        if len(np.unique(groups[labels == c])) >= LEAST_GROUPS
    ]
    order = sorted(enough, key=lambda c: np.median(values[labels == c]))
    by_value = np.argsort(values, kind="stable")
    sorted_values, sorted_labels = values[by_value], labels[by_value]
    last = np.append(sorted_values[1:] != sorted_values[:-1], True)  # a threshold splits no ties
    found = []
    for at in range(1, len(order)):
        weights = np.zeros(classes)
        weights[order[:at]] = 0.5 / (at * counts[order[:at]])
        weights[order[at:]] = -0.5 / ((len(order) - at) * counts[order[at:]])
        right = np.where(last, 0.5 + np.cumsum(weights[sorted_labels]), 0)
        best = int(right.argmax())
        if right[best] >= SEPARATED:
            limit, accuracy = float(sorted_values[best]), float(min(right[best], 1))
            found.append((order[:at], order[at:], limit, accuracy))
    return found


def _levels(signals: np.ndarray) -> _Levels:
    step, parts = max(1, _CHUNK // signals.shape[1]), []
    for piece in pieces(signals, step):
        x = np.asarray(piece, dtype=float)  # squares of float32 fit
        mean = x.mean(1)
        rest = x - mean[:, None]
        rms = np.sqrt(np.vecdot(rest, rest) / x.shape[1])
        parts.append((mean, rms, _clipped(x)))
    return _Levels(*map(np.concatenate, zip(*parts, strict=True)))


def _clipped(x: np.ndarray) -> np.ndarray:
    """Whether each of the rows is clipped: it has a run at an extreme value, see `_flat`."""
    hit = (x == x.min(1, keepdims=True)) | (x == x.max(1, keepdims=True))
    run = hit[:, 2:] & hit[:, 1:-1] & hit[:, :-2]  # CLIPPED_RUN samples: few rows have that
    found = run.any(1)
    found[found] = [_flat(row) for row in x[found]]
    return found


def _flat(x: np.ndarray) -> bool:
    """Whether a signal with a run at an extreme value was cut off there.

    The peak of a slow wave in whole numbers is a run too, and so is a signal of few levels. But a
    wave that is cut off enters its run by a jump of more than one of the steps between numbers.
    Zeros are not counted: they may be appended, or the floor of a signal above it.
    """
    jumps = np.abs(np.diff(x))
    step = jumps[jumps > 0].min(initial=np.inf)
    low, high = x.min(), x.max()
    if not high - low >= _LEVELS * step:
        return False
    for end in (low, high):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], x == end, [0]))))
        begins, ends = edges[::2], edges[1::2]
        long = ends - begins >= CLIPPED_RUN
        begins, ends = begins[long], ends[long]
        beside = np.concatenate((jumps[begins[begins > 0] - 1], jumps[ends[ends < len(x)] - 1]))
        if end != 0 and len(beside) and np.median(beside) > _JUMP * step:
            return True
    return False


def _equal(recordings: Recordings) -> list[str]:
    """Recordings that are there twice: of one class, and of two, so that a label is wrong."""
    within, across = [], []
    for rows in equal_rows(recordings.signals):
        labels = recordings.labels[rows]
        same = len(np.unique(labels[labels >= 0])) < 2  # one without a label contradicts none
        (within if same else across).append(rows)
    said = []
    for sets, what in (
        (within, "of the same class; the split keeps them together; delete all but one"),
        (
            across,
            "of another class, so that a label is wrong; the split keeps them together; "
            "correct the label, and delete all but one",
        ),
    ):
        if sets:
            count = sum(len(rows) for rows in sets)
            pairs = [" = ".join(names_of(recordings, rows[:2])) for rows in sets[:3]]
            said.append(
                f"{count} recordings equal another one, sample for sample, {what} "
                f"({some_names(pairs, len(sets))})."
            )
    return said


def _imbalance(recordings: Recordings) -> str:
    counts = recordings.counts
    there = np.flatnonzero(counts)
    if not there.size:
        return ""
    few, many = there[counts[there].argmin()], there[counts[there].argmax()]
    if counts[many] <= IMBALANCE * counts[few]:
        return ""
    return (
        f"The class {recordings.class_names[many]!r} has {counts[many]} recordings and "
        f"{recordings.class_names[few]!r} only {counts[few]}, more than {IMBALANCE} to 1; read "
        "the balanced accuracy, and record more of the rare class."
    )


def _level_tells(recordings: Recordings, rms: np.ndarray) -> str:
    decibels = 20 * np.log10(np.maximum(rms, np.finfo(np.float32).tiny))
    names = recordings.class_names
    found = separations(decibels, recordings.labels, recordings.groups, len(names))
    if not found:
        return ""
    unit = f"{{:.1f}} dB re {recordings.units or 1}"
    return (
        f"The level alone tells {_border(found, names, unit)}; check that the classes were "
        "recorded on the same days, with the same microphone and gain, or remove the level "
        "(--level removed)."
    )


def _border(found: list[tuple], names: Sequence[str], form: str) -> str:
    """The best of what `separations` found, in words, and how many others there are."""
    low, high, limit, accuracy = max(found, key=lambda border: border[3])
    below, above = (_listed([names[i] for i in sorted(side)]) for side in (low, high))
    others = f"; {len(found) - 1} other thresholds separate classes, too" * (len(found) > 1)
    return (
        f"{below} from {above} (threshold {form.format(limit)}, balanced accuracy "
        f"{accuracy:.0%}{others})"
    )


def _other_way_round(recordings: Recordings) -> str:
    """Whether neighbouring recordings are alike and neighbouring samples are not.

    The roughness is the mean squared difference of neighbours, relative to twice the variance: 1
    for values that have nothing to do with each other.
    """
    if len(recordings) <= recordings.samples:
        return ""
    x = np.asarray(recordings.signals[:256, :256], float)
    twice = 2 * x.var() or np.inf
    down, along = (np.mean(np.square(np.diff(x, axis=axis))) / twice for axis in (0, 1))
    if not (down < 0.5 and along > 0.8):
        return ""
    return (
        f"There are {len(recordings)} recordings of {recordings.samples} samples, and neighbouring "
        "recordings are alike while neighbouring samples are not: if the recordings are the "
        "columns of the matrix, transpose it."
    )


def _said(
    recordings: Recordings, rows: np.ndarray, verbs: tuple[str, str], what: str, why: str
) -> str:
    """A sentence about those recordings, booleans ``(n,)``; empty for none."""
    there = np.flatnonzero(rows)
    if not there.size:
        return ""
    names = some_names(names_of(recordings, there[:3]), len(there))
    verb = verbs[len(there) > 1]
    return f"{len(there)} of {len(rows)} recordings {verb} {what} ({names}): {why}."


def names_of(recordings: Recordings, rows: Iterable[int]) -> list[str]:
    """What the user calls those recordings: the file, and the row where files have several."""
    origins = recordings.origins
    alone = bool(np.char.endswith(origins, ":0").all())
    return [str(origins[row]).removesuffix(":0") if alone else str(origins[row]) for row in rows]


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{len(names)} classes ({some_names(names)})"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
