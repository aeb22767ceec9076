"""The chain: a teacher learns from labels, a secondary teacher from it, a student from that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from hfld_lite.data.examples import Examples, Shape
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, check_split, split
from hfld_lite.distillation import Distiller, Objective, Supervised
from hfld_lite.errors import ArgumentError, look_up, nearest, note_weak_teacher
from hfld_lite.losses import check_heads
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import ALONE, Recipe, network_of
from hfld_lite.storage.checkpoints import Checkpoints
from hfld_lite.storage.files import digest
from hfld_lite.storage.history import Fit, table
from hfld_lite.storage.randomness import derive_seed, seeded
from hfld_lite.teachers import LiveTeacher, TeacherTargets, teacher_targets
from hfld_lite.training import fit, make_fabric, predict_logits, validate
from hfld_lite.weighting import make_weighting

if TYPE_CHECKING:
    import pandas as pd

    from hfld_lite.evaluation.detector import Detector, TestResult

Data = Recordings | Dataset
Targets = TeacherTargets | LiveTeacher
Generators = dict[str, torch.Generator]
ByTargets = Callable[[nn.Module, Sequence[Targets]], Objective]


@dataclass(frozen=True)
class Stage:
    """One trained network of the chain and how it came about."""

    role: str
    network: nn.Module
    learned_from: str
    fit: Fit


@dataclass(frozen=True)
class Chain:
    """A trained chain: its stages in the order of training, and what they were trained on."""

    recipe: Recipe
    stages: dict[str, Stage]
    split: Split
    examples: Examples
    given: frozenset[str] = frozenset()  # roles whose networks the recipe does not describe

    @cached_property
    def detector(self) -> Detector:
        """The trained networks in a form that reads raw recordings."""
        from hfld_lite.evaluation.detector import Detector  # it stands above the method

        return Detector.of(self)

    def test(self, data: Data) -> TestResult:
        """Measure every network on the test part of the data that the chain was trained on.

        Call it once, at the end: a test part that has chosen anything gives optimistic figures.
        """
        return self.detector.test(self.examples.again(data), self.split.test)

    def predict(self, signals: np.ndarray, sample_rate: int, role: str = "student") -> np.ndarray:
        """Class probabilities of raw signals; see :meth:`Detector.predict`."""
        return self.detector.predict(signals, sample_rate, role)

    def history(self) -> pd.DataFrame:
        """Every stage's history, one below the other, with its role."""
        return table([{**row, "role": r} for r, s in self.stages.items() for row in s.fit.rows])


@dataclass
class Trainer:
    """Trains the stages of a run, one call each; :func:`distill_chain` makes the usual calls.

    What does not fit together is refused when this is built, not hours later. ``stages`` are those
    trained so far, by role or by the name given.

    Args:
        data: Recordings, or a map-style dataset of ``(x, y)`` or ``(x, y, group)``, x of any shape.
        recipe: every choice.
        parts: the split; by default, drawn by group with the recipe's shares and seed.
        progress: a progress bar for each stage.
        on_epoch: called with a role and a new row of its history.
        folder: for a checkpoint after each epoch; without it nothing is kept until the end.
        resume: continue the training in the folder, or begin it. It keeps its number of threads,
            so that on the same machine the weights are bit-identical to an undisturbed training's.
        networks: modules of your own by role, in place of the recipe's: what returns
            ``Output(features, logits)``, or `adapt` around what returns logits. They are copied.
        trained: roles among these that are taken as they are, not trained.
        in_memory: keep the inputs in memory, or read them step by step with so many ``workers``,
            with the same bits; by default, in memory if they take less than a quarter of it.
    """

    data: Data
    recipe: Recipe
    parts: Split | None = None
    progress: bool = True
    on_epoch: Callable[[str, dict[str, float]], None] | None = None
    folder: str | Path | None = None
    resume: bool = False
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    trained: Collection[str] = ()
    in_memory: bool | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        recipe, roles = self.recipe, self.recipe.chain
        if self.resume and self.folder is None:
            raise ArgumentError("resume needs the folder of the training that it continues.")
        for given, known in ((self.networks, roles), (self.trained, self.networks)):
            if wrong := [role for role in given if role not in known]:
                hint = nearest(wrong[0], known) if known else "name it in networks"
                raise ArgumentError(f"No network has the role {wrong[0]!r}; {hint}.")
        self.fabric = make_fabric(recipe, self.folder)
        examples = Examples.of(self.data, recipe, self.in_memory, self.workers, self.progress)
        self.examples, device = examples, self.fabric.device
        shares = {"validation": recipe.validation, "test": recipe.test, "seed": recipe.seed}
        parts = split(examples, **shares) if self.parts is None else self.parts
        self.parts, chosen_on = self._divide(check_split(parts, examples))
        for role in roles:  # a network that does not fit is refused here
            channels = self.network(role, role not in self.trained)[1].channels
            if role != "student" and "feature" in recipe.weights:
                check_heads(recipe.heads, channels, role.replace("_", " "))
        rows, meta_rows = examples.cut(self.parts.train, recipe.meta_share, recipe.seed)
        samples = (examples.samples(part).to(device) for part in (rows, chosen_on, meta_rows))
        self.train, self.validation, self.meta = samples
        self._signals = None if recipe.augmentation is None else examples.signals(rows).to(device)
        self._checkpoints = None
        if self.folder is not None:
            own = {role: digest("", n.state_dict()) for role, n in self.networks.items()}
            facts = {"recipe": recipe.choices(), **examples.facts(self.parts), "networks": own}
            facts["trained"] = sorted(self.trained)
            self._checkpoints = Checkpoints(self.folder, facts, device.type, self.resume)
        self.fit: Callable[..., Fit] = fit  # evaluation.together puts another in its place
        self.stages: dict[str, Stage] = {}
        self._targets: dict[str, Targets] = {}

    def supervise(self, role: str) -> Stage:
        """Train a role's network from labels alone."""
        return self._fit(role, role, Supervised(self.network(role)[0]), ())

    def take(self, role: str) -> Stage:
        """Take a role's network as it was given, trained, and measure it on validation data."""
        network, target = self.network(role)[0].eval(), self.validation.target
        logits = predict_logits(network, self.validation.inputs, fabric=self.fabric)
        row = {"epoch": 0, **validate(logits, target), "seconds": 0.0, "verdict": ""}
        chance = float(target.bincount().max() / len(target))
        note_weak_teacher(role, row["validation_accuracy"], chance=chance)
        self.stages[role] = Stage(role, network, "given", Fit([row], 0, 0.0))
        return self.stages[role]

    def distil(
        self, role: str, teacher: str, recipe: Recipe | None = None, name: str = "", epochs: int = 0
    ) -> Stage:
        """Train a role's network from labels and from a stage that was trained before.

        To try other weights, give another ``recipe`` with the same networks and data, another
        ``name`` for the stage, or another number of ``epochs``.
        """
        recipe = recipe or self.recipe
        objective, generators = self._distiller(role, teacher, recipe)
        return self._fit(name or role, role, objective, (teacher,), recipe, epochs, generators)

    def distil_by(
        self, role: str, teachers: Sequence[str], objective: ByTargets, name: str = ""
    ) -> Stage:
        """Train a role's network by an objective made of it and of what trained stages say.

        What the objective adds to the student (a projector, say) begins as that of :meth:`distil`.
        """
        with self.seeded(role, "projector"):
            built = objective(self.network(role)[0], [self.targets(t) for t in teachers])
        return self._fit(name or role, role, built, teachers)

    def targets(self, stage: str) -> Targets:
        """What a trained stage says of the training part: computed once, or live if augmented."""
        network, known = self.stages[stage].network, self._targets.get(stage)
        if isinstance(known, TeacherTargets):
            known.check(self.train.inputs, network)
        if known is None:
            with self.fabric.autocast():
                found = teacher_targets(network, self.train.inputs)
            live = self._signals is not None
            self._targets[stage] = LiveTeacher(network, found) if live else found
            if self.progress:
                how = "asked at every step" if live else f"kept, {found.nbytes / 1e6:.1f} MB"
                print(f"answers of the {stage.replace('_', ' ')}: {how}")
        return self._targets[stage]

    def network(self, role: str, trains: bool = False) -> tuple[nn.Module, Shape]:
        """A role's network as it begins (a copy if it was given), on the device, and its shape."""
        owner = _same(role)
        if owner in self.networks:
            network = copy.deepcopy(self.networks[owner])
        else:
            spec, classes = network_of(self.recipe, owner), len(self.examples.class_names)
            with self.seeded(owner, "weights"):
                network = resnet1d(spec.depth, classes, spec.width, spec.head, self._dropout(owner))
        network = self.fabric.to_device(network)
        name = f"network of the {owner.replace('_', ' ')}"
        return network, self.examples.try_on(network, self.fabric.device, name, trains)

    def seeded(self, role: str, purpose: str) -> Any:
        """Run a block with the generators seeded for a purpose; controls share the student's."""
        return seeded(derive_seed(self.recipe.seed, f"{_same(role)} {purpose}"))

    def chain(self) -> Chain:
        """What was trained, on the CPU."""
        for stage in self.stages.values():
            stage.network.cpu()
        best = {r: s.fit.history["validation_accuracy"].max() for r, s in self.stages.items()}
        for role in self.trained:
            note_weak_teacher(role, best[role], alone=best.get(ALONE, 0.0))
        return Chain(self.recipe, self.stages, self.parts, self.examples, frozenset(self.networks))

    # The trainer of the released code (rivals.released) overrides this method and the next three.
    def _divide(self, parts: Split) -> tuple[Split, np.ndarray]:
        """The split, and the rows that choose each network's epoch."""
        return parts, parts.validation

    def _dropout(self, role: str) -> float | None:
        # With dropout a student cannot regress the teacher's logits (see Network.dropout); the
        # controls do without it too, so that only the teaching differs.
        given = network_of(self.recipe, role).dropout
        return 0.0 if role != "teacher" and given is None else given

    def _before_epoch(self, optimizer: torch.optim.Optimizer, left: int) -> None:
        """Called before each epoch with the optimiser and the number of epochs left."""

    def _distiller(self, role: str, teacher: str, recipe: Recipe) -> tuple[Objective, Generators]:
        """What is minimised, and the generators that it draws from."""
        student, shape = self.network(role)
        order = torch.Generator().manual_seed(derive_seed(recipe.seed, "meta batches"))
        # Seeds of their own, so that the projector begins alike whatever the strategy.
        with self.seeded(role, "weighting"):
            draw = self.meta.stream(recipe.batch(len(self.train.inputs)), order)
            weigh = make_weighting(recipe, shape, student, draw)
        targets, options = self.targets(teacher), (recipe.temperature, recipe.heads)
        with self.seeded(role, "projector"):
            built = Distiller(student, targets, weigh, *options, channels=shape.channels)
        return built, {"meta batches": order}

    def _fit(
        self, name: str, role: str, objective: Objective, teachers: Sequence[str], *given: Any
    ) -> Stage:
        """Train a stage; ``given`` are recipe, epochs and generators other than the usual ones."""
        recipe, epochs, generators = given or (self.recipe, 0, {})
        epochs = epochs or self.recipe.epochs(_same(role), len(self.train.inputs))
        source = " and ".join(["labels", ", ".join(teachers)]) if teachers else "labels"
        made_of = {"recipe": recipe.digest(), "number of epochs": str(epochs)}
        made_of |= {t: digest("", self.stages[t].network.state_dict()) for t in teachers}
        result = self.fit(
            objective,
            self._signals or self.train,
            self.validation,
            recipe,
            epochs,
            seed=derive_seed(self.recipe.seed, f"{_same(role)} order"),
            title=f"{name} ← {source}".replace("_", " "),
            progress=self.progress,
            fabric=self.fabric,
            on_epoch=self.on_epoch and partial(self.on_epoch, name),
            before_epoch=self._before_epoch,
            augment=self._signals and self.examples.varied,
            generators=generators,
            checkpoints=self._checkpoints and self._checkpoints.stage(name, made_of),
        )
        self.stages[name] = Stage(name, objective.student, source, result)
        return self.stages[name]


TRAINERS: dict[str, type[Trainer]] = {"sound": Trainer}
"""Trainers by a recipe's behaviour."""

CONTROLS: dict[str, Callable[[Trainer, str], Stage]] = {
    "alone": lambda trainer, role: trainer.supervise(role),
    "direct": lambda trainer, role: trainer.distil(role, "teacher"),
}
"""Other ways to train the student, by name; the role is ``student_NAME``."""


def distill_chain(
    data: Data,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    controls: Sequence[str] = ("alone",),
    auto: float = 0.0,
    devices: int = 1,
    strategy: str = "ddp",
    **options: Any,
) -> Chain:
    """Train teacher → secondary teachers → student, and the student in other ways as controls.

    The teacher learns from labels, and each further network from labels and the frozen one before.
    Controls have the student's initial weights, batches and steps. Validation chooses each
    network's epoch; no test part is touched.

    Args:
        data, recipe, parts, options: of :class:`Trainer`; ``auto``: budget of `choose_recipe`.
        controls: names in CONTROLS: "alone" (from labels alone), "direct" (from the teacher,
            without secondary ones), "dense" (from the logits of all larger networks).
        devices, strategy: GPUs, or processes on a CPU; see :mod:`hfld_lite.evaluation.parallel`.

    Raises:
        HfldError: if what is given does not fit, a loss is not finite, or memory or disk is full.
        Interrupted: if the user stopped it; the text says what is kept.
    """
    ways = {f"student_{name}": look_up(CONTROLS, name, "Control") for name in controls}
    if auto:
        from hfld_lite.evaluation.choice import choose_recipe as choose  # it stands above, too

        recipe = choose(data, recipe, parts, budget=auto, progress=options.get("progress", True))[0]
    if (devices, strategy) != (1, "ddp"):
        from hfld_lite.evaluation.parallel import on_devices  # and so does this

        return on_devices(devices, strategy, data, recipe, parts, controls, options)
    trainer = TRAINERS[recipe.behaviour](data, recipe, parts, **options)
    for teacher, role in pairwise([None, *recipe.chain]):
        if role in trainer.trained:
            trainer.take(role)
        elif teacher is None:
            trainer.supervise(role)
        else:
            trainer.distil(role, teacher)
    for role, train in ways.items():
        train(trainer, role)
    return trainer.chain()


def _same(role: str) -> str:
    """The role whose initial weights and batches a role shares."""
    return "student" if role.startswith("student_") else role
