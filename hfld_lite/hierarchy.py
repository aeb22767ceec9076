"""The chain: a teacher learns from labels, a secondary teacher from it, a student from that."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from hfld_lite.data.examples import Examples, Samples
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, check_split, split
from hfld_lite.distillation import TERMS, Distiller, Objective, Supervised
from hfld_lite.errors import ArgumentError, DataError, RecipeError, nearest
from hfld_lite.losses import check_heads
from hfld_lite.networks import MIN_SAMPLES, Shape, probe, resnet1d
from hfld_lite.recipes import Recipe, network_of
from hfld_lite.storage.checkpoints import Checkpoints, StageCheckpoints
from hfld_lite.storage.files import digest
from hfld_lite.teachers import LiveTeacher, TeacherTargets, teacher_targets
from hfld_lite.training import Fit, derive_seed, fit, make_fabric, predict_logits, seeded
from hfld_lite.version import __version__
from hfld_lite.weighting import Setting, make_weighting

if TYPE_CHECKING:
    from hfld_lite.evaluation.detector import Detector, TestResult

Data = Recordings | Dataset
GIVEN = "not trained here"
"""What a trained network that was given has learned from, as far as the chain knows."""


@dataclass(frozen=True)
class Stage:
    """One trained network of the chain and how it came about."""

    role: str
    network: nn.Module
    learned_from: str
    fit: Fit


@dataclass(frozen=True)
class Chain:
    """A trained chain: its stages in the order of training, and the split they were trained on."""

    recipe: Recipe
    stages: dict[str, Stage]
    split: Split
    examples: Examples
    given: frozenset[str] = frozenset()
    """The roles whose networks were given, so that the recipe does not describe them."""

    @property
    def source(self) -> str:
        """What the data are, in a line."""
        return self.examples.source

    @cached_property
    def detector(self) -> Detector:
        """The trained networks, on the CPU, in a form that reads raw recordings."""
        from hfld_lite.evaluation.detector import Detector  # above the method: only on demand

        return Detector.of(self)

    def test(self, data: Data) -> TestResult:
        """Measure every network on the test part of the data that the chain was trained on.

        Meant to be called once, at the end: once it has chosen anything, it is no test any more.
        """
        if isinstance(data, Recordings):
            return self.detector.test(data.select(self.split.test))
        examples = Examples.of(data, self.recipe)
        return self.detector.test(examples.select(self.split.test))

    def predict(self, signals: np.ndarray, sample_rate: int, role: str = "student") -> np.ndarray:
        """Class probabilities of raw signals; see :meth:`Detector.predict`."""
        return self.detector.predict(signals, sample_rate, role)

    def history(self) -> pd.DataFrame:
        """Every stage's history, one below the other, with its role."""
        return pd.concat(
            [stage.fit.history.assign(role=role) for role, stage in self.stages.items()],
            ignore_index=True,
        )


class Trainer:
    """Trains the stages of a run, one call each; :func:`distill_chain` makes the usual calls.

    The inputs are made once; the teachers' answers are kept for all that learn from them.
    Everything that can be wrong with the wiring shows when this is built, not hours later.

    Args:
        data, recipe, parts, networks, trained, progress, on_epoch, folder, resume, in_memory,
            workers: see :func:`distill_chain`.

    Attributes:
        parts: the split.
        stages: what was trained so far, by role or by the name given.
    """

    def __init__(
        self,
        data: Data,
        recipe: Recipe,
        parts: Split | None = None,
        progress: bool = True,
        on_epoch: Callable[[str, dict[str, float]], None] | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        networks: Mapping[str, nn.Module] | None = None,
        trained: Collection[str] = (),
        in_memory: bool | None = None,
        workers: int = 0,
    ) -> None:
        if resume and folder is None:
            raise ArgumentError("resume needs the folder of the training that it continues.")
        self.recipe, self.progress, self.on_epoch = recipe, progress, on_epoch
        self.given, self.trained = dict(networks or {}), frozenset(trained)
        for role in (*self.given, *self.trained):
            network_of(recipe, role)
            if role not in recipe.chain or role not in self.given:
                raise ArgumentError(
                    f"{role!r} is named in trained, but networks has none of that role."
                    if role in recipe.chain
                    else f"networks names {role!r}; {nearest(role, recipe.chain)}."
                )
        self.examples = Examples.of(
            data, recipe, in_memory=in_memory, workers=workers, progress=progress
        )
        examples = self.examples
        if parts is None:
            parts = split(
                examples, validation=recipe.validation, test=recipe.test, seed=recipe.seed
            )
        else:
            check_split(parts, examples)
        self.parts, chosen_on = self._divide(parts)
        self.fabric = make_fabric(recipe)
        self._check_wiring()
        rows, meta_rows = self._meta_part()
        self.train, self.validation, self.meta = (
            examples.samples(part).to(self.fabric.device) for part in (rows, chosen_on, meta_rows)
        )
        self._ids = [str(origin) for origin in examples.origins[rows]]
        self._signals = None
        if recipe.augmentation is not None:
            self._signals = examples.signals(rows).to(self.fabric.device)
        self._checkpoints = None
        if folder is not None:
            self._checkpoints = Checkpoints(folder, *self._facts(), resume=resume)
        self.stages: dict[str, Stage] = {}
        self._targets: dict[str, TeacherTargets | LiveTeacher] = {}

    def supervise(self, role: str) -> Stage:
        """Train a role's network from labels alone."""
        return self._fit(role, role, lambda _: Supervised(self.network(role)[0]), ())

    def take(self, role: str) -> Stage:
        """Take a role's network as it was given, trained: measured on the validation part."""
        network = self.fabric.to_device(copy.deepcopy(self.given[role])).eval()
        logits = predict_logits(network, self.validation.inputs, fabric=self.fabric)
        target = self.validation.target
        accuracy = float((logits.argmax(1) == target).float().mean())
        row = {"epoch": 0, "validation_accuracy": accuracy}
        row |= {"validation_loss": float(F.cross_entropy(logits, target)), "verdict": ""}
        chance = float(torch.bincount(target).max() / len(target))
        if accuracy <= chance:
            warnings.warn(
                f"The {role.replace('_', ' ')} that was given has {accuracy:.1%} on validation "
                f"data; always naming the commonest class has {chance:.1%}. It may know other "
                "classes, or the same in another order, or other inputs.",
                stacklevel=3,
            )
        self.stages[role] = Stage(role, network, GIVEN, Fit(pd.DataFrame([row]), 0, 0.0))
        return self.stages[role]

    def distil(
        self,
        role: str,
        teacher: str,
        recipe: Recipe | None = None,
        name: str | None = None,
        epochs: int | None = None,
    ) -> Stage:
        """Train a role's network from labels and from a trained stage.

        Args:
            role: whose network, initial weights and batches.
            teacher: the name of a stage that was trained before.
            recipe: another one with the same networks and data, to try other weights, say.
            name: of the new stage, by default the role.
            epochs: by default the network's in the recipe.
        """
        recipe = recipe or self.recipe

        def objective(generators: dict[str, torch.Generator]) -> Objective:
            return self._objective(role, teacher, recipe, generators)

        stage = self._fit(name or role, role, objective, (teacher,), recipe, epochs)
        self._note_idle_terms(stage, recipe)
        return stage

    def distil_by(
        self,
        role: str,
        teachers: Sequence[str],
        objective: Callable[[nn.Module, Sequence[TeacherTargets | LiveTeacher]], Objective],
        name: str | None = None,
    ) -> Stage:
        """Train a role's network from trained stages by an objective of your own.

        What the objective adds to the student (a projector, say) begins as that of :meth:`distil`.

        Args:
            role: whose network, initial weights, batches and number of steps.
            teachers: the names of stages that were trained before.
            objective: made of the student and of what the teachers say.
            name: of the new stage, by default the role.
        """

        def build(_: dict[str, torch.Generator]) -> Objective:
            targets = [self.targets(teacher) for teacher in teachers]
            with self.seeded(role, "projector"):
                return objective(self.network(role)[0], targets)

        return self._fit(name or role, role, build, teachers)

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

    def network(self, role: str) -> tuple[nn.Module, Shape]:
        """A role's network with its initial weights, on the device, and what it gives.

        A network that was given is copied; controls begin as the student does.
        """
        owner, classes = _same(role), len(self.examples.class_names)
        if owner in self.given:
            network = copy.deepcopy(self.given[owner])
        else:
            spec = network_of(self.recipe, owner)
            with self.seeded(owner, "weights"):
                network = resnet1d(spec.depth, classes, spec.width, spec.head, self._dropout(owner))
        network = self.fabric.to_device(network)
        first = self.examples.samples(np.arange(2)).inputs[torch.arange(2)]
        return network, probe(network, first.to(self.fabric.device), f"network of the {owner}")

    @contextmanager
    def seeded(self, role: str, purpose: str) -> Iterator[None]:
        """Run a block with the generators seeded for a purpose; controls share the student's."""
        with seeded(derive_seed(self.recipe.seed, f"{_same(role)} {purpose}")):
            yield

    def chain(self) -> Chain:
        """What was trained, on the CPU."""
        for stage in self.stages.values():
            stage.network.cpu()
        given = frozenset(self.given)
        return Chain(self.recipe, self.stages, self.parts, self.examples, given)

    # What the released code does otherwise: see PublishedTrainer.

    def _divide(self, parts: Split) -> tuple[Split, np.ndarray]:
        """The split, and the rows that choose each network's epoch."""
        return parts, parts.validation

    def _dropout(self, role: str) -> float | None:
        # With dropout a student cannot regress the teacher's logits (see Network.dropout); the
        # controls do without it too, so that only the teaching differs.
        given = network_of(self.recipe, role).dropout
        return 0.0 if role != "teacher" and given is None else given

    def _objective(
        self, role: str, teacher: str, recipe: Recipe, generators: dict[str, torch.Generator]
    ) -> Objective:
        student, shape = self.network(role)
        setting = Setting(
            recipe.weights,
            shape.channels,
            shape.positions,
            student,
            self._meta_batches(recipe, generators),
            recipe.learning_rate,
            recipe.meta_every,
        )
        # Seeds of their own, so that the projector begins alike whatever the strategy.
        with self.seeded(role, "weighting"):
            weighting = make_weighting(recipe.weighting, setting)
        targets = self.targets(teacher)
        with self.seeded(role, "projector"):
            return Distiller(
                student,
                targets,
                weighting,
                recipe.temperature,
                recipe.heads,
                channels=shape.channels,
            )

    def _before_epoch(self, optimizer: torch.optim.Optimizer, left: int) -> None:
        """Called before each epoch with the optimiser and the number of epochs left."""

    def _fit(
        self,
        name: str,
        role: str,
        objective: Callable[[dict[str, torch.Generator]], Objective],
        teachers: Sequence[str],
        recipe: Recipe | None = None,
        epochs: int | None = None,
    ) -> Stage:
        """Train a stage, or resume it from a checkpoint.

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
                augment=self.examples.varied if varied else None,
                generators=generators,
                checkpoints=checkpoints,
                before_epoch=self._before_epoch,
            )
            finished = built.student, result
        self.stages[name] = Stage(name, finished[0], source, finished[1])
        return self.stages[name]

    def _facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a training must have in common with the one it continues, and what it should."""
        parts = json.dumps(self.parts.to_dict(), sort_keys=True)
        recordings = self.examples.recordings
        facts = {
            "recipe": self.recipe.choices(),
            "recordings": self.examples.fingerprint,
            "class_names": self.examples.class_names,
            "sample_rate": recordings.sample_rate if recordings else None,
            "split": digest(parts, {}),
        }
        if self.given:
            weights = {role: digest("", net.state_dict()) for role, net in self.given.items()}
            facts |= {"networks": weights, "trained": sorted(self.trained)}
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
        made_of = {"recipe": recipe.digest(), "number of epochs": str(epochs), **networks}
        return StageCheckpoints(self._checkpoints, name, made_of)

    def _finished(
        self, role: str, checkpoints: StageCheckpoints | None, epochs: int
    ) -> tuple[nn.Module, Fit] | None:
        """A stage that was trained to its end before, without asking its teachers again."""
        state = checkpoints.load() if checkpoints else None
        if state is None or state["epoch"] < epochs:
            return None
        network, _ = self.network(role)
        network.load_state_dict(state["best_state"])
        history = pd.DataFrame(state["rows"])
        return network.eval(), Fit(history, state["best_epoch"], state["seconds"])

    def _check_wiring(self) -> None:
        """Refuse what would fail in a later stage."""
        recipe, shape, names = self.recipe, self.examples.shape, self.examples.class_names
        own = [role for role in recipe.chain if role not in self.given]
        if own and len(shape) != 1:
            raise ArgumentError(
                f"One input has shape {shape}, and the recipe's networks read one dimension; give "
                f"networks for {', '.join(own)}."
            )
        if own and shape[0] < MIN_SAMPLES:
            raise DataError(
                self.examples.source or "recordings",
                f"the networks would read {shape[0]} values of each recording",
                expected=f"{MIN_SAMPLES} or more",
                mend="use longer recordings" + " or more bins" * (recipe.view == "spectrum"),
            )
        for role in recipe.chain:
            found = self.network(role)[1]
            if found.classes != len(names):
                raise ArgumentError(
                    f"The network of the {role} knows {found.classes} classes, and the data have "
                    f"{len(names)} ({', '.join(names)}); give one that was made for these."
                )
            if role != "student" and any(
                "heads" in TERMS[t].options for t in recipe.weights if t in TERMS
            ):
                try:
                    check_heads(recipe.heads, found.channels, role.replace("_", " "))
                except ArgumentError as error:
                    raise RecipeError(f"The recipe's {error}") from error

    def _meta_part(self) -> tuple[np.ndarray, np.ndarray]:
        """Cut the meta batches' groups off the training part, whatever the strategy, if asked."""
        train, recipe = self.parts.train, self.recipe
        if not recipe.meta_share:
            return train, train[:0]
        cut = split(
            self.examples.select(train), validation=0, test=recipe.meta_share, seed=recipe.seed
        )
        return train[cut.train], train[cut.test]

    def _meta_batches(
        self, recipe: Recipe, generators: dict[str, torch.Generator]
    ) -> Callable[[], Samples]:
        """A stream of meta batches, drawn by a generator that checkpoints keep."""
        meta, order = self.meta, torch.Generator()
        order.manual_seed(derive_seed(recipe.seed, "meta batches"))
        if recipe.meta_share:
            generators["meta batches"] = order

        def next_batch() -> Samples:
            rows = torch.randint(len(meta.inputs), (recipe.batch_size,), generator=order)
            rows = rows.to(meta.target.device)
            return Samples(meta.inputs[rows], meta.target[rows])

        return next_batch

    def _note_idle_terms(self, stage: Stage, recipe: Recipe) -> None:
        """Say which terms with a weight were zero in an epoch (NCKD of two classes always is)."""
        weights = recipe.weights
        if recipe.weighting != "fixed":
            weights = dict.fromkeys(weights, 1.0)
        for name, weight in weights.items():
            expected = name == "nckd" and len(self.examples.class_names) == 2
            if weight and not expected and not (stage.fit.history[name] > 0).all():
                warnings.warn(
                    f"The term {name} of the {stage.role} was zero in an epoch although its weight "
                    f"is {weight:g}: it taught nothing there.",
                    stacklevel=4,
                )


TRAINERS: dict[str, type[Trainer]] = {"sound": Trainer}
"""Trainers by a recipe's behaviour."""

Control = Callable[[Trainer, str], Stage]
CONTROLS: dict[str, Control] = {
    "alone": lambda trainer, role: trainer.supervise(role),
    "direct": lambda trainer, role: trainer.distil(role, "teacher"),
}
"""The controls by name: other ways to train the student, for the role ``student_NAME``."""


def behaviour(name: str) -> Callable[[type[Trainer]], type[Trainer]]:
    """Register a trainer for recipes of this behaviour."""
    return lambda kind: TRAINERS.setdefault(name, kind)


def control(name: str) -> Callable[[Control], Control]:
    """Register a control."""
    return lambda made: CONTROLS.setdefault(name, made)


def distill_chain(
    data: Data,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    networks: Mapping[str, nn.Module] | None = None,
    trained: Collection[str] = (),
    controls: Sequence[str] = ("alone",),
    progress: bool = True,
    on_epoch: Callable[[str, dict[str, float]], None] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    in_memory: bool | None = None,
    workers: int = 0,
) -> Chain:
    """Train teacher → secondary teachers → student, and the student in other ways as controls.

    The teacher learns from labels. Frozen, it is run once over the training set, and the next
    network learns from labels and from what it said; so on down to the student. The controls start
    from the student's initial weights and see the same batches in the same order for as many
    steps. Validation chooses each network's epoch; the test part is not touched.

    Args:
        data: Recordings, or a map-style dataset of ``(x, y)`` or ``(x, y, group)``, x of any
            shape; of three classes or more if separated logits are to mean something.
        recipe: every choice.
        parts: by default, drawn by group with the recipe's shares and seed.
        networks: modules of your own by role, in place of the recipe's: whatever returns
            ``Output(features, logits)``, or `adapt` around what returns logits. They are copied.
        trained: roles among these that are taken as they are, not trained.
        controls: names in CONTROLS: "alone" (from labels alone), "direct" (from the teacher,
            without secondary ones), "dense" (from the logits of all larger networks).
        progress: a progress bar for each stage.
        on_epoch: called with a role and a new row of its history.
        folder: for a checkpoint after each epoch; without it nothing is kept until the end.
        resume: continue the training in the folder, or begin it. On the same machine with as many
            threads the weights are then bit-identical to those of an undisturbed training.
        in_memory: keep the inputs in memory, or read them step by step through a DataLoader, with
            the same bits; by default, in memory if they take less than a quarter of it.
        workers: processes that read ahead where inputs are not in memory.

    Raises:
        DataError: if the data cannot be split, or are too short for the networks.
        ArgumentError: if a network does not fit the data, or an argument is unknown.
        RecipeError: if the heads do not divide a teacher's channels.
        HfldError: if a loss is not finite, memory runs out, or a checkpoint cannot be written.
        Interrupted: if the user stopped it; the text says what is kept.
    """
    for name in controls:
        if name not in CONTROLS:
            raise ArgumentError(f"Control {name!r} is unknown; {nearest(name, CONTROLS)}.")
    trainer = TRAINERS[recipe.behaviour](
        data,
        recipe,
        parts,
        progress,
        on_epoch,
        folder,
        resume,
        networks,
        trained,
        in_memory,
        workers,
    )
    for teacher, role in pairwise([None, *recipe.chain]):
        if role in trainer.trained:
            trainer.take(role)
        elif teacher is None:
            trainer.supervise(role)
        else:
            trainer.distil(role, teacher)
    for name in controls:
        CONTROLS[name](trainer, f"student_{name}")
    return trainer.chain()


def _same(role: str) -> str:
    """The role whose initial weights and batches a role shares."""
    return "student" if role.startswith("student_") else role
