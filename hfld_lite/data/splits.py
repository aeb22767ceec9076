"""Splits: training, validation and test parts, by class and by group.

A group names a physical tile. Recordings of one tile are so similar that a network trained on some
of them recognises the tile instead of the defect, so each group lies in one part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from hfld_lite.data.plausibility import equal_rows, names_of
from hfld_lite.data.recordings import UNLABELLED, Recordings, indices_of, place
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.models import Checked, Index, explain


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of recordings, int64, for the three parts; `validation` may be empty."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        for name, indices in self.parts().items():
            object.__setattr__(self, name, indices_of(indices, f"{name} indices"))

    def parts(self) -> dict[str, np.ndarray]:
        """Return the three index arrays by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to_dict(self) -> dict[str, list[int]]:
        """Return lists that JSON can hold."""
        return {name: indices.tolist() for name, indices in self.parts().items()}

    @classmethod
    def from_dict(cls, lists: dict[str, Sequence[int]]) -> Split:
        """Make a split of what `to_dict` returned."""
        if not isinstance(lists, dict) or set(lists) != {"train", "validation", "test"}:
            raise ArgumentError("A split has exactly the keys train, validation and test.")
        try:
            split = cls(**dict(_Lists.model_validate(lists)))
        except ValidationError as error:
            raise ArgumentError(f"The split cannot be read: {explain(error)}.") from error
        rows, counts = np.unique(np.concatenate([*split.parts().values()]), return_counts=True)
        if (counts > 1).any():
            raise ArgumentError(
                f"The split holds recording {rows[counts > 1][0]} more than once; each belongs to "
                "one part."
            )
        return split


class _Lists(Checked):
    """What `Split.to_dict` returns."""

    train: Annotated[list[Index], Field(fail_fast=True)]
    validation: Annotated[list[Index], Field(fail_fast=True)]
    test: Annotated[list[Index], Field(fail_fast=True)]


def split(
    recordings: Recordings, *, validation: float = 0.2, test: float = 0.2, seed: int = 0
) -> Split:
    """Draw a split by class and by group (scikit-learn's StratifiedGroupKFold).

    Groups that share a recording, sample for sample, are one group. Recordings without a label are
    for training; those of a group that is drawn for validation or test are in no part.

    Args:
        recordings: what to split.
        validation: its fraction, 0 or 0.01 to 0.94; reached within 0.01 where groups are equal.
        test: its fraction, 0.01 to 0.94.
        seed: the same seed gives the same split.

    Raises:
        DataError: a class has too few groups.
        ArgumentError: a fraction or the seed is out of range.
    """
    fractions = (test, validation) if validation else (test,)
    known = np.flatnonzero(recordings.labels != UNLABELLED)
    drawn, rest = _draw(recordings, known, fractions, seed)
    if len(known) < len(recordings):
        groups = linked_groups(recordings)
        apart = np.isin(groups, groups[np.concatenate(drawn)])
        rest = np.flatnonzero(~apart)
    return check_split(Split(rest, drawn[1] if validation else [], drawn[0]), recordings)


def published_split(recordings: Recordings, *, validation: float = 0.0, seed: int = 0) -> Split:
    """Split as the HFLKD paper's released code does: every fifth row of each file is for testing.

    These are the rows 4, 9, 14, … of each file, counted from 0, as given by `origins`. The rule
    ignores groups, so it is refused if rows of one group would lie in two parts. Windows of long
    recordings count as rows.

    Args:
        recordings: what to split, with origins that end in ``:row``.
        validation: its fraction of all recordings, 0 for none (as released); drawn from those
            that are not in the test part, by class and group as in `split`.
        seed: for that draw.

    Raises:
        DataError: a group would lie in two parts, or a part would lack a class.
    """
    rows = [origin.rpartition(":")[2] for origin in recordings.origins]
    if wrong := [i for i, row in enumerate(rows) if not (row.isascii() and row.isdigit())]:
        raise DataError(
            "split",
            f"the origin {str(recordings.origins[wrong[0]])!r} does not end with a row number",
            expected="file:row",
        )
    in_test = np.array([row.endswith(("4", "9")) for row in rows], dtype=bool)  # row % 5 == 4
    test, drawn, rest = np.flatnonzero(in_test), [[]], np.flatnonzero(~in_test)
    check_split(Split(rest, [], test), recordings)
    if validation:
        drawn, rest = _draw(recordings, rest, (validation * len(rows) / len(rest),), seed)
    return check_split(Split(rest, drawn[0], test), recordings)


def check_split(split: Split, recordings: Recordings) -> Split:
    """Return `split` if it is valid.

    No index may be there twice, no group and no two equal recordings in two parts, no class missing
    from one.

    Raises:
        DataError: otherwise; it names the recordings, the group or the class.
    """
    where, count = "split", len(recordings)
    side = np.full(count, -1)
    for number, (part, indices) in enumerate(split.parts().items()):
        if indices.size and not 0 <= indices.min() <= indices.max() < count:
            raise DataError(
                where,
                f"the {part} part has indices from {indices.min()} to {indices.max()}",
                expected=f"0 to {count - 1}",
            )
        values, times = np.unique(indices, return_counts=True)
        again = values[(times > 1) | (side[values] >= 0)]
        if again.size:
            found = f"drawn twice, the second time for the {part} part"
            raise DataError(f"{where}: {place(recordings.origins[again[0]])}", found)
        side[indices] = number
    names, codes = np.unique(recordings.groups, return_inverse=True)
    pairs = np.unique(np.stack([codes, side])[:, side >= 0], axis=1)
    straddling = np.flatnonzero(np.bincount(pairs[0], minlength=len(names)) > 1)
    if straddling.size:
        raise DataError(
            where,
            f"the group {str(names[straddling[0]])!r} is in more than one part",
            expected="every group in one part only",
            mend="use `split`, which keeps groups whole",
        )
    _check_equal(recordings, side)
    for part, indices in split.parts().items():
        labels = recordings.labels[indices]
        if part != "train" and (labels == UNLABELLED).any():
            first = indices[labels == UNLABELLED][0]
            raise DataError(
                f"{where}: {place(recordings.origins[first])}",
                f"it has no label and is in the {part} part",
                expected="recordings without a label in the train part only",
            )
        labels = labels[labels != UNLABELLED]
        there = np.bincount(labels, minlength=len(recordings.class_names))
        for name, found in zip(recordings.class_names, there, strict=True):
            if not found and (indices.size or part != "validation"):
                raise DataError(
                    where,
                    f"the class {name!r} is missing from the {part} part",
                    mend="use `split` with a larger part (validation=, test=) or another seed, or "
                    "add recordings of it",
                )
    return split


def _equal(recordings: Recordings) -> list[np.ndarray]:
    """Rows that are equal, sample for sample; none in a dataset: its items need not be signals."""
    whole = getattr(recordings, "recordings", recordings)  # what examples were made of
    return equal_rows(whole.signals) if isinstance(whole, Recordings) else []


def linked_groups(recordings: Recordings) -> np.ndarray:
    """Numbers of the groups, (n,), where those that share an equal recording have one number."""
    _, groups = np.unique(recordings.groups, return_inverse=True)
    if not (sets := _equal(recordings)):
        return groups
    from scipy.sparse import coo_array  # slow to load
    from scipy.sparse.csgraph import connected_components

    links = np.concatenate(
        [[groups[rows], np.repeat(groups[rows[:1]], len(rows))] for rows in sets], 1
    )
    many = groups.max() + 1
    _, codes = connected_components(
        coo_array((np.ones(links.shape[1]), tuple(links)), (many, many)), False
    )
    first = np.unique(codes, return_index=True)[1]  # the least of each set of linked groups
    return first[codes[groups]]


def _check_equal(recordings: Recordings, side: np.ndarray) -> None:
    """Refuse recordings that are equal, sample for sample, and in different parts, (n,).

    A network would be tested on what it was trained on. Parts of −1 do not count.
    """
    sets = [rows[side[rows] != -1] for rows in _equal(recordings)]
    apart = [rows for rows in sets if len(np.unique(side[rows])) > 1]
    if not apart:
        return
    first = apart[0]
    other = first[side[first] != side[first[0]]][0]
    whole = getattr(recordings, "recordings", recordings)
    one, another = names_of(whole, (first[0], other))
    more = f" ({len(apart)} such sets in all)" if len(apart) > 1 else ""
    raise DataError(
        "split",
        f"{one} and {another} are equal, sample for sample, and in different parts, so that a "
        f"network would be tested on what it was trained on{more}",
        expected="equal recordings in one part",
        mend="delete all but one, or use `split`, which keeps them together",
    )


def _draw(
    recordings: Recordings, rows: np.ndarray, fractions: Sequence[float], seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw one part of `rows` for each fraction, by class and group; return them and the rest."""
    folds, counts = _fold_counts(fractions)
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ArgumentError(f"The seed is {seed!r}; give a whole number from 0 to 4294967295.")
    labels, groups = recordings.labels[rows], linked_groups(recordings)[rows]
    for label, name in enumerate(recordings.class_names):
        found = len(np.unique(groups[labels == label]))
        kind = "labelled " * (UNLABELLED in recordings.labels)
        if kind and not found:
            raise DataError(
                "split",
                f"the class {name!r} has no labelled recording",
                expected=f"recordings of it from {folds} groups or more, with their label",
            )
        if found < folds:
            parts = " and ".join(f"{fraction:.0%}" for fraction in fractions)
            raise DataError(
                "split",
                f"the class {name!r} has {found} {kind}group{'s' * (found != 1)} to draw {parts} "
                "from",
                expected=f"at least {folds}",
                mend="record more tiles of this class, or take larger parts (validation=, test=; "
                "`validation` and `test` of a recipe)",
            )
    from sklearn.model_selection import StratifiedGroupKFold  # slow to load

    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=int(seed))
    piles = [rows[pile] for _, pile in folder.split(rows, labels, groups)]
    ends = np.cumsum([0, *counts])
    drawn = [np.sort(np.concatenate(piles[a:b])) for a, b in pairwise(ends)]
    return drawn, np.sort(np.concatenate(piles[ends[-1] :]))


def _fold_counts(fractions: Sequence[float]) -> tuple[int, list[int]]:
    """Find the fewest equal folds, and how many of them, that make each fraction within 0.01."""
    if all(0.01 <= fraction <= 0.94 for fraction in fractions) and sum(fractions) <= 0.95:
        for folds in range(2, 101):
            counts = [round(fraction * folds) for fraction in fractions]
            near = all(abs(c / folds - f) <= 0.01 for c, f in zip(counts, fractions, strict=True))
            if near and min(counts) >= 1 and sum(counts) < folds:
                return folds, counts
    parts = " and ".join(f"{fraction:g}" for fraction in fractions)
    raise ArgumentError(
        f"The parts to draw are {parts} of the recordings; each must be 0.01 or more, and together "
        "they must leave 0.05 or more for training."
    )
