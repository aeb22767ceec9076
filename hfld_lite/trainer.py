"""Trains one stage of a chain at a time: from labels, from a teacher, or from several."""

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hfld_lite.data.augmentation import augment, check_shift
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, check_split, split
from hfld_lite.data.views import network_inputs
from hfld_lite.distillation import (
    DenselyGuided,
    Distiller,
    Objective,
    PublishedDistiller,
    Supervised,
)
from hfld_lite.errors import ArgumentError, DataError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector
from hfld_lite.networks import MIN_SAMPLES, POSITIONS, ResNet1d, resnet1d
from hfld_lite.recipes import CONTROLS, Recipe, network_of
from hfld_lite.storage.checkpoints import Checkpoints, StageCheckpoints
from hfld_lite.storage.files import digest
from hfld_lite.teachers import LiveTeacher, TeacherTargets, teacher_targets
from hfld_lite.training import Fit, Samples, derive_seed, fit, make_fabric, seeded
from hfld_lite.version import __version__
from hfld_lite.weighting import Published, make_weighting


@dataclass(frozen=True)
class Stage:
    """One trained network of the chain and how it came about."""

    role: str
    network: ResNet1d
    learned_from: str
    fit: Fit


class Trainer:
    """Trains the stages of a run, one call each; :func:`distill_chain` makes the usual calls.

    The inputs are made once and stay on the device; the teachers' answers are kept for all that
    learn from them. Everything that can be wrong with the wiring shows when this is built, not
    after the teacher's hours.

    Args:
        recordings, recipe, parts, progress, on_epoch, folder, resume: see :func:`distill_chain`.

    Attributes:
        parts: the split. With the behaviour ``"published"`` the training part has taken in the
            validation part, and the test part chooses the epochs, as there.
        stages: what was trained so far, by role or by the name given.
    """

    def __init__(
        self,
        recordings: Recordings,
        recipe: Recipe,
        parts: Split | None = None,
        progress: bool = True,
        on_epoch: Callable[[str, dict[str, float]], None] | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        if resume and folder is None:
            raise ArgumentError("resume needs the folder of the training that it continues.")
        if parts is None:
            parts = split(
                recordings, validation=recipe.validation, test=recipe.test, seed=recipe.seed
            )
        else:
            check_split(parts, recordings)
        if recipe.behaviour == "published":
            # Its split has no validation part, so what would be that is learned from as well.
            learned = np.sort(np.concatenate([parts.train, parts.validation]))
            parts = Split(learned, [], parts.test)
            warnings.warn(
                "The recipe's behaviour is published: the test part chooses the best epoch, so "
                "that figures on it are optimistic, and the validation part is trained on. Use it "
                "for comparison only.",
                stacklevel=2,
            )
        self.recordings, self.recipe, self.parts = recordings, recipe, parts
        self.progress, self.on_epoch = progress, on_epoch
        self.fabric = make_fabric(recipe)
        inputs = network_inputs(recordings.signals, recipe)
        _check_wiring(recipe, recordings, inputs.shape[1])
        labels = torch.from_numpy(np.array(recordings.labels))
        rows, meta_rows = _meta_part(recordings, parts.train, recipe)
        chosen_on = parts.test if recipe.behaviour == "published" else parts.validation
        self.train, self.validation, self.meta = (
            self.fabric.to_device(Samples(inputs[part], labels[part]))
            for part in (rows, chosen_on, meta_rows)
        )
        self._ids = [str(origin) for origin in recordings.origins[rows]]
        self._signals = None
        if recipe.augmentation is not None:
            check_shift(recipe.augmentation, recordings.samples, recordings.sample_rate)
            signals = torch.from_numpy(np.array(recordings.signals[rows]))
            self._signals = self.fabric.to_device(Samples(signals, labels[rows]))
        self._checkpoints = None
        if folder is not None:
            self._checkpoints = Checkpoints(folder, *self._facts(), resume=resume)
        self.stages: dict[str, Stage] = {}
        self._targets: dict[str, TeacherTargets | LiveTeacher] = {}

    def supervise(self, role: str) -> Stage:
        """Train a role's network from labels alone."""
        return self._fit(role, role, lambda _: Supervised(self._network(role)), ())

    def distil(
        self,
        role: str,
        teacher: str,
        recipe: Recipe | None = None,
        name: str | None = None,
        epochs: int | None = None,
    ) -> Stage:
        """Train a role's network from labels and from a trained stage (HFLKD).

        Args:
            role: whose network, initial weights and batches.
            teacher: the name of a stage that was trained before.
            recipe: another one with the same networks and data, to try other weights, say.
            name: of the new stage, by default the role.
            epochs: by default the network's in the recipe.
        """
        recipe = recipe or self.recipe
        published = recipe.behaviour == "published"
        build = self._published_distiller if published else self._distiller

        def objective(generators: dict[str, torch.Generator]) -> Objective:
            return build(role, teacher, recipe, generators)

        stage = self._fit(name or role, role, objective, (teacher,), recipe, epochs)
        if not published:
            _check_terms(stage, recipe, len(self.recordings.class_names))
        return stage

    def _distiller(
        self, role: str, teacher: str, recipe: Recipe, generators: dict[str, torch.Generator]
    ) -> Distiller:
        student = self._network(role)
        # Seeds of their own, so that the projector begins alike whatever the strategy.
        with seeded(derive_seed(recipe.seed, f"{_same(role)} weighting")):
            weighting = make_weighting(
                recipe.weighting,
                channels=student.feature_channels,
                positions=POSITIONS,
                weights=recipe.weights,
                **_meta_options(recipe, student, self.meta, generators),
            )
        targets = self.targets(teacher)
        with seeded(derive_seed(recipe.seed, f"{_same(role)} projector")):
            return Distiller(student, targets, weighting, recipe.temperature, recipe.heads)

    def _published_distiller(
        self, role: str, teacher: str, recipe: Recipe, _generators: dict[str, torch.Generator]
    ) -> PublishedDistiller:
        student = self._network(role)
        with seeded(derive_seed(recipe.seed, f"{_same(role)} weighting")):
            weighting = Published(
                student.feature_channels, POSITIONS, detach_input=False, hidden="published"
            )
            # A copy: this one drifts, as it did there, while the stored checkpoint stayed.
            live = copy.deepcopy(self.stages[teacher].network)
            return PublishedDistiller(student, live, weighting, recipe.temperature, recipe.heads)

    def distil_by(
        self,
        role: str,
        teachers: Sequence[str],
        objective: Callable[[ResNet1d, Sequence[TeacherTargets | LiveTeacher]], Objective],
        name: str | None = None,
    ) -> Stage:
        """Train a role's network from trained stages by an objective of your own.

        What the objective adds to the student (a projector, say) begins as that of :meth:`distil`.
        It stays sound with the behaviour ``"published"``.

        Args:
            role: whose network, initial weights, batches and number of steps.
            teachers: the names of stages that were trained before.
            objective: made of the student and of what the teachers say.
            name: of the new stage, by default the role.
        """

        def build(_: dict[str, torch.Generator]) -> Objective:
            targets = [self.targets(teacher) for teacher in teachers]
            with seeded(derive_seed(self.recipe.seed, f"{_same(role)} projector")):
                return objective(self._network(role), targets)

        return self._fit(name or role, role, build, teachers)

    def guide_densely(self, role: str, teachers: Sequence[str]) -> Stage:
        """Train a role's network from labels and from the logits of several stages at once."""
        temperature = self.recipe.temperature
        return self.distil_by(role, teachers, partial(DenselyGuided, temperature=temperature))

    def targets(self, stage: str) -> TeacherTargets | LiveTeacher:
        """What a trained stage says of the training part: computed once, or live if augmented."""
        network, name = self.stages[stage].network, stage.replace("_", " ")
        known = self._targets.get(stage)
        if isinstance(known, TeacherTargets):
            known.check(self.train.inputs, network, self._ids)
        if known is None:
            with self.fabric.autocast():
                found = teacher_targets(network, self.train.inputs, ids=self._ids)
            if self._signals is not None:
                found = LiveTeacher(network, found)
                said = f"the {name} is asked at every step, since recordings are augmented"
            else:
                said = f"kept what the {name} says: {found.nbytes / 1e6:.1f} MB"
            if self.progress:
                print(said)
            self._targets[stage] = found
        return self._targets[stage]

    def _augment(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        varied = augment(signals, self.recordings.sample_rate, self.recipe.augmentation, generator)
        return network_inputs(varied, self.recipe)

    def detector(self) -> Detector:
        """The trained networks, moved to the CPU, in a form that reads raw recordings."""
        return Detector(
            self.recipe,
            {name: stage.network.cpu() for name, stage in self.stages.items()},
            self.recordings.class_names,
            self.recordings.normal_classes,
            self.recordings.sample_rate,
            self.recordings.samples,
        )

    def _network(self, role: str) -> ResNet1d:
        return self.fabric.to_device(_build(self.recipe, role, len(self.recordings.class_names)))

    def _fit(
        self,
        name: str,
        role: str,
        objective: Callable[[dict[str, torch.Generator]], Objective],
        teachers: Sequence[str],
        recipe: Recipe | None = None,
        epochs: int | None = None,
    ) -> Stage:
        """Train a stage, or take it up where a checkpoint left it.

        ``objective`` builds what is minimised, and adds the generators that it draws from.
        """
        recipe, on_epoch = recipe or self.recipe, self.on_epoch
        epochs = epochs or network_of(self.recipe, role).epochs
        source = " and ".join(["labels", ", ".join(teachers)]) if teachers else "labels"
        checkpoints = self._stage_checkpoints(name, teachers, recipe, epochs)
        finished = self._finished(role, checkpoints, epochs)
        if finished is None:
            generators: dict[str, torch.Generator] = {}
            built, varied = objective(generators), self._signals is not None
            result = fit(
                built,
                self._signals if varied else self.train,
                self.validation,
                recipe,
                epochs,
                seed=derive_seed(self.recipe.seed, f"{_same(role)} order"),
                title=f"{name} ← {source}".replace("_", " "),
                progress=self.progress,
                fabric=self.fabric,
                on_epoch=(lambda row: on_epoch(name, row)) if on_epoch else None,
                augment=self._augment if varied else None,
                generators=generators,
                checkpoints=checkpoints,
            )
            finished = built.student, result
        self.stages[name] = Stage(name, finished[0], source, finished[1])
        return self.stages[name]

    def _facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a training must have in common with the one it continues, and what it should."""
        parts = json.dumps(self.parts.to_dict(), sort_keys=True)
        facts = {
            "recipe": asdict(self.recipe),
            "recordings": self.recordings.fingerprint(),
            "class_names": self.recordings.class_names,
            "sample_rate": self.recordings.sample_rate,
            "split": digest(parts, {}),
        }
        made_with = {
            "hfld_lite": __version__,
            "torch": torch.__version__,
            "device": self.fabric.device.type,
            "threads": torch.get_num_threads(),
        }
        return facts, made_with

    def _stage_checkpoints(
        self, name: str, teachers: Sequence[str], recipe: Recipe, epochs: int
    ) -> StageCheckpoints | None:
        if self._checkpoints is None:
            return None
        networks = {t: digest("", self.stages[t].network.state_dict()) for t in teachers}
        made_of = {"recipe": recipe.to_json(), "number of epochs": str(epochs), **networks}
        return StageCheckpoints(self._checkpoints, name, made_of)

    def _finished(
        self, role: str, checkpoints: StageCheckpoints | None, epochs: int
    ) -> tuple[ResNet1d, Fit] | None:
        """A stage that was trained to its end before, without asking its teachers again."""
        state = checkpoints.load() if checkpoints else None
        if state is None or state["epoch"] < epochs:
            return None
        network = self._network(role)
        network.load_state_dict(state["best_state"])
        history = pd.DataFrame(state["rows"])
        return network.eval(), Fit(history, state["best_epoch"], state["seconds"])


def _check_wiring(recipe: Recipe, recordings: Recordings, length: int) -> None:
    """Refuse what would fail in a later stage."""
    if length < MIN_SAMPLES:
        raise DataError(
            recordings.source or "recordings",
            f"the networks would read {length} values of each recording",
            expected=f"{MIN_SAMPLES} or more",
            mend="use longer recordings" + " or more bins" * (recipe.view == "spectrum"),
        )
    for role in recipe.chain:
        channels = _build(recipe, role, len(recordings.class_names)).feature_channels
        if role != "student" and channels % recipe.heads:
            raise RecipeError(
                f"The recipe's heads is {recipe.heads}, which does not divide the {channels} "
                f"channels of the {role.replace('_', ' ')}; choose a divisor."
            )


def _build(recipe: Recipe, role: str, classes: int) -> ResNet1d:
    """A role's network with its initial weights; controls begin as the student does."""
    spec = network_of(recipe, role)
    # With dropout a student cannot regress the teacher's logits (see Network.dropout); the controls
    # do without it too, so that only the teaching differs.
    sound = recipe.behaviour == "sound"
    dropout = 0.0 if sound and role != "teacher" and spec.dropout is None else spec.dropout
    with seeded(derive_seed(recipe.seed, f"{_same(role)} weights")):
        return resnet1d(spec.depth, classes, spec.width, spec.head, dropout)


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


def _meta_options(
    recipe: Recipe, student: ResNet1d, meta: Samples, generators: dict[str, torch.Generator]
) -> dict[str, Any]:
    """What the weighting "meta" needs besides: the student, η and a stream of meta batches."""
    if recipe.weighting != "meta":
        return {}
    order = torch.Generator().manual_seed(derive_seed(recipe.seed, "meta batches"))
    generators["meta batches"] = order

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
