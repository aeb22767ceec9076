"""Only good parts: which recordings teach, which set the limit, and what networks tell apart there.

A detector that knows no defect learns from good recordings alone. What a network can learn there
is to tell known kinds of good parts apart, and each recording from altered copies of it; its
features then describe what good parts sound like. Source of that idea: Golan and El-Yaniv, "Deep
anomaly detection using geometric transformations", 2018.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hfld_lite.data.augmentation import moved
from hfld_lite.data.names import tidy
from hfld_lite.data.readers import expression
from hfld_lite.data.recordings import UNLABELLED, Recordings, place
from hfld_lite.data.splits import Split, linked_groups
from hfld_lite.errors import ArgumentError, DataError, nearest

GOOD, DEFECTIVE = "good", "defective"

FEWEST_GOOD = 20
"""Groups of good parts that a training needs: with fewer, not even one false alarm in five can be
promised after a fifth of them is kept for testing."""

FALSE_ALARMS = 0.01
"""The share of good recordings that may be called defective, where nobody asks for another."""

CALIBRATING, MOST_CALIBRATING = 0.25, 0.4
"""Shares of the good groups that set the limit: usually, and at most, if a promise needs more."""

PITCHES = (1.0, 1.03, 1 / 1.03)
"""Factors on all frequencies: the recording as it is, and its altered copies."""


def as_good(
    recordings: Recordings,
    good: Sequence[str] = (),
    defective: Sequence[str] = (),
    complete: bool = True,
) -> Recordings:
    """The same recordings in two classes, good and defective; `kinds` keeps their own classes.

    Args:
        recordings: of any classes; those without a label are left out, and counted in `notes`.
        good: names of the classes of good parts; by default all but the defective ones.
        defective: names of the classes of defective parts; by default all but the good ones. Where
            both are given, recordings of other classes are left out, and counted in `notes`.
        complete: refuse names that no recording has; other data may lack some.

    Raises:
        ArgumentError: if a name is unknown or in both, or none is given.
        DataError: if there is no good recording.
    """
    names = recordings.class_names
    good, defective = ([tidy(str(name)) for name in each] for each in (good, defective))
    if not good and not defective:
        raise ArgumentError("Name the classes of good parts, or those of defective ones.")
    for what, given in (("good", good), ("defective", defective)):
        for name in given if complete else ():
            if name not in names:
                raise ArgumentError(f"{what}: no class is named {name!r}; {nearest(name, names)}.")
    if both := set(good) & set(defective):
        raise ArgumentError(f"The class {min(both)!r} is named both good and defective; choose.")
    known = [_verdict(name, good, defective) for name in names]
    labels = np.array([*known, UNLABELLED])[recordings.labels]
    rows = np.flatnonzero(labels != UNLABELLED)
    if complete and not (labels == 0).any():
        raise DataError(
            recordings.source or "recordings",
            f"none is of a good class ({', '.join(good) or 'all but the defective ones'})",
            expected=f"recordings of {FEWEST_GOOD} good parts or more",
        )
    if not len(rows):
        raise DataError(
            recordings.source or "recordings", "none is of a class that is named good or defective"
        )
    kinds = np.array([*names, ""])[recordings.labels]
    left = [name for name, verdict in zip(names, known, strict=True) if verdict == UNLABELLED]
    counts = {name: int(np.sum(kinds == name)) for name in left} | {"": int(np.sum(kinds == ""))}
    said = [
        f"{n} of the class {name!r}" if name else f"{n} unlabelled"
        for name, n in counts.items()
        if n
    ]
    notes = (*recordings.notes, *[f"left out: {'; '.join(said)}"] * bool(said))
    chosen = recordings if len(rows) == len(recordings) else recordings.select(rows)
    return replace(
        chosen,
        labels=labels[rows],
        class_names=(GOOD, DEFECTIVE),
        normal_classes=(GOOD,),
        kinds=kinds[rows],
        notes=notes,
        checked=True,
    )


def _verdict(name: str, good: Sequence[str], defective: Sequence[str]) -> int:
    if name in good or name in defective:
        return int(name in defective)
    return UNLABELLED if good and defective else int(bool(good))


def split_good(
    recordings: Recordings,
    *,
    test: float = 0.2,
    false_alarms: float | None = None,
    use_defects: bool = False,
    seed: int = 0,
) -> Split:
    """Divide good and defective recordings by group.

    The validation part sets the limit: a quarter of the good groups, and up to two fifths if the
    promise that is asked for needs so many. Defective recordings are for the test alone; with
    ``use_defects``, half of their groups are in the validation part.

    Args:
        recordings: of :func:`as_good`.
        test: share of the good groups that is kept for the test.
        false_alarms: the share of good recordings that may be called defective; None for
            FALSE_ALARMS, or the least that the validation part can promise.
        use_defects: whether some defective recordings may choose score and limit.
        seed: of the draw.

    Raises:
        DataError: if there are fewer than FEWEST_GOOD good groups, or too few defective ones to
            divide.
        ArgumentError: if the share cannot be promised; the sentence says which can.
    """
    groups, sound = linked_groups(recordings), recordings.labels == 0
    if mixed := np.intersect1d(groups[sound], groups[~sound]).tolist():
        row = np.flatnonzero((groups == mixed[0]) & ~sound)[0]
        raise DataError(
            place(str(recordings.origins[row])),
            f"its group {str(recordings.groups[row])!r} has good and defective recordings",
            expected="groups of good or of defective recordings only",
            mend="give each part a group of its own",
        )
    count = len(np.unique(groups[sound]))
    most = round(MOST_CALIBRATING * count)
    if count < FEWEST_GOOD:
        raise DataError(
            recordings.source or "recordings",
            f"there {'is' if count == 1 else 'are'} {count} good group{'s' * (count != 1)} (parts, "
            "machines or days)",
            expected=f"{FEWEST_GOOD} or more, since a limit that {most} of them set can promise "
            f"{1 / (most + 1):.0%} false alarms at best, and 1 % needs 99 groups in the validation "
            "part",
            mend="record more good parts, or say which recordings are of one part (--group-pattern)"
            " if these are of more parts than their names tell",
        )
    least = 1 / (most + 1)
    if false_alarms is not None and not least <= false_alarms < 0.5:
        raise ArgumentError(
            f"The share of false alarms is {false_alarms:g}; {count} good groups, of which {most} "
            f"set the limit, can promise {math.ceil(1000 * least) / 1000:g} or more (below 0.5); "
            "ask for that, or record "
            f"{math.ceil((1 / max(false_alarms, 1e-6) - 1) / MOST_CALIBRATING)} good parts or more."
        )
    needed = 0 if false_alarms is None else math.ceil(1 / false_alarms - 1 - 1e-9)
    calibrating = min(most, max(round(CALIBRATING * count), needed))
    counts = {"test": max(1, round(test * count)), "validation": calibrating}
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    rng, kinds = np.random.default_rng(seed), recordings.kinds
    for verdict, rest in ((True, "train"), (False, "test")):
        rows = np.flatnonzero(sound == verdict)
        if not verdict:
            many = len(np.unique(groups[rows]))
            if use_defects and many < 2:
                raise DataError(
                    recordings.source or "recordings",
                    f"there are {many} defective groups",
                    expected="two or more, if defective recordings choose the score and the limit",
                    mend="record more, or leave --use-defects out",
                )
            counts = {"validation": many // 2} if use_defects else {}
        drawn = _drawn(groups[rows], kinds[rows], tuple(counts.values()), rng)
        for number, name in enumerate((rest, *counts)):
            parts[name].append(rows[drawn == number])
    return Split(**{name: np.sort(np.concatenate(rows)) for name, rows in parts.items()})


def _drawn(
    groups: np.ndarray, kinds: np.ndarray, counts: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """For each row the number of its part, 0 for the rest; of each kind about the same share."""
    names, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(kinds[first][order], kind="stable")]  # kind after kind, each shuffled
    # Multiples of the golden ratio are spread evenly over any stretch, so over any kind.
    spread = order[np.argsort((np.arange(len(names)) * 0.6180339887498949) % 1)]
    part, begin = np.zeros(len(names), int), 0
    for number, count in enumerate(counts, 1):
        part[spread[begin : begin + count]] = number
        begin += count
    return part[codes]


def told_apart(recordings: Recordings, parts: Split, seed: int = 0) -> tuple[Recordings, Split]:
    """What networks learn to tell apart: the kinds of good parts, and PITCHES copies of each.

    Args:
        recordings: of :func:`as_good`; only good ones of the parts are used.
        parts: of :func:`split_good`.
        seed: of the draw.

    Returns:
        Recordings with a class for each kind and pitch, and their split. Four fifths of the
        training groups are trained on, and the others choose each network's epoch; the good
        recordings of the validation part, which set the limit, choose nothing, so they are
        the test part here.
    """
    groups = linked_groups(recordings)
    inner = _drawn(
        groups[parts.train],
        recordings.kinds[parts.train],
        (max(1, round(0.2 * len(np.unique(groups[parts.train])))),),
        np.random.default_rng(seed),
    )
    sound = parts.validation[recordings.labels[parts.validation] == 0]
    piles = [parts.train[inner == 0], parts.train[inner == 1], sound]
    rows = np.concatenate(piles)
    chosen = recordings.select(rows)
    kinds = np.unique(chosen.kinds)
    signals = [chosen.signals] + [at_pitch(chosen.signals, pitch) for pitch in PITCHES[1:]]
    names = [f"{kind} {said}" for kind in kinds for said in ("as it is", "higher", "lower")]
    labels = np.searchsorted(kinds, chosen.kinds) * len(PITCHES)
    pretext = replace(
        chosen,
        signals=np.concatenate(signals),
        labels=np.concatenate([labels + number for number in range(len(PITCHES))]),
        groups=np.tile(chosen.groups, len(PITCHES)),
        origins=np.tile(chosen.origins, len(PITCHES)),
        wholes=None,
        class_names=tuple(names),
        normal_classes=(),
        kinds=None,
        source=f"good recordings of {chosen.source}, and their altered copies",
        checked=True,
    )
    of = np.repeat([0, 1, 2], [len(pile) for pile in piles])
    return pretext, Split(*(np.flatnonzero(np.tile(of, len(PITCHES)) == n) for n in range(3)))


def at_pitch(signals: np.ndarray, factor: float) -> np.ndarray:
    """Recordings ``(n, samples)`` with all frequencies times a factor, 0 where nothing is known."""
    x = torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float32))
    factors, none = torch.full((len(x), 1), factor), torch.zeros(len(x), 1)
    pieces = zip(*(each.split(256) for each in (x, factors, none)), strict=True)
    return torch.cat([moved(*piece) for piece in pieces]).numpy()


def said_of_conditions(recordings: Recordings, parts: Split, patterns: Sequence[str]) -> list[str]:
    """Sentences on conditions (microphone, day) that good recordings of the parts do not share.

    Args:
        recordings: of :func:`as_good`.
        parts: of :func:`split_good`.
        patterns: regular expressions whose one group is the condition in a file's name.

    Raises:
        ArgumentError: if an expression is wrong.
        DataError: if a good recording's name does not match.
    """
    said = []
    for text in patterns:
        pattern, found = expression(text, "condition"), {}
        for name, rows in parts.parts().items():
            found[name] = _conditions(recordings, rows[recordings.labels[rows] == 0], pattern)
        for name, values in found.items():
            if name == "train" or not (new := sorted(values - found["train"])):
                continue
            part = {"validation": "sets the limit", "test": "measures"}[name]
            said.append(
                f"The good recordings of the {name} part, which {part}, have "
                f"{text!r} = {', '.join(new[:5])}{', …' * (len(new) > 5)}, and those of the "
                f"training part have {', '.join(sorted(found['train'])[:5])} only: the "
                "score may tell these apart instead of defects. Record each condition with "
                "several parts."
            )
        known = set().union(*found.values())
        bad = _conditions(recordings, np.flatnonzero(recordings.labels == 1), pattern)
        if bad and not bad & known:
            said.append(
                f"All defective recordings have {text!r} = {', '.join(sorted(bad)[:5])}, and the "
                f"good ones {', '.join(sorted(known)[:5])}: the test cannot tell a defect from the "
                "condition. Record both under each."
            )
    return said


def _conditions(recordings: Recordings, rows: np.ndarray, pattern: re.Pattern) -> set[str]:
    """What the pattern finds in the names of the rows' files."""
    found = set()
    for row in rows:
        origin = str(recordings.origins[row]).rpartition(":")[0]
        if not (match := pattern.search(origin)):
            raise DataError(origin, f"the name does not match --condition {pattern.pattern!r}")
        found.add(match[1])
    return found
