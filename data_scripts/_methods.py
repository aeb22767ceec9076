"""The study's methods: rivals, HFLKD and its ablations, each from the same student and batches.

Every method has a grid of as many candidates; validation accuracy on data of its own (see
`run_study`) chooses one. Ablations of HFLKD take the candidate of "hierarchy" and change one thing.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from hfld_lite.distillation import Distiller, term
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import Output
from hfld_lite.recipes import ALONE
from hfld_lite.rivals.dense import DenselyGuided

SECONDARY, ASSISTANT = "secondary_teacher", "assistant_teacher"
ASSISTED = {"weight": 1.0, "temperature": 4.0}
"""How the teacher assistant itself learned from the teacher, by plain KD."""

META_SHARE = 0.1
"""Of the training part, given up by the weights "meta" alone: its price is part of it."""

_LOGITS = [{"weight": w, "temperature": t} for w, t in ((0.3, 4.0), (1.0, 2.0), (1.0, 5.0))]
HFLKD = [
    dict(zip(("alpha", "mu", "nu", "temperature"), w, strict=True))
    for w in ((1.0, 1.0, 1.0, 2.0), (1.0, 0.3, 0.3, 5.0), (0.3, 0.3, 0.3, 2.0))
]
_DRAWN = np.exp(np.random.default_rng(0).uniform(np.log(0.03), np.log(3), (3, 3))).round(3)

GRIDS: dict[str, list[dict[str, Any]]] = {
    "alone": [{"rate": factor} for factor in (0.3, 1.0, 3.0)],
    "kd": _LOGITS,
    "fitnet": [{"weight": w} for w in (0.3, 1.0, 3.0)],
    "attention": [{"weight": w} for w in (1.0, 10.0, 100.0)],
    "dkd": [{"weight": w, "beta": b} for w, b in ((0.3, 2.0), (1.0, 2.0), (1.0, 8.0))],
    "standardised": [
        {"weight": w, "temperature": t} for w, t in ((1.0, 2.0), (3.0, 2.0), (3.0, 4.0))
    ],
    "matching": [{"alpha": a, "mu": 0.0, "nu": 0.0} for a in (0.3, 1.0, 3.0)],
    "assistant": _LOGITS,
    "dense": _LOGITS,
    "random search": [
        dict(zip(("alpha", "mu", "nu"), map(float, row), strict=True)) | {"temperature": 2.0}
        for row in _DRAWN
    ],
    "direct": HFLKD,
    "hierarchy": HFLKD,
}
"""Candidates of each method; "random search" draws its weights, log-uniform from 0.03 to 3.

The "rate" of the student alone is a factor on the recipe's learning rate.
"""

STRATEGIES = ("published", "naive", "uncertainty", "meta")
ABLATIONS: dict[str, dict[str, Any]] = {
    "without feature": {"alpha": 0.0},
    "without tckd": {"mu": 0.0},
    "without nckd": {"nu": 0.0},
    "without cross-entropy": {"beta": 0.0},
    "without hierarchy": {"teacher": "teacher"},
    **{f"weights {name}": {"weighting": name} for name in STRATEGIES},
    "one-to-one": {"match": "fitnet"},
    "heads 1": {"heads": 1},
    "without 1/sqrt(d)": {"match": "unscaled"},
    **{f"temperature {t:g}": {"temperature": float(t)} for t in (1, 2, 5, 10, 20)},
}
"""What each ablation changes; the recipe has 8 heads and fixed weights."""


def train(trainer: Trainer, method: str, chosen: dict[str, dict[str, Any]]) -> Stage:
    """Train the student by a method.

    Args:
        trainer: whose stages hold the teachers.
        method: in GRIDS or ABLATIONS.
        chosen: a candidate for each method of GRIDS that is needed.
    """
    if method in ABLATIONS:
        return _hflkd(trainer, method, chosen["hierarchy"] | ABLATIONS[method])
    options = chosen[method]
    if method == "alone":
        rate = trainer.recipe.learning_rate * options["rate"]
        trainer.recipe = trainer.recipe.replace(learning_rate=rate)
        return trainer.supervise(ALONE)
    if method in ("direct", "matching", "hierarchy", "random search"):
        teacher = "teacher" if method == "direct" else SECONDARY
        return _hflkd(trainer, method, {"teacher": teacher} | options)
    if method == "dense":
        build = partial(DenselyGuided, **options)
        return trainer.distil_by("student", ("teacher", SECONDARY), build, method)
    teacher, rival = ("teacher", method) if method != "assistant" else (ASSISTANT, "kd")
    return trainer.distil_by("student", (teacher,), partial(_rival, rival, options), method)


def assist(trainer: Trainer) -> Stage:
    """The teacher assistant: the secondary teacher's network, taught by plain KD."""
    build = partial(_rival, "kd", ASSISTED)
    return trainer.distil_by(SECONDARY, ("teacher",), build, ASSISTANT)


def _rival(method: str, options: dict[str, Any], student: Any, targets: Any) -> Distiller:
    options = dict(options)
    weights = {"cross_entropy": 1.0, method: options.pop("weight")}
    return Distiller(student, targets[0], weights, **options)


@term("unscaled", projected=True)
def _unscaled(student: Output, teacher: Output, target: Tensor, heads: int = 8) -> Tensor:
    """One-to-all matching whose attention is not divided by √d."""
    return one_to_all_matching(student.features, teacher.features, heads, scale=False)


def _hflkd(trainer: Trainer, name: str, options: dict[str, Any]) -> Stage:
    options = dict(options)
    teacher = options.pop("teacher", SECONDARY)
    match = options.pop("match", None)
    recipe = trainer.recipe.replace(**options)
    if match is None:
        return trainer.distil("student", teacher, recipe, name)
    weights = {match if term == "feature" else term: w for term, w in recipe.weights.items()}

    def build(student: Any, targets: Any) -> Distiller:
        return Distiller(student, targets[0], weights, recipe.temperature, recipe.heads)

    return trainer.distil_by("student", (teacher,), build, name)
