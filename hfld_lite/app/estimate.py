"""How long a training will take: before it begins, a few real steps of each network are timed."""

import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, split
from hfld_lite.errors import ArgumentError, DataError, HfldError, RecipeError
from hfld_lite.hierarchy import Chain, distill_chain
from hfld_lite.recipes import Recipe
from hfld_lite.training import make_fabric, predict_logits, validate

LONG = 600.0
"""Seconds above which an estimate tells what makes a training faster."""

BATCHES, PASSES = 3, 3
"""Steps of a timed pass, and passes; the first warms up and is not counted."""


@dataclass(frozen=True)
class Estimate:
    """Steps by role, and the seconds of a training of all of them to its end."""

    steps: dict[str, int]
    seconds: float

    @property
    def said(self) -> str:
        """The estimate in a sentence, and what makes the training faster if it is long."""
        few, most = min(self.steps.values()), max(self.steps.values())
        each = f"{few:,} steps each" if few == most else f"{few:,} to {most:,} steps"
        networks = f"{len(self.steps)} network{'s' * (len(self.steps) != 1)}"
        said = f"{networks}, {each}: about {duration(self.seconds)} on this machine."
        if self.seconds > LONG:
            said += " Fewer --steps, --samples or --bins (of a spectrum) or a shorter --part help."
        return said


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, without digits that an estimate does not have."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def estimate(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split | None = None,
    **options: Any,
) -> Estimate | None:
    """Train every network for a few steps on some of the recordings, and tell what all will take.

    A step is timed as it will be: terms of the loss, optimiser, augmentation. Validation and
    checkpoints are timed once a pass. The networks are copies and the generators are seeded as in
    every training, so that the training itself stays bit-identical. None if these steps diverge or
    memory runs out: the training may end otherwise.

    Args:
        recordings, recipe, parts: as :func:`hfld_lite.hierarchy.distill_chain` gets them.
        options: its ``controls``, ``networks`` and ``trained``.

    Raises:
        ArgumentError, DataError, RecipeError: what does not fit together, as the training would.
        Interrupted: if the user stopped it.
    """
    try:
        return _estimate(recordings, recipe, parts, options)
    except (ArgumentError, DataError, RecipeError):
        raise
    except HfldError:
        return None


def _estimate(
    recordings: Recordings, recipe: Recipe, parts: Split | None, options: Mapping[str, Any]
) -> Estimate:
    if parts is None:
        shares = {"validation": recipe.validation, "test": recipe.test}
        parts = split(recordings, **shares, seed=recipe.seed)
    count = round(len(parts.train) * (1 - recipe.meta_share))
    size = recipe.batch(count)
    labels = recordings.labels
    rows = {
        # Meta batches are cut from the training part by group, so it stays whole for them.
        "train": parts.train if recipe.meta_share else _few(labels, parts.train, BATCHES * size),
        "validation": parts.validation,
        "test": _few(labels, parts.test, 0),  # every part of a split has all classes
    }
    chosen = recordings.select(np.concatenate([*rows.values()]))
    ends = np.cumsum([len(part) for part in rows.values()])
    small = Split(*np.split(np.arange(ends[-1]), ends[:-1]))
    ticks: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def tick(role: str, row: Mapping[str, float]) -> None:
        ticks[role].append((time.perf_counter(), row["seconds"]))

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training will give the same ones
        chain = distill_chain(
            chosen,
            _short(recipe, size),
            small,
            on_epoch=tick,
            progress=False,
            folder=folder,
            **options,
        )
    timed, steps, seconds = max(1, len(rows["train"]) // size), {}, 0.0
    for role, times in ticks.items():
        owner = "student" if role.startswith("student_") else role
        epochs, each = recipe.epochs(owner, count), max(1, count // size)
        steps[role] = epochs * each
        passes = len(times) - 1
        validation = _validation(chain, role)
        step = (sum(busy for _, busy in times[1:]) / passes - validation) / timed
        checkpoint = (times[-1][0] - times[0][0] - sum(busy for _, busy in times[1:])) / passes
        seconds += epochs * (each * max(0.0, step) + validation + checkpoint)
    return Estimate(steps, seconds)


def _short(recipe: Recipe, size: int) -> Recipe:
    """The recipe with PASSES epochs of every network and nothing that they are too short for."""
    between = tuple(replace(network, epochs=PASSES) for network in recipe.secondary_teachers)
    return recipe.replace(
        teacher=replace(recipe.teacher, epochs=PASSES),
        secondary_teachers=between,
        student=replace(recipe.student, epochs=PASSES),
        batch_size=size,
        warmup=None,
        patience=None,
        drops=(),
    )


def _validation(chain: Chain, role: str) -> float:
    """Seconds of one validation of a network."""
    fabric = make_fabric(chain.recipe)
    network = fabric.to_device(chain.stages[role].network)
    samples = chain.examples.samples(chain.split.validation).to(fabric.device)
    if not len(samples.target):  # as released, without a validation part
        return 0.0
    began = time.perf_counter()
    validate(predict_logits(network, samples.inputs, fabric=fabric), samples.target)
    return time.perf_counter() - began


def _few(labels: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """The first of each class, and of the others as many as make ``most``."""
    firsts = rows[np.unique(labels[rows], return_index=True)[1]]
    others = rows[~np.isin(rows, firsts)]
    return np.concatenate([firsts, others[: max(0, most - len(firsts))]])
