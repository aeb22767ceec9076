"""The chain: a teacher learns from labels, a secondary teacher from it, a student from that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hfld_lite.distillation import (
    DenselyGuided,
    Distiller,
    Objective,
    Supervised,
    TeacherTargets,
    teacher_targets,
)
from hfld_lite.edge import count_macs, median_latency, size_bytes
from hfld_lite.errors import ArgumentError, DataError, HfldError, RecipeError
from hfld_lite.metrics import Evaluation, evaluate
from hfld_lite.networks import MIN_SAMPLES, POSITIONS, ResNet1d, count_parameters, resnet1d
from hfld_lite.recipes import Network, Recipe
from hfld_lite.recordings import Recordings
from hfld_lite.splits import Split, check_split, split
from hfld_lite.training import Fit, Samples, derive_seed, fit, make_fabric, predict_logits, seeded
from hfld_lite.transforms import VIEWS
from hfld_lite.weighting import make_weighting

ALONE, DIRECT, DENSE = "student_alone", "student_direct", "student_dense"
CONTROLS = {"alone": ALONE, "direct": DIRECT, "dense": DENSE}
"""Roles of the controls, all with the student's network, initial weights, batches and steps: from
labels alone, from the teacher without the secondary ones, from the logits of all larger ones."""


@dataclass(frozen=True)
class Stage:
    """One trained network of the chain and how it came about."""

    role: str
    network: ResNet1d
    learned_from: str
    fit: Fit


@dataclass(frozen=True)
class Detector:
    """Trained networks with everything needed to use them on raw recordings.

    ``sample_rate`` (Hz) and ``samples`` say what recordings the networks were trained on.
    """

    recipe: Recipe
    networks: dict[str, ResNet1d]
    class_names: tuple[str, ...]
    normal_classes: tuple[str, ...]
    sample_rate: int
    samples: int

    @property
    def bin_width(self) -> float:
        """Width of one bin of the spectrum in Hz."""
        return self.sample_rate / (self.recipe.samples or self.samples)

    def inputs(self, signals: np.ndarray) -> Tensor:
        """What the networks read of raw signals ``(n, samples)``."""
        return network_inputs(signals, self.recipe)

    def predict(self, signals: np.ndarray, sample_rate: int, role: str = "student") -> np.ndarray:
        """Class probabilities ``(n, classes)`` of raw signals ``(n, samples)``.

        Raises:
            DataError: if the sample rate or the number of samples is not what the networks know.
            HfldError: if there is no network of that role.
        """
        self.check(np.asarray(signals).shape[-1], sample_rate, "signals")
        logits = predict_logits(self.network(role), self.inputs(signals))
        return torch.softmax(logits, 1).cpu().numpy()

    def network(self, role: str) -> ResNet1d:
        """The network of a role."""
        if role not in self.networks:
            raise HfldError(f"There is no {role!r} here; choose from {', '.join(self.networks)}.")
        return self.networks[role]

    def only(self, role: str) -> "Detector":
        """The same with the network of one role alone."""
        return replace(self, networks={role: self.network(role)})

    def check(self, samples: int, sample_rate: int, where: str) -> None:
        """Refuse recordings that would give a wrong answer rather than an error."""
        if sample_rate != self.sample_rate:
            raise DataError(
                where,
                f"the sample rate is {sample_rate} Hz",
                expected=f"{self.sample_rate} Hz, as in training",
                mend="resample the recording",
            )
        if samples != self.samples:
            raise DataError(
                where,
                f"a recording has {samples} samples",
                expected=f"{self.samples}, as in training",
                mend="cut it as the training data was cut",
            )

    def evaluate(self, recordings: Recordings, role: str = "student") -> Evaluation:
        """Figures of one network on recordings of the same classes.

        Raises:
            DataError: if classes, sample rate or samples differ from training.
        """
        predicted = self._probabilities(recordings, role).argmax(1)
        return self._compare(predicted, recordings)

    def test(self, recordings: Recordings) -> "TestResult":
        """Every network's figures, predictions and costs on the same recordings, in one reading."""
        evaluations, rows = {}, []
        predictions = pd.DataFrame(
            {
                "recording": recordings.origins,
                "group": recordings.groups,
                "class": np.array(self.class_names)[recordings.labels],
            }
        )
        for role in self.networks:
            probabilities = self._probabilities(recordings, role)
            predicted = probabilities.argmax(1)
            predictions[role] = np.array(self.class_names)[predicted]
            predictions[f"{role}_probability"] = probabilities.max(1)
            found = evaluations[role] = self._compare(predicted, recordings)
            rows.append(
                {
                    "role": role,
                    "network": describe(self.recipe, role),
                    **self.costs(role, np.array(recordings.signals[0])),
                    "accuracy": found.accuracy,
                    "low": found.low,
                    "high": found.high,
                    "miss_rate": found.miss_rate,
                    "false_alarm_rate": found.false_alarm_rate,
                    "macro_recall": found.macro_recall,
                    "recordings": found.count,
                }
            )
        return TestResult(pd.DataFrame(rows), evaluations, predictions)

    def _probabilities(self, recordings: Recordings, role: str) -> np.ndarray:
        if recordings.class_names != self.class_names:
            raise DataError(
                recordings.source or "recordings",
                f"the classes are {', '.join(recordings.class_names)}",
                expected=f"{', '.join(self.class_names)}, as in training",
            )
        return self.predict(recordings.signals, recordings.sample_rate, role)

    def _compare(self, predicted: np.ndarray, recordings: Recordings) -> Evaluation:
        return evaluate(
            predicted,
            recordings.labels,
            recordings.groups,
            self.class_names,
            self.normal_classes,
        )

    def costs(self, role: str, signal: np.ndarray) -> dict[str, float]:
        """Parameters, MACs, size in kB and the median latency in ms of one raw recording."""
        network, length = self.network(role), self.inputs(signal[None]).shape[1]

        @torch.inference_mode()
        def classify() -> Tensor:
            return network(self.inputs(signal[None])).logits

        return {
            "parameters": count_parameters(network),
            "macs": count_macs(network, length),
            "size_kb": size_bytes(network) / 1000,
            "latency_ms": median_latency(classify),
        }


@dataclass(frozen=True)
class TestResult:
    """What a test gave.

    ``table`` has a row for each role: role, network, parameters, macs, size_kb, latency_ms (median
    of one raw recording on one thread, preprocessing included), accuracy with its 95 % interval
    (low, high), miss_rate and false_alarm_rate (None where no class is normal), macro_recall,
    recordings. ``evaluations`` holds the figures by role, with confusion matrices;
    ``predictions`` a row for each recording.
    """

    __test__ = False  # pytest would collect it for its name

    table: pd.DataFrame
    evaluations: dict[str, Evaluation]
    predictions: pd.DataFrame


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


def network_inputs(signals: np.ndarray, recipe: Recipe) -> Tensor:
    """What a recipe's networks read of raw signals ``(n, samples)``: its view, scaled to [0, 1]."""
    if recipe.samples is not None:
        if signals.shape[1] < recipe.samples:
            raise DataError(
                "recordings",
                f"they have {signals.shape[1]} samples",
                expected=f"{recipe.samples} or more, as the recipe's samples says",
            )
        signals = signals[:, : recipe.samples]
    return VIEWS[recipe.view](signals, recipe.bins)


def network_of(recipe: Recipe, role: str) -> Network:
    """The network of a role of the chain or of its control, or an HfldError that lists them."""
    known = recipe.chain | dict.fromkeys(CONTROLS.values(), recipe.student)
    if role not in known:
        raise HfldError(f"{role!r} is no role here; there are {', '.join(known)}.")
    return known[role]


def describe(recipe: Recipe, role: str) -> str:
    """A network in a few words, such as "ResNet18-1D, width 1/4, small head"."""
    network = network_of(recipe, role)
    width = f"1/{1 / network.width:g}" if network.width < 1 else f"{network.width:g}"
    return f"ResNet{network.depth}-1D, width {width}, {network.head} head"


def distill_chain(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    controls: Sequence[str] = ("alone",),
    progress: bool = True,
    on_epoch: Callable[[str, dict[str, float]], None] | None = None,
) -> Chain:
    """Train teacher → secondary teachers → student, and the student in other ways as controls.

    The teacher learns from labels. Frozen, it is run once over the training set, and the next
    network learns from labels and from what it said; so on down to the student. The controls start
    from the student's initial weights and see the same batches in the same order for as many
    steps. Validation chooses each network's epoch; the test part is not
    touched.

    Args:
        recordings: of three classes or more if separated logits are to mean something.
        recipe: every choice.
        parts: by default, drawn by group with the recipe's shares and seed.
        controls: any of "alone", "direct" and "dense"; see CONTROLS.
        progress: a progress bar for each stage.
        on_epoch: called with a role and a new row of its history.

    Raises:
        DataError: if the recordings cannot be split, or are too short for the networks.
        RecipeError: if the heads do not divide a teacher's channels.
        HfldError: if a term of the loss that has a weight stays zero for no good reason.
    """
    for control in controls:
        if control not in CONTROLS:
            raise ArgumentError(f"Control {control!r} is unknown; choose of {', '.join(CONTROLS)}.")
    if parts is None:
        parts = split(recordings, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    else:
        check_split(parts, recordings)
    fabric = make_fabric(recipe)
    inputs = network_inputs(recordings.signals, recipe)
    labels = torch.from_numpy(np.array(recordings.labels))
    rows, meta_rows = _meta_part(recordings, parts.train, recipe)
    train, validation, meta = (
        fabric.to_device(Samples(inputs[part], labels[part]))
        for part in (rows, parts.validation, meta_rows)
    )
    # Everything that can be wrong with the wiring shows now, not after the teacher's hours.
    networks = _build(recipe, recordings, inputs.shape[1])
    stages: dict[str, Stage] = {}
    targets: dict[str, TeacherTargets] = {}

    def train_stage(role: str, objective: Objective, learned_from: str) -> None:
        result = fit(
            objective,
            train,
            validation,
            recipe,
            network_of(recipe, role).epochs,
            seed=derive_seed(recipe.seed, f"{_same(role)} order"),
            title=f"{role} ← {learned_from}".replace("_", " "),
            progress=progress,
            fabric=fabric,
            on_epoch=(lambda row: on_epoch(role, row)) if on_epoch else None,
        )
        stages[role] = Stage(role, objective.student, learned_from, result)

    def distil(role: str, teacher: str) -> None:
        student = fabric.to_device(networks[role])
        with seeded(derive_seed(recipe.seed, f"{_same(role)} projector")):
            weighting = make_weighting(
                recipe.weighting,
                channels=student.feature_channels,
                positions=POSITIONS,
                weights=recipe.weights,
                **_meta_options(recipe, student, meta),
            )
            objective = Distiller(
                student, targets[teacher], weighting, recipe.temperature, recipe.heads
            )
        train_stage(role, objective, f"labels and {teacher}")
        _check_terms(stages[role], recipe, len(recordings.class_names))

    train_stage("teacher", Supervised(networks["teacher"]), "labels")
    for teacher, role in pairwise(recipe.chain):
        targets[teacher] = teacher_targets(stages[teacher].network, train.inputs)
        distil(role, teacher)
    for control in controls:
        student = networks[CONTROLS[control]]
        if control == "alone":
            train_stage(ALONE, Supervised(student), "labels")
        elif control == "direct":
            distil(DIRECT, "teacher")
        else:
            objective = DenselyGuided(student, list(targets.values()), recipe.temperature)
            train_stage(DENSE, objective, f"labels and {', '.join(targets)}")

    detector = Detector(
        recipe,
        {role: stage.network.cpu() for role, stage in stages.items()},
        recordings.class_names,
        recordings.normal_classes,
        recordings.sample_rate,
        recordings.samples,
    )
    return Chain(detector, stages, parts, recordings.source)


def _build(recipe: Recipe, recordings: Recordings, length: int) -> dict[str, ResNet1d]:
    """All networks of a run with their initial weights; controls begin as the student does."""
    if length < MIN_SAMPLES:
        raise DataError(
            recordings.source or "recordings",
            f"the networks would read {length} values of each recording",
            expected=f"{MIN_SAMPLES} or more",
            mend="use longer recordings" + " or more bins" * (recipe.view == "spectrum"),
        )
    networks = {}
    for role in (*recipe.chain, *CONTROLS.values()):
        spec = network_of(recipe, role)
        # With dropout a student cannot regress the teacher's logits (see Network.dropout); the
        # controls do without it too, so that only the teaching differs.
        dropout = 0.0 if role != "teacher" and spec.dropout is None else spec.dropout
        with seeded(derive_seed(recipe.seed, f"{_same(role)} weights")):
            networks[role] = resnet1d(
                spec.depth, len(recordings.class_names), spec.width, spec.head, dropout
            )
    for teacher in list(recipe.chain)[:-1]:
        channels = networks[teacher].feature_channels
        if channels % recipe.heads:
            raise RecipeError(
                f"The recipe's heads is {recipe.heads}, which does not divide the {channels} "
                f"channels of the {teacher.replace('_', ' ')}; choose a divisor."
            )
    return networks


def _same(role: str) -> str:
    """The role whose initial weights and batches a role shares."""
    return "student" if role in CONTROLS.values() else role


def _meta_part(
    recordings: Recordings, train: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the meta batches' tiles off the training part, whatever the strategy, if asked to."""
    if not recipe.meta_share:
        return train, train[:0]
    cut = split(recordings.select(train), validation=0, test=recipe.meta_share, seed=recipe.seed)
    return train[cut.train], train[cut.test]


def _meta_options(recipe: Recipe, student: ResNet1d, meta: Samples) -> dict[str, Any]:
    """What the weighting "meta" needs besides: the student, η and a stream of meta batches."""
    if recipe.weighting != "meta":
        return {}
    order = torch.Generator().manual_seed(derive_seed(recipe.seed, "meta batches"))

    def next_batch() -> Samples:
        rows = torch.randint(len(meta.inputs), (recipe.batch_size,), generator=order)
        rows = rows.to(meta.inputs.device)
        return Samples(meta.inputs[rows], meta.target[rows])

    return {
        "student": student,
        "next_batch": next_batch,
        "learning_rate": recipe.learning_rate,
        "every": recipe.meta_every,
    }


def _check_terms(stage: Stage, recipe: Recipe, classes: int) -> None:
    """Refuse a chain in which a term that has a weight did nothing (NCKD of two classes may)."""
    weights = recipe.weights if recipe.weighting == "fixed" else dict.fromkeys(recipe.weights, 1.0)
    for name, weight in weights.items():
        idle = weight > 0 and not (stage.fit.history[name] > 0).all()
        if idle and not (name == "nckd" and classes == 2):
            raise HfldError(
                f"The term {name} of the {stage.role} was zero in an epoch although its weight is "
                f"{weight:g}; its teacher says nothing that the student does not say already."
            )
