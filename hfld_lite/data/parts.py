"""Which part of a file becomes a recording: the first samples, the loudest, from the onset on, …

Files are longer than what happens in them, and of unequal length; networks read equally many
samples. The same `Part` cuts in training, at prediction and in the program for the device, which
contains the source of `frame_powers`, `onset` and `starts`: these need numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hfld_lite.errors import ArgumentError, DataError, nearest

KINDS = ("first", "loudest", "onset", "whole", "windows")

NO_ONSET = "it is steady without an onset, so that its loudest stretch is used"
_LEAST_SECOND = 4096  # samples: for slow sensors a second may be a handful of values


def frame_powers(x: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """Mean square without DC in frames of 3 ms (16 samples or more), and a frame's samples."""
    size = max(1, min(max(16, round(0.003 * rate)), len(x) // 50))
    x = x[: len(x) // size * size] - x.mean(dtype=float)
    return np.square(x).reshape(-1, size).mean(1), size


def onset(x: np.ndarray, rate: int) -> int | None:
    """The first sample of an event, or None in a steady sound.

    It is the start of the first frame that is at most 20 dB below the loudest and at least 12 dB
    above the quiet level, which is the median of the frames.
    """
    power, size = frame_powers(x, rate)
    loud = np.flatnonzero(power >= max(power.max() / 100, 16 * np.median(power)))
    return int(loud[0]) * size if len(loud) and power.max() > 0 else None


def starts(x: np.ndarray, rate: int, kind: str, samples: int) -> tuple[list[int], bool]:
    """The first samples of the parts, and whether an onset was wanted and not found."""
    last = len(x) - samples
    if kind == "windows":
        return list(range(0, last + 1, samples)), False
    if kind in ("first", "whole"):
        return [0], False
    begin = onset(x, rate) if kind == "onset" else None
    if begin is not None:  # a twentieth earlier, and not beyond the end
        return [min(max(0, begin - samples // 20), last)], False
    energy = np.append(0, np.cumsum(np.square(x - x.mean(dtype=float))))
    return [int(np.argmax(energy[samples:] - energy[: last + 1]))], kind == "onset"


def window_starts(length: int, samples: int, hop: int) -> np.ndarray:
    """The first samples of windows that cover all of a signal of `length`; the last ends with it.

    Args:
        length, samples: of the signal and of a window; a shorter signal has one window, at 0.
        hop: from one window's start to that of the next.
    """
    last = max(0, length - samples)
    return np.unique(np.append(np.arange(0, last + 1, hop), last))


class Cut(NamedTuple):
    """What `Part.cut` made of one signal.

    Attributes:
        signals: ``(k, samples)``; k is 1 except for windows.
        padded: zeros were appended.
        no_onset: the sound is steady, so the loudest stretch was taken.
        silent: windows that were left out because they are constant.
        overlooked: share of the signal that the part leaves out, if :meth:`Part.overlooked` says
            that most of it was not looked at; only files for a trained network are asked.
    """

    signals: np.ndarray
    padded: bool
    no_onset: bool
    silent: int
    overlooked: float = 0.0


@dataclass(frozen=True)
class Part:
    """Which part of a file becomes a recording.

    Attributes:
        kind: ``"first"``, the first samples. ``"loudest"``, the stretch of the highest energy
            without DC. ``"onset"``, a stretch that begins a twentieth of its length before the
            onset (see :func:`onset`) and ends within the file; in a steady sound the loudest.
            ``"whole"``, all samples. ``"windows"``, one stretch after the other, each a row whose
            answers are averaged over the file; an incomplete last one is left out, and so are
            constant ones (digital silence) beside others.
        samples: of each stretch.
        pad: append zeros to shorter files instead of refusing them.

    Raises:
        ArgumentError: an attribute is wrong.
    """

    kind: str
    samples: int
    pad: bool = False

    def __post_init__(self) -> None:
        check_kind(self.kind)
        whole = isinstance(self.samples, int | np.integer) and not isinstance(self.samples, bool)
        if not whole or self.samples < 1:
            raise ArgumentError(f"samples is {self.samples!r}; give a whole number above 0.")
        if not isinstance(self.pad, bool):
            raise ArgumentError(f"pad is {self.pad!r}; give True or False.")
        object.__setattr__(self, "samples", int(self.samples))

    @property
    def words(self) -> str:
        """The part in words, such as "the loudest 4000 samples"."""
        return {
            "first": f"the first {self.samples} samples",
            "loudest": f"the loudest {self.samples} samples",
            "onset": f"{self.samples} samples from the onset on",
            "whole": f"all {self.samples} samples",
            "windows": f"windows of {self.samples} samples, whose answers are averaged",
        }[self.kind]

    @property
    def options(self) -> str:
        """The options of the command line that ask for this part."""
        return f"--part {self.kind} --samples {self.samples}{' --pad' * self.pad}"

    def like(self, other: Part) -> bool:
        """Whether both cut alike; the first samples are those of recordings used whole."""
        same = {"whole": "first"}
        return self.samples == other.samples and (
            same.get(self.kind, self.kind) == same.get(other.kind, other.kind)
        )

    def cut(self, signal: np.ndarray, rate: int, where: object = "the signal") -> Cut:
        """Cut one signal.

        Args:
            signal: ``(samples,)``.
            rate: in Hz.
            where: it comes from, for errors.

        Raises:
            DataError: the signal is too short and must not be padded, or the onset or the loudest
                stretch is looked for in values that are not finite.
        """
        length = len(signal)
        self.check_length(length, where, "")
        if padded := length < self.samples:
            signal = np.pad(signal, (0, self.samples - length))
        if self.kind in ("loudest", "onset") and not np.isfinite(signal).all():
            raise DataError(where, "holds NaN or infinity", mend="record it again")
        if self.kind in ("first", "whole") and len(signal) == self.samples:
            return Cut(signal[None], padded, False, 0)  # without a copy
        begins, no_onset = starts(signal, rate, self.kind, self.samples)
        rows = np.stack([signal[begin : begin + self.samples] for begin in begins])
        varied = rows.min(1) != rows.max(1)
        if self.kind != "windows" or not varied.any():  # then the recording is refused as constant
            return Cut(rows[:1], padded, no_onset, 0)
        return Cut(rows[varied], padded, no_onset, int((~varied).sum()))

    def overlooked(self, signal: np.ndarray, part: np.ndarray) -> float:
        """Share of a signal ``(n,)`` that a part ``(samples,)`` of it leaves out, if it matters.

        Else 0. It matters if the part begins where the signal does, whatever is there, and more
        than half is left out; or if the part was chosen, leaves out more than nine tenths, and more
        than half of the energy without DC is there.
        """
        share = max(0.0, 1 - self.samples / len(signal))
        if self.kind == "windows" or share <= (0.5 if self.kind in ("first", "whole") else 0.9):
            return 0.0
        if self.kind in ("loudest", "onset"):
            mean = signal.mean(dtype=float)
            inside, whole = (float(np.square(x - mean).sum()) for x in (part, signal))
            return share if inside < whole / 2 else 0.0
        return share

    def check_length(self, length: int, where: object, mend: str) -> None:
        """Refuse a signal that is too short, as a DataError, unless it may be padded."""
        if length < self.samples and not self.pad:
            raise DataError(
                where,
                f"has {length} samples",
                expected=f"{self.samples} or more",
                mend=mend,
            )


def part_of(value: Any) -> Part | None:
    """A part from JSON, ``{"kind": …, "samples": …, "pad": …}`` or null; else a ValueError."""
    if value is None or isinstance(value, Part):
        return value
    if not isinstance(value, dict) or not {"kind", "samples"} <= set(value) <= set(_FIELDS):
        raise ValueError(f"it is {str(value)[:60]}; expected null or {', '.join(_FIELDS)}")
    return Part(**value)


_FIELDS = ("kind", "samples", "pad")


def check_kind(kind: object) -> None:
    """Raise an ArgumentError unless this is a kind of part."""
    if kind not in KINDS:
        raise ArgumentError(f"part is {kind!r}; {nearest(kind, KINDS)} (--part, part=).")


def choose_part(
    signals: Sequence[np.ndarray],
    rate: int,
    *,
    kind: str | None = None,
    samples: int | None = None,
    pad: bool = False,
) -> Part:
    """What is cut where `kind` or `samples` are not given.

    With a second of at least 4096 samples, the kind is

    1. *whole* for equal lengths of at most one second;
    2. *onset* where more than half of the files hold an event, see :func:`event`;
    3. *whole* for equal lengths (with `pad`, for any) of at most two seconds;
    4. *windows* for the rest, which is long or unequal and steady.

    Given samples alone mean the first ones. The number of samples is, for

    - *onset* and *loudest*: twice the 90th percentile of the events' lengths, with two digits and
      50 ms at least, since twice the time to 95 % holds 99.75 % of an exponential decay's energy;
      a second where there are no events;
    - *windows*: a second;
    - *first*: the shortest file's;
    - *whole*: the longest file's;

    and never more than the shortest file has, or with `pad` the longest.

    Args:
        signals: each ``(samples,)``, of any lengths.
        rate: in Hz.
        kind, samples: what the user has chosen.
        pad: zeros may be appended.

    Raises:
        ArgumentError: `kind` or `samples` is wrong.
    """
    if kind is not None:
        check_kind(kind)
    if samples is not None:
        return Part(kind or "first", samples, pad)
    shortest, longest = min(map(len, signals)), max(map(len, signals))
    second, equal = max(rate, _LEAST_SECOND), shortest == longest
    if kind == "whole" or (kind is None and equal and longest <= second):
        return Part("whole", longest, pad)
    if kind == "first":
        return Part("first", shortest, pad)
    events = [found for x in signals if kind != "windows" and (found := event(x, rate))]
    if kind is None:
        kind = "onset" if len(events) > len(signals) / 2 else "windows"
        if kind == "windows" and (equal or pad) and longest <= 2 * second:
            return Part("whole", longest, pad)
    wanted = second
    if events and kind != "windows":
        wanted = _round_up(max(2 * float(np.percentile(events, 90)), rate / 20))
    return Part(kind, min(wanted, longest if pad else shortest), pad)


def event(x: np.ndarray, rate: int) -> int | None:
    """Samples of a short event, from its onset to 95 % of the energy above the quiet level.

    None if there is no onset, or if that takes more than a quarter of the signal.
    """
    with np.errstate(invalid="ignore"):  # what is not finite is refused when it is cut
        begin = onset(x, rate)
        if begin is None:
            return None
        power, size = frame_powers(x, rate)
        rest = np.cumsum(power[begin // size :] - np.median(power))
        frames = int(np.argmax(rest >= 0.95 * rest[-1])) + 1
    return frames * size if rest[-1] > 0 and frames * size <= len(x) / 4 else None


def _round_up(value: float) -> int:
    """The next whole number with two digits before zeros."""
    step = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / step) * step


def average(values: np.ndarray, wholes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Average rows ``(n, …)`` over those of the same recording.

    Returns:
        The means ``(m, …)`` in the order of the recordings' first rows, and these rows ``(m,)``;
        with `wholes` None, the values as they are and all rows.
    """
    if wholes is None:
        return values, np.arange(len(values))
    _, first, codes = np.unique(wholes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    sums = np.zeros((len(first), *values.shape[1:]))
    np.add.at(sums, codes, values)
    counts = np.bincount(codes).reshape(-1, *[1] * (values.ndim - 1))
    return (sums / counts)[order].astype(values.dtype), first[order]
