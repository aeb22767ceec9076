"""The second study's settings: who has which labels, who teaches, and by which methods.

A case of the first study's data (`_data`) is changed in its training part alone. Validation and
test parts keep their true labels in every setting: all methods choose their epoch on the same ones.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from _data import Case, bearings_case, share_of, tiles_case
from _methods import GRIDS, META_SHARE, SECONDARY, train
from torch import Tensor, nn

from hfld_lite.data.augmentation import Augmentation
from hfld_lite.data.recordings import UNLABELLED
from hfld_lite.distillation import CROSS_ENTROPY, Distiller, Objective, filled, term
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.losses import separated_logit_loss
from hfld_lite.networks import Output
from hfld_lite.recipes import ALONE
from hfld_lite.rivals.presets import preset
from hfld_lite.teachers import Batch, TeacherTargets

WEAK = 0.05
"""Share of the labels from which the weak teacher learned."""


class Setting(NamedTuple):
    """What a student is given.

    ``labels`` is the share of tiles (or blocks) with a label; ``unlabelled`` whether it is
    distilled on the others as well; ``teacher`` whom it learns from, a key of TEACHERS; ``noise``
    the share of labels that are wrong, for teacher and student alike.
    """

    methods: tuple[str, ...]
    labels: float = 1.0
    unlabelled: bool = False
    teacher: str = "sound"
    noise: float = 0.0


TEACHERS: dict[str, Setting] = {
    "sound": Setting(()),
    "weak": Setting((), labels=WEAK),
    "wrong": Setting(()),
    **{f"noisy {share}": Setting((), noise=share / 100) for share in (20, 40)},
    "own 10": Setting((), labels=0.1),
}
"""What each teacher learned from. The labels of the *wrong* one are the next class's throughout; an
*own* one had no more labels than its student. A secondary teacher learns from the same labels."""

STRATEGIES = ("weights uncertainty", "weights meta", "weights trusted")
RIVALS = ("kd", "dkd", "fitnet", "dense")
HFLKD = ("one-to-one", "direct", "hierarchy")
SHARES = (1, 5, 10, 25)
LIFTS = ("normalised", "ensemble", "born again")
LONG = ("alone long", "kd long", "alone varied", "patient")
DOUBTED = ("kd", "direct", "hierarchy", *STRATEGIES)

SETTINGS: dict[str, Setting] = {
    "labels 100": Setting(("alone", *RIVALS, *HFLKD, *STRATEGIES)),
    **{f"labels {n}": Setting(("alone", *RIVALS, *HFLKD), n / 100) for n in SHARES},
    **{f"all {n}": Setting(("pseudo-labels", *RIVALS[:2], *HFLKD), n / 100, True) for n in SHARES},
    "own 10": Setting(("pseudo-labels", "kd", *HFLKD[1:]), 0.1, True, "own 10"),
    "weak": Setting(DOUBTED, teacher="weak"),
    "wrong": Setting(DOUBTED, teacher="wrong"),
    **{
        f"noise {n}": Setting(("alone", *DOUBTED), teacher=f"noisy {n}", noise=n / 100)
        for n in (20, 40)
    },
    "lifts 10": Setting(LIFTS, 0.1),
    "lifts 100": Setting((*LIFTS, *LONG)),
}
"""Every setting by name. What stands in "labels N" is not trained again in "all N" or "lifts N".

Weights that are learned on meta batches need ten labelled groups a class, which few labels lack.
"""

FEWER = ("labels 100", "labels 10", "all 10", "wrong")
"""Settings of a data set that is looked at beside the main ones."""

LONGER = 4
"""Times as many steps as the recipe has: the methods LONG, against each other."""

GRIDS = GRIDS | {
    "pseudo-labels": GRIDS["alone"],
    "unlabelled": [{"unlabelled": share} for share in (0.25, 0.5, 0.75)] + [{"plain": True}],
}
"""Candidates of the methods that are tuned; "unlabelled" is HFLKD with other shares of unlabelled
rows in a batch, and with plain KD on these rows in place of the separated logits."""

TUNED = {
    "labels 10": ("alone", *RIVALS, "direct", "hierarchy"),
    "labels 100": ("alone", *RIVALS, "direct", "hierarchy"),
    "all 10": ("pseudo-labels", "unlabelled"),
}
"""Where each method is tuned; its candidate has the best mean over these settings."""


@lru_cache(2)  # a worker's cells come data by data and seed by seed
def made(data: str, seed: int, tiles: int, folder: Path) -> Case:
    """Recordings and parts of a data set of the second study, as they are before any setting."""
    recipe = preset("classroom")
    if data == "tiles":
        return tiles_case("again", seed, recipe, tiles)
    return bearings_case(data.partition(" ")[2], seed, recipe, folder)


def given(case: Case, setting: Setting, wrong: bool = False) -> Case:
    """The case with the labels that a setting leaves to its training part."""
    recordings, rows, seed = case.recordings, case.parts.train, case.recipe.seed
    labels, classes = np.array(recordings.labels), len(recordings.class_names)
    if wrong:
        labels[rows] = (labels[rows] + 1) % classes
    if setting.noise:
        rng = np.random.default_rng(seed)
        hit = rng.permutation(rows)[: round(setting.noise * len(rows))]
        labels[hit] = (labels[hit] + rng.integers(1, classes, len(hit))) % classes
    if setting.labels < 1:
        known = share_of(recordings, rows, setting.labels, seed)
        labels[np.setdiff1d(rows, known)] = UNLABELLED
    return case._replace(recordings=replace(recordings, labels=labels))


def learn(trainer: Trainer, method: str, chosen: dict[str, dict[str, Any]]) -> Stage:
    """Train the student by a method of a setting; the trainer's stages hold its teachers."""
    if method in OTHERS:
        return OTHERS[method](trainer, method, chosen)
    return train(trainer, method, chosen)


def recipe_of(case: Case, setting: Setting, method: str) -> Case:
    """The case with what a method changes of the recipe before a trainer is built."""
    recipe = case.recipe.replace(unlabelled=case.recipe.unlabelled * setting.unlabelled)
    if method in ("weights meta", "weights trusted"):
        recipe = recipe.replace(meta_share=META_SHARE)
    if method in LONG:
        varied = Augmentation() if method in ("alone varied", "patient") else None
        recipe = recipe.replace(steps=LONGER * recipe.steps, augmentation=varied)
    return case._replace(recipe=recipe)


class PseudoLabels(Objective):
    """Learn from labels, and where there is none from the class that the teacher names."""

    unlabelled = True

    def __init__(self, student: nn.Module, targets: Any) -> None:
        super().__init__(student)
        self.answers_from = tuple(targets)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy, which is the only term."""
        output, teacher = self.student(batch.inputs), self.answers_from[0].answers(batch)
        loss = F.cross_entropy(output.logits.float(), filled(batch.target, teacher.logits))
        return loss, {CROSS_ENTROPY: loss}


@term("separated or kd")
def _separated_or_kd(
    student: Output,
    teacher: Output,
    target: Tensor,
    temperature: float = 5.0,
    known: Tensor | None = None,
) -> Tensor:
    """TCKD + NCKD of rows with a label, plain KD of the others: TCKD + (1 − p_t,y) · NCKD."""
    logits, said = student.logits, teacher.logits
    tckd, nckd = separated_logit_loss(logits, said, target, temperature, "none")
    sure = (said / temperature).softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
    return (tckd + nckd.where(known, (1 - sure) * nckd)).mean()


class PlainWithoutLabel(Distiller):
    """HFLKD whose logit term is plain KD for rows without a label."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Distiller`'s."""
        for _, options in self.terms:
            if "temperature" in options:
                options["known"] = batch.target != UNLABELLED
        return super().forward(batch)


@term("normalised", projected=True)
def _normalised(student: Output, teacher: Output, target: Tensor) -> Tensor:
    """Squared distance of the features, scaled to length 1 at each position."""
    ones, others = (F.normalize(said.features.flatten(2), dim=1) for said in (student, teacher))
    return (ones - others).square().sum(1).mean()


def _pseudo(trainer: Trainer, method: str, chosen: dict) -> Stage:
    rate = trainer.recipe.learning_rate * chosen[method]["rate"]
    trainer.recipe = trainer.recipe.replace(learning_rate=rate)
    return trainer.distil_by(ALONE, ("teacher",), PseudoLabels, method)


def _unlabelled(trainer: Trainer, method: str, chosen: dict) -> Stage:
    """HFLKD with a candidate of "unlabelled"."""
    options = dict(chosen[method])
    if not options.pop("plain", False):
        recipe = trainer.recipe.replace(**options)
        return trainer.distil("student", SECONDARY, recipe, method)
    recipe = trainer.recipe
    weights = {"feature": recipe.alpha, "separated or kd": recipe.mu, CROSS_ENTROPY: recipe.beta}

    def build(student: nn.Module, targets: Any) -> Distiller:
        settings = (recipe.temperature, recipe.heads)
        return PlainWithoutLabel(student, targets[0], weights, *settings)

    return trainer.distil_by("student", (SECONDARY,), build, method)


def _kd(
    trainer: Trainer,
    method: str,
    chosen: dict,
    change: Callable[[TeacherTargets], TeacherTargets] = lambda targets: targets,
    teacher: str = "teacher",
    **more: float,
) -> Stage:
    """Plain KD with further terms, or from other answers."""
    options = dict(chosen["kd"])
    weights = {CROSS_ENTROPY: 1.0, "kd": options.pop("weight"), **more}

    def build(student: nn.Module, targets: Any) -> Distiller:
        return Distiller(student, change(targets[0]), weights, **options)

    return trainer.distil_by("student", (teacher,), build, method)


def _ensemble(trainer: Trainer, method: str, chosen: dict) -> Stage:
    """KD from the mean of the logits of the teacher and of two more, other first weights."""
    logits = [trainer.targets(name).logits for name in ("teacher", "second", "third")]
    mean = sum(logits) / len(logits)
    return _kd(trainer, method, chosen, lambda targets: targets._replace(logits=mean))


def _trusted(trainer: Trainer, method: str, chosen: dict) -> Stage:
    recipe = trainer.recipe.replace(**chosen["hierarchy"], weighting="trusted")
    return trainer.distil("student", SECONDARY, recipe, method)


def _alone(trainer: Trainer, method: str, chosen: dict) -> Stage:
    return replace(train(trainer, "alone", chosen), role=method)


OTHERS: dict[str, Callable[..., Stage]] = {
    "weights trusted": _trusted,
    "pseudo-labels": _pseudo,
    "unlabelled": _unlabelled,
    "normalised": partial(_kd, normalised=1.0),
    "ensemble": _ensemble,
    "born again": partial(_kd, teacher="born again"),
    "kd long": _kd,
    "patient": _kd,
    "alone long": _alone,
    "alone varied": _alone,
}
"""The methods that the first study does not have."""
