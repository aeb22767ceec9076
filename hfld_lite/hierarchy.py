"""The chain: a teacher learns from labels, a secondary teacher from it, a student from that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.detector import Detector, TestResult
from hfld_lite.recipes import ALONE, CONTROLS, DENSE, DIRECT, Recipe
from hfld_lite.trainer import Stage, Trainer


@dataclass(frozen=True)
class Chain:
    """A trained chain: its stages in the order of training, and the split they were trained on."""

    detector: Detector
    stages: dict[str, Stage]
    split: Split
    source: str

    def test(self, recordings: Recordings) -> "TestResult":
        """Measure every network on the test part of the recordings that the chain was trained on.

        Meant to be called once, at the end: whoever chooses by it has no test set left.
        """
        return self.detector.test(recordings.select(self.split.test))

    def predict(self, signals: np.ndarray, sample_rate: int, role: str = "student") -> np.ndarray:
        """Class probabilities of raw signals; see :meth:`Detector.predict`."""
        return self.detector.predict(signals, sample_rate, role)

    def history(self) -> pd.DataFrame:
        """Every stage's history, one below the other, with its role."""
        return pd.concat(
            [stage.fit.history.assign(role=role) for role, stage in self.stages.items()],
            ignore_index=True,
        )


def distill_chain(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    controls: Sequence[str] = ("alone",),
    progress: bool = True,
    on_epoch: Callable[[str, dict[str, float]], None] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Chain:
    """Train teacher → secondary teachers → student, and the student in other ways as controls.

    The teacher learns from labels. Frozen, it is run once over the training set, and the next
    network learns from labels and from what it said; so on down to the student. The controls start
    from the student's initial weights and see the same batches in the same order for as many
    steps. Validation chooses each network's epoch; the test part is not touched.

    Args:
        recordings: of three classes or more if separated logits are to mean something.
        recipe: every choice.
        parts: by default, drawn by group with the recipe's shares and seed.
        controls: any of "alone", "direct" and "dense"; see CONTROLS.
        progress: a progress bar for each stage.
        on_epoch: called with a role and a new row of its history.
        folder: for a checkpoint after each epoch; without it nothing is kept until the end.
        resume: go on with the training in the folder, or begin it. On the same machine with as
            many threads the weights then have the bits of an undisturbed training.

    Raises:
        DataError: if the recordings cannot be split, or are too short for the networks.
        RecipeError: if the heads do not divide a teacher's channels.
        HfldError: if a term of the loss that has a weight stays zero for no good reason, a loss is
            not finite, memory runs out, or a checkpoint cannot be written.
        Interrupted: if the user stopped it; the text says what is kept.
    """
    for control in controls:
        if control not in CONTROLS:
            raise ArgumentError(f"Control {control!r} is unknown; choose of {', '.join(CONTROLS)}.")
    trainer = Trainer(recordings, recipe, parts, progress, on_epoch, folder, resume)
    trainer.supervise("teacher")
    for teacher, role in pairwise(recipe.chain):
        trainer.distil(role, teacher)
    for control in controls:
        if control == "alone":
            trainer.supervise(ALONE)
        elif control == "direct":
            trainer.distil(DIRECT, "teacher")
        else:
            trainer.guide_densely(DENSE, list(recipe.chain)[:-1])
    return Chain(trainer.detector(), trainer.stages, trainer.parts, recordings.source)
