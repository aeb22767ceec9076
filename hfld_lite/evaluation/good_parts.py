"""A detector that learns from good parts alone: trained, its limit set, its score chosen.

The chain teacher → secondary teacher → student learns to tell kinds and pitches of good parts apart
(:mod:`hfld_lite.data.good_parts`), scores are fitted on the training part
(:mod:`hfld_lite.evaluation.scores`), and the validation part's good recordings set the limit. The
result is a chain like any other, of networks with the classes good and defective.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hfld_lite.data.examples import Examples, Stored
from hfld_lite.data.good_parts import FALSE_ALARMS, told_apart
from hfld_lite.data.parts import average
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.distillation import Distiller, Objective
from hfld_lite.errors import look_up
from hfld_lite.evaluation.metrics import accuracy_interval
from hfld_lite.evaluation.scores import (
    FEATURES,
    MATCHING,
    SCORES,
    SHARPNESS,
    SPECTRUM,
    Distance,
    Taught,
    distances,
    limit_of,
    promised,
    values,
)
from hfld_lite.evaluation.trust import level_table, novelty
from hfld_lite.hierarchy import ALONE, Chain, Stage, Trainer
from hfld_lite.recipes import Recipe
from hfld_lite.storage.history import Fit
from hfld_lite.training import predict_logits, validate

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = SPECTRUM
"""The score that answers, where nobody chooses another and no defective recording may choose.

Chosen on development sets by ``data_scripts/study_good_parts.py choose``."""

TRUST = "trust"
"""In the table, the spectral distance by which every run warns of unusual recordings."""

MOST_FALSE_ALARMS = 0.1
"""Share of false alarms up to which the partial AUC counts."""

ROUNDS = 1000
"""Of a bootstrap over groups."""


@dataclass(frozen=True)
class GoodParts:
    """What a training on good parts gave.

    Attributes:
        chain: networks by role, two logits each: the features of all networks of the chain, and
            behind them the score that answers if it is another; and the split.
        networks: the same for every score, by score and role.
        score: the name of the score that answers.
        false_alarms: the promised share of false alarms.
        groups, recordings: good ones of the validation part, which set the limits.
        chosen_by: the AUC of each score on the validation part, where defective recordings were
            used to choose; empty where not.
    """

    chain: Chain
    networks: dict[str, dict[str, Distance]]
    score: str
    false_alarms: float
    groups: int
    recordings: int
    chosen_by: dict[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """What a run folder keeps of it."""
        names = ("score", "false_alarms", "groups", "recordings", "chosen_by")
        return {name: getattr(self, name) for name in names}

    def table(self, recordings: Recordings, rows: np.ndarray) -> pd.DataFrame:
        """Every score on the same recordings, in one table; see :func:`measured`.

        Args:
            recordings: what the chain was trained on.
            rows: those to measure; the test part is read once, at the end.
        """
        chain = self.chain
        inputs = chain.examples.samples(rows).inputs
        found = {
            (name, role): probabilities(network, inputs)
            for name, networks in self.networks.items()
            for role, network in networks.items()
        }
        part = recordings.select(rows)
        train = recordings.select(chain.split.train)
        calibration = recordings.select(sound_rows(recordings, chain.split.validation))
        found[TRUST, ""] = _by_spectrum(train, calibration, part, self.false_alarms)
        table = [
            {"score": name, "role": role} | measured(each, part)
            for (name, role), each in found.items()
        ]
        import pandas as pd

        return pd.DataFrame(table)


def train_good(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split,
    *,
    false_alarms: float | None = None,
    score: str | None = None,
    use_defects: bool = False,
    **options: Any,
) -> GoodParts:
    """Train the chain on good parts alone, fit every score, and set its limit.

    Args:
        recordings: of :func:`hfld_lite.data.good_parts.as_good`.
        recipe: of the chain.
        parts: of :func:`hfld_lite.data.good_parts.split_good`.
        false_alarms: the share of good recordings that may be called defective; by default
            FALSE_ALARMS, or the least that the validation part's groups can promise.
        score: name in SCORES of the score that answers; by default DEFAULT, or with `use_defects`
            that with the largest AUC on the validation part.
        use_defects: whether the defective recordings of the validation part choose the score.
        options: of :class:`hfld_lite.hierarchy.Trainer`: progress, folder, resume, …

    Raises:
        ArgumentError: if the score is unknown, the share cannot be promised, or all scores are
            equal.
        HfldError: as the trainer does.
    """
    if score is not None:
        look_up(SCORES, score, "Score")
    examples = Examples.of(recordings, recipe, options.get("in_memory"), options.get("workers", 0))
    chain, networks = _chain(recordings, recipe, parts, examples, options)
    calibration = sound_rows(recordings, parts.validation)
    groups, wholes = recordings.groups[calibration], recordings.wholes
    rate = promised(groups, false_alarms, FALSE_ALARMS)
    inputs = examples.samples(calibration).inputs
    for each in networks.values():
        for network in each.values():
            found = values(network.body, inputs)
            limit = limit_of(found, groups, rate, None if wholes is None else wholes[calibration])
            network.set_limit(limit, rate)
    chosen_by = {}
    if use_defects:
        seen = recordings.select(parts.validation)
        inputs = examples.samples(parts.validation).inputs
        chosen_by = {
            name: measured(probabilities(_answering(each), inputs), seen)["auc"]
            for name, each in networks.items()
        }
    score = score or max(chosen_by, key=chosen_by.get, default=DEFAULT)
    inputs = examples.samples(calibration).inputs
    stages = {}
    # The networks of the chain are kept beside a score that needs none of them.
    for role, network in (networks[FEATURES] | networks[score]).items():
        known = chain.stages.get(role)
        stages[role] = Stage(
            role,
            network,
            known.learned_from if known else "good parts",
            known.fit if known else _taken(network, inputs),
        )
    return GoodParts(
        Chain(recipe, stages, parts, examples, frozenset(stages)),
        networks,
        score,
        rate,
        len(np.unique(groups)),
        count_of(recordings, calibration),
        chosen_by,
    )


class _Keeping(Trainer):
    """A trainer that keeps the objectives: their projections are part of the score *matching*."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objectives: dict[str, Objective] = {}

    def _fit(self, name: str, role: str, objective: Objective, *given: Any) -> Stage:
        self.objectives[name] = objective
        return super()._fit(name, role, objective, *given)


def _chain(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split,
    examples: Examples,
    options: dict[str, Any],
) -> tuple[Chain, dict[str, dict[str, Distance]]]:
    """The chain that tells kinds and pitches apart, and all scores that are fitted on it."""
    pretext, inner = told_apart(recordings, parts, recipe.seed)
    trainer = _Keeping(pretext, recipe, inner, **options)
    roles = list(recipe.chain)
    trainer.supervise(roles[0])
    for teacher, role in pairwise(roles):
        trainer.distil(role, teacher)
    trainer.supervise(ALONE)
    chain = trainer.chain()
    projections = {
        role: each.project.cpu()
        for role, each in trainer.objectives.items()
        if isinstance(each, Distiller) and each.project is not None
    }
    taught = Taught(
        {role: stage.network.eval() for role, stage in chain.stages.items()},
        projections,
        dict(zip(roles[1:], roles, strict=False)),
        recipe.heads,
        examples.samples(parts.train).inputs,
        recipe.seed,
    )
    networks = {
        name: distances(each.fit(taught), each.words)
        for name, each in SCORES.items()
        if projections or name != MATCHING  # a recipe without feature matching has none
    }
    return chain, networks


def _answering(networks: dict[str, Distance]) -> Distance:
    """The network that answers: the student, or the score's only one."""
    return networks.get("student", next(reversed(networks.values())))


def _taken(network: Distance, inputs: Tensor | Stored) -> Fit:
    """What stands in place of a training's course: how many good recordings are called good."""
    logits = predict_logits(network, inputs)
    found = validate(logits, torch.zeros(len(logits), dtype=torch.long))
    return Fit([{"epoch": 0, **found, "seconds": 0.0, "verdict": ""}], 0, 0.0)


def sound_rows(recordings: Recordings, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that are good."""
    return rows[recordings.labels[rows] == 0]


def count_of(recordings: Recordings, rows: np.ndarray) -> int:
    """Recordings that the rows are, or are windows of."""
    return len(rows) if recordings.wholes is None else len(np.unique(recordings.wholes[rows]))


def probabilities(network: nn.Module, inputs: Tensor | Stored) -> np.ndarray:
    """σ of the second logit less the first, ``(n,)``: above a half the answer is defective."""
    return torch.softmax(predict_logits(network, inputs).double(), 1)[:, 1].numpy()


def _by_spectrum(
    train: Recordings, calibration: Recordings, part: Recordings, rate: float
) -> np.ndarray:
    """As `probabilities`, for the squared distance of `hfld_lite.evaluation.trust`."""
    from scipy.special import expit  # slow to import

    table = level_table(train.signals, train.labels)
    known, found = (novelty(each.signals, *table) ** 2 for each in (calibration, part))
    limit = limit_of(known, calibration.groups, rate, calibration.wholes)
    return expit(SHARPNESS * (found / limit - 1))


def promise(false_alarms: float, groups: int, recordings: int) -> str:
    """What a limit guarantees, in a sentence."""
    return (
        f"On average over such trainings, at most {false_alarms:.2%} of good recordings are called "
        f"defective, for parts like the {groups} good groups ({recordings} recordings) of the "
        "validation part that set the limit; a single limit can do worse, the fewer groups the "
        "more. How many defects are missed is not promised."
    )


def measured(suspicion: np.ndarray, part: Recordings) -> dict[str, Any]:
    """Figures of a score, with 95 % intervals over groups.

    Args:
        suspicion: of each row of ``part``, ``(n,)``; above a half the answer is defective. Windows
            of a recording are averaged.
        part: recordings with the classes good and defective.

    Returns:
        auc, auc_low, auc_high: the area under the ROC curve, and its bootstrap over groups.
        partial_auc: the area up to MOST_FALSE_ALARMS false alarms, standardised so that 0.5 is
            chance and 1 perfect (McClish, 1989).
        miss_rate, miss_low, miss_high; false_alarm_rate, false_low, false_high: at the limit, with
            Wilson's intervals on the effective number; None where there is no such recording.
    """
    suspicion, first = average(np.asarray(suspicion, float), part.wholes)
    labels, groups = part.labels[first], part.groups[first]
    found: dict[str, Any] = dict.fromkeys(("auc", "auc_low", "auc_high", "partial_auc"))
    if len(np.unique(labels)) == 2:
        from sklearn.metrics import roc_auc_score  # slow to import

        found["auc"] = float(roc_auc_score(labels, suspicion))
        found["partial_auc"] = float(roc_auc_score(labels, suspicion, max_fpr=MOST_FALSE_ALARMS))
        found["auc_low"], found["auc_high"] = auc_interval(suspicion, labels, groups)
    for name, label in (("false_alarm", 0), ("miss", 1)):
        rows = labels == label
        right = (suspicion[rows] > 0.5) == bool(label)
        rate = low = high = None
        if rows.any():
            rate = float(1 - right.mean())
            low, high = (1 - end for end in reversed(accuracy_interval(right, groups[rows])))
        short = name.removesuffix("_alarm")
        found |= {f"{name}_rate": rate, f"{short}_low": low, f"{short}_high": high}
    return found


def auc_interval(
    suspicion: np.ndarray, labels: np.ndarray, groups: np.ndarray, rounds: int = ROUNDS
) -> tuple[float, float]:
    """The 95 % percentile interval of the AUC, by a bootstrap over groups within each class.

    A draw of groups counts each pair of a good and a defective group as often as both were drawn,
    so that all rounds need the wins of each pair once. Source: Efron and Tibshirani, "An
    introduction to the bootstrap", 1993.
    """
    wins, sizes = _wins(suspicion, labels, groups)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(rounds):
        counts = [np.bincount(rng.integers(n, size=n), minlength=n) for n in wins.shape]
        found.append(
            (counts[0] @ wins @ counts[1]) / ((counts[0] @ sizes[0]) * (counts[1] @ sizes[1]))
        )
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _wins(
    suspicion: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """How often a recording of a defective group is more suspect than one of a good group."""
    parts = [np.flatnonzero(labels == label) for label in (0, 1)]
    codes = [np.unique(groups[rows], return_inverse=True)[1] for rows in parts]
    sizes = [np.bincount(each).astype(float) for each in codes]
    good = suspicion[parts[0]]
    order = np.argsort(good, kind="stable")
    wins = np.zeros([len(each) for each in sizes])
    # Recordings of the good groups up to each place, so that a defective one needs one look-up.
    before = np.zeros((len(good) + 1, len(sizes[0])))
    np.cumsum(np.eye(len(sizes[0]))[codes[0][order]], axis=0, out=before[1:])
    for group, value in zip(codes[1], suspicion[parts[1]], strict=True):
        below, up_to = (np.searchsorted(good[order], value, side) for side in ("left", "right"))
        wins[:, group] += (before[below] + before[up_to]) / 2
    return wins, sizes


def by_kind(suspicion: np.ndarray, part: Recordings) -> pd.DataFrame:
    """For each kind of part: recordings, how many are called defective, and the share.

    Args:
        suspicion, part: as :func:`measured` gets them; `part` has `kinds`.
    """
    import pandas as pd

    suspicion, first = average(np.asarray(suspicion, float), part.wholes)
    kinds, labels = part.kinds[first], part.labels[first]
    rows = []
    for kind in np.unique(kinds):
        called = suspicion[kinds == kind] > 0.5
        rows.append(
            {
                "kind": str(kind),
                "class": part.class_names[labels[kinds == kind][0]],
                "recordings": len(called),
                "called_defective": int(called.sum()),
            }
        )
    return pd.DataFrame(rows)
