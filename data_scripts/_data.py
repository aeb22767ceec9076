"""The study's data: tiles and bearings, as each question asks for them, with their splits.

Tiles are simulated anew for each seed, with seeds that no other program uses. Of the bearing
recordings one set of blocks is kept for the test, whatever the seed, and only the rest is divided
anew by each seed; so that what is tuned on validation blocks never saw a test block.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _study import BEARINGS_SNR, BEFORE, DEMO_BEFORE

from hfld_lite.data.readers import read_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.splits import Split, split
from hfld_lite.data.views import add_noise
from hfld_lite.errors import RecipeError
from hfld_lite.recipes import Recipe

LEARNING_RATES = (1e-2, 3e-2)
"""Of tiles and bearings."""

TILE_SEED, TEST_BLOCKS_SEED = 9000, 12345
BINS = 875
"""Of the tiles' spectra, 0 to 5 kHz: what validation preferred for networks trained alone, in
``edge_sweep.csv``, and a quarter of the work."""

AGAIN_SEED = 300
"""Added to the seeds of the final run, so that its tiles, splits and first weights are new."""

SIZES = ("007", "014", "021")
"""Fault sizes that all three kinds of bearing faults have; one is held out, by seed."""


class Case(NamedTuple):
    """What one training of a chain gets: recordings, recipe, parts, and what it is tested on."""

    recordings: Recordings
    recipe: Recipe
    parts: Split


def tiles_case(condition: str, seed: int, recipe: Recipe, count: int) -> Case:
    """Simulated tiles.

    Args:
        condition: ``""`` for six classes; ``"A"``, ``"B"`` or ``"C"`` for one type; ``"unseen P"``:
            sound or defective, trained on types A and B and P % of C's labels, tested on C;
            ``"X dB"``: in noise; ``"P % labels"``: of the training part's tiles for the student;
            ``"again"``: six classes of other tiles, tested on twice `count` more a class.
        seed: of tiles, split, weights.
        recipe: the preset.
        count: tiles a class.
    """
    if condition == "again":
        return _again(tiles_case("", seed + AGAIN_SEED, recipe, count), seed, count)
    types = condition if condition in ("A", "B", "C") else "ABC"
    recordings = _simulated(types, count, seed)
    if condition.endswith("dB"):
        rng = np.random.default_rng(seed)
        noisy = add_noise(recordings.signals, float(condition.split()[0]), rng)
        recordings = replace(recordings, signals=noisy)
    if condition.startswith("unseen"):
        return _unseen(recordings, float(condition.split()[1]) / 100, seed, recipe)
    parts = split(recordings, seed=seed)
    if condition.endswith("labels"):
        share = float(condition.split()[0]) / 100
        parts = replace(parts, train=share_of(recordings, parts.train, share, seed))
    return Case(recordings, recipe.replace(seed=seed), parts)


def bearings_case(condition: str, seed: int, recipe: Recipe, folder: Path) -> Case:
    """Bearing recordings, in noise of BEARINGS_SNR unless the condition ends in "clean".

    Args:
        condition: ``"block"``: known bearings, split by blocks of time; ``"load"``: known bearings,
            trained at loads 0 to 2 and tested at 3; ``"size"``: B, IR or OR, tested on a fault
            size that was not trained on, which the seed chooses of SIZES.
        seed: of split, noise, weights.
        recipe: the preset.
        folder: from prepare_bearings.py.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there; make it with data_scripts/prepare_bearings.py.")
    recordings = _read(folder)
    if not condition.endswith("clean"):
        rng = np.random.default_rng(seed)
        recordings = replace(recordings, signals=add_noise(recordings.signals, BEARINGS_SNR, rng))
    names = np.array(recordings.class_names)[recordings.labels]
    kind = condition.split()[0]
    if kind == "load":
        test = np.array(["_load3" in group for group in recordings.groups])
    elif kind == "size":
        test = np.char.endswith(names, SIZES[seed % len(SIZES)])
        faults = ("B", "IR", "OR")
        labels = np.array([faults.index(name.rstrip("0123456789")) for name in names])
        recordings = replace(recordings, labels=labels, class_names=faults)
    else:
        test = np.zeros(len(recordings), bool)
        test[split(recordings, validation=0, seed=TEST_BLOCKS_SEED).test] = True
    case = _case(recordings, np.flatnonzero(~test), np.flatnonzero(test), seed, recipe)
    train = case.parts.train[~_overlaps_last(recordings.groups[case.parts.train])]
    return case._replace(parts=replace(case.parts, train=train))


def _overlaps_last(groups: np.ndarray) -> np.ndarray:
    """Every second window of each block: neighbours share half of their samples.

    Left out of training, where they are hardly anything new and double its time.
    """
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.empty(len(groups), int)
    place[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return place % 2 == 1


@lru_cache(2)  # a worker's cells come seed by seed
def _simulated(types: str, count: int, seed: int, drops: int = 3) -> Recordings:
    return simulate_tiles(types, tiles_per_class=count, drops=drops, seed=TILE_SEED + seed)


@lru_cache(1)
def _read(folder: Path) -> Recordings:
    return read_folder(folder, progress=False)


def _case(
    recordings: Recordings, known: np.ndarray, test: np.ndarray, seed: int, recipe: Recipe
) -> Case:
    """Divide what is known into training and validation, a quarter for the latter."""
    drawn = split(recordings.select(known), validation=0, test=0.25, seed=seed)
    parts = Split(known[drawn.train], known[drawn.test], test)
    return Case(recordings, recipe.replace(seed=seed), parts)


def _again(case: Case, seed: int, count: int) -> Case:
    """Test on ten times as many tiles, all new; one drop each, as drops of one tile are similar."""
    known, new = case.recordings, _simulated("ABC", 2 * count, seed + 2 * AGAIN_SEED, drops=1)
    joined = {
        name: np.concatenate([getattr(known, name), getattr(new, name)])
        for name in ("signals", "labels")
    }
    both = replace(
        known,
        **joined,
        groups=np.concatenate([known.groups, np.char.add("new ", new.groups)]),
        origins=np.concatenate([known.origins, np.char.add("new ", new.origins)]),
    )
    test = np.arange(len(known), len(both))
    return case._replace(recordings=both, parts=replace(case.parts, test=test))


def _unseen(recordings: Recordings, share: float, seed: int, recipe: Recipe) -> Case:
    names = np.array(recordings.class_names)[recordings.labels]
    two = replace(
        recordings,
        labels=np.where(np.char.endswith(names, "N"), 0, 1),
        class_names=("N", "D"),
        normal_classes=("N",),
    )
    unseen = np.char.startswith(names, "C")
    of_c = np.flatnonzero(unseen)
    cut = split(two.select(of_c), validation=0, test=0.4, seed=seed)
    labelled = share_of(two, of_c[cut.train], share, seed)
    known = np.sort(np.concatenate([np.flatnonzero(~unseen), labelled]))
    return _case(two, known, of_c[cut.test], seed, recipe)


def share_of(recordings: Recordings, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of the rows by whole groups, at least one group a class (none for a share of 0)."""
    if not share:
        return rows[:0]
    rng, kept = np.random.default_rng(seed), []
    for label in np.unique(recordings.labels[rows]):
        mine = rows[recordings.labels[rows] == label]
        groups = np.unique(recordings.groups[mine])
        drawn = rng.permutation(groups)[: max(1, round(share * len(groups)))]
        kept.append(mine[np.isin(recordings.groups[mine], drawn)])
    return np.sort(np.concatenate(kept))


def presets(epochs: int | None) -> list[Recipe]:
    """The recipes of tiles and bearings, with fewer epochs for a quick try.

    All networks have the learning rate at which validation preferred the student *alone*, and the
    tiles' teachers as many epochs as their student. At a lower rate (the presets' is 0.003), what
    helps the student to learn faster would look like knowledge; ``study_tuning.csv`` has rates.
    """
    recipes = [
        recipe.replace(learning_rate=rate)
        for recipe, rate in zip((DEMO_BEFORE, BEFORE), LEARNING_RATES, strict=True)
    ]
    recipes[0] = recipes[0].replace(bins=BINS)
    counts = [epochs or recipe.student.epochs for recipe in recipes]
    return [
        recipe.replace(
            teacher=replace(recipe.teacher, epochs=count),
            secondary_teachers=tuple(
                replace(network, epochs=count) for network in recipe.secondary_teachers
            ),
            student=replace(recipe.student, epochs=count),
        )
        for recipe, count in zip(recipes, counts, strict=True)
    ]
