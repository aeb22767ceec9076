"""Several small networks of one architecture trained at once, as one network of grouped layers.

A small network's step is many small operations, each below what the processor can do. Side by side
in one network whose convolutions have a group for each of them, with channels last, eight students
take a step in less than half the time that they take one after the other. No weight, batch or
result of one reaches another: each is trained as `training.fit` does it, to float rounding.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from hfld_lite.data.examples import Samples, Stored
from hfld_lite.distillation import Distiller, Objective, Supervised
from hfld_lite.errors import ArgumentError, Diverged, Stopped, look_up, training_errors
from hfld_lite.hierarchy import CONTROLS, TRAINERS, Chain, Data, Stage, Trainer
from hfld_lite.networks import Output, ResNet1d
from hfld_lite.recipes import Recipe
from hfld_lite.rivals.dense import DenselyGuided
from hfld_lite.storage.checkpoints import StageCheckpoints
from hfld_lite.storage.progress import bar, tell
from hfld_lite.storage.randomness import seeded
from hfld_lite.teachers import Batch
from hfld_lite.training import Fit, _Loop, _optimizer, _schedule, check_warmup, make_fabric
from hfld_lite.weighting import Fixed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AT_ONCE = 16
"""Networks in one group at most: more gain no time and take more memory."""

VALIDATED = 128
"""Validation recordings of each network in one pass."""

KNOWN_CONTROLS = ("alone", "direct", "dense")
"""Controls that train one stage and do not use it before it is trained."""

SHARED = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "drops", "warmup")
SHARED += ("batch_size", "balance", "unlabelled", "patience", "precision")
"""Choices of a recipe in which networks that are trained together must agree."""


@dataclass
class Member:
    """What one call of `training.fit` gets, for one of the networks that are trained together.

    ``recipe`` may differ from the others' in all but SHARED. ``checkpoints`` keep the finished
    training only, so that one that was interrupted is repeated from its start.
    """

    name: str
    objective: Objective
    train: Samples
    validation: Samples
    recipe: Recipe
    epochs: int
    seed: int
    on_epoch: Callable[[dict[str, float]], None] | None = None
    checkpoints: StageCheckpoints | None = None
    generators: dict[str, torch.Generator] | None = None
    augment: Callable | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        count = len(self.train.inputs)
        return max(1, count // self.recipe.batch(count))


def fit_together(
    members: Sequence[Member], *, progress: bool = True, fabric: "Fabric | None" = None
) -> list[Fit]:
    """Train several networks at once; each student gets the weights of its own best epoch.

    Orders, schedules, losses and checks are those of `training.fit`, one by one; sums are taken in
    another order, so that a step agrees to float rounding. AdamW at the default rate enlarges that
    in float32: after 200 steps one network's accuracy differs by up to two points, as it does if
    its initial weights change by 1e-7. ``seconds`` are each network's share of the time.

    Memory: a step's activations of all networks at once, besides the data. Measured at depth 10,
    width 1/16 and batches of 32 inputs of 875 values: 37 MiB for 4 students, 75 for 8, 136 for 16,
    where one after the other takes 9 to 19 (``tests/benchmarks/bench_together.py``).

    Raises:
        ArgumentError: if :func:`obstacle` finds one, or what `training.fit` refuses.
        HfldError, Interrupted: as `training.fit`; an error names the network whose loss or gradient
            is not finite. All students have the weights of their best epochs so far.
    """
    if said := obstacle(members):
        raise ArgumentError(f"These networks cannot be trained together: {said}.")
    first, count = members[0], len(members)
    recipe, epochs, steps = first.recipe, first.epochs, first.steps
    check_warmup(recipe, epochs * steps)
    fabric, loops = fabric or make_fabric(recipe), []
    for member in members:
        member.objective.check(len(member.train.inputs), augmented=False)
        loop = _Loop(member.objective, member.recipe, epochs, steps, member.seed, fabric)
        loop.train, loop.validation = (
            samples.to(fabric.device) for samples in (member.train, member.validation)
        )
        loop.generators = {**(member.generators or {}), **loop.generators}
        loops.append(loop)
    group = _Group(members, loops, fabric.device)
    title = f"{count} networks: {first.name} to {members[-1].name}".replace("_", " ")
    with training_errors(title, first.checkpoints) as stopped:
        shown = bar(total=epochs * steps, desc=title, unit="step", progress=progress)
        try:
            for epoch in range(1, epochs + 1):
                rows = group.run_epoch(shown, stopped)
                accuracy = sum(row["validation_accuracy"] for row in rows) / count
                tell(shown, f"epoch {epoch}/{epochs} | mean validation {accuracy:.1%}")
                for member, row in zip(members, rows, strict=True):
                    if member.on_epoch:
                        member.on_epoch(row)
                if stopped():
                    raise Stopped(f"after epoch {epoch} of {epochs}")
            for member, loop in zip(members, loops, strict=True):
                if member.checkpoints:
                    member.checkpoints.save(loop.state(), epochs, finished=True)
        finally:
            shown.close()
            for loop in loops:
                loop.objective.student.load_state_dict(loop.best_state)
                loop.objective.student.eval()
    return [Fit(loop.rows, loop.best_epoch, loop.seconds) for loop in loops]


def obstacle(members: Sequence[Member]) -> str:
    """Why these members cannot be trained together, in a few words; empty if they can."""
    for member in members:
        if said := _own_obstacle(member):
            return f"{member.name}: {said}"
    if len(members) < 2:
        return "there are fewer than two"
    kinds = [_kind(member) for member in members]
    for member, kind in zip(members, kinds, strict=True):
        for name, value in kind.items():
            if value != kinds[0][name]:
                return f"{member.name} differs from {members[0].name} in {name}"
    return ""


def _own_obstacle(member: Member) -> str:
    """Why a member cannot be trained together with any other."""
    objective, student = member.objective, member.objective.student
    if len(member.train.inputs) < 2 or not len(member.validation.inputs) or member.epochs < 1:
        return "it has fewer than 2 training samples, or no validation sample or epoch"
    if type(student) is not ResNet1d:
        return f"its network is a {type(student).__name__}, not a resnet1d"
    if any(isinstance(module, nn.Dropout) and module.p for module in student.modules()):
        return "its network has dropout"
    if type(objective) not in (Supervised, Distiller, DenselyGuided):
        return f"its objective is a {type(objective).__name__}"
    if not isinstance(weigh := getattr(objective, "weigh", None), Fixed | None):
        return f"its terms are weighed by {type(weigh).__name__}, not by fixed weights"
    if member.augment is not None:
        return "its inputs are augmented"
    if any(isinstance(s.inputs, Stored) for s in (member.train, member.validation)):
        return "its inputs are not in memory"
    if member.recipe.patience is not None:
        return "its recipe has a patience"
    if member.recipe.precision != "32-true":
        return f"its precision is {member.recipe.precision}, not 32-true"
    if torch.is_anomaly_enabled():
        return "anomalies are being looked for"
    return ""


def _kind(member: Member) -> dict[str, Hashable]:
    """What members that are trained together have in common."""
    common = {name: getattr(member.recipe, name) for name in SHARED}
    size = min(len(member.train.inputs), member.recipe.batch(len(member.train.inputs)))
    return {
        "architecture": repr(member.objective.student),
        "trained parameters": tuple(p.requires_grad for p in member.objective.student.parameters()),
        "input length": member.train.inputs.shape[1:],
        "batch size": size,
        "steps of an epoch": member.steps,
        "epochs": member.epochs,
        **common,
    }


class _Group(nn.Module):
    """The members' students as one network, the rest of their objectives, and one optimiser."""

    def __init__(
        self, members: Sequence[Member], loops: Sequence[_Loop], device: torch.device
    ) -> None:
        super().__init__()
        self.names, self.loops = [member.name for member in members], loops
        objectives = [loop.objective for loop in loops]
        self.student = Grouped([objective.student for objective in objectives]).to(device)
        # A student's own parameters are not the optimiser's: they get no gradient here.
        self.others = nn.ModuleList(
            nn.ModuleList(m for name, m in objective.named_children() if name != "student")
            for objective in objectives
        )
        first = loops[0]
        self.recipe, self.steps = first.recipe, first.steps
        self.optimizer = _optimizer(self, self.recipe)
        self.schedule = LambdaLR(self.optimizer, _schedule(self.recipe, first.epochs, self.steps))

    def run_epoch(self, shown: Any, stopped: Callable[[], bool]) -> list[dict[str, Any]]:
        """Train for an epoch and validate; each member's new row."""
        began, sums = time.perf_counter(), [{} for _ in self.loops]
        self.train()
        orders = [loop.rows_by_step() for loop in self.loops]
        inputs = [loop.train.inputs for loop in self.loops]
        same = all(x is inputs[0] for x in inputs)
        for step, rows in enumerate(zip(*orders, strict=True), 1):
            place = f"at step {step} of {self.steps} of epoch {self.loops[0].epoch + 1}"
            alike = same and all(torch.equal(one, rows[0]) for one in rows)
            read = (
                [inputs[0][rows[0]]] if alike else [x[r] for x, r in zip(inputs, rows, strict=True)]
            )
            for known, figures in zip(sums, self._step(read, rows, place), strict=True):
                for name, value in figures.items():
                    known[name] = known.get(name, 0) + value.detach()
            shown.update()
            if stopped():
                raise Stopped(place)
        logits, states = self._validated(), self.student.states()
        seconds = (time.perf_counter() - began) / len(self.loops)
        rows = []
        for name, loop, state, *figures in zip(
            self.names, self.loops, states, sums, logits, strict=True
        ):
            loop.objective.student.load_state_dict(state)
            try:
                rows.append(loop.close(*figures, seconds))
            except Diverged as error:
                raise Diverged(f"in {name}, {error}") from error
        return rows

    def _step(
        self, read: Sequence[Tensor], rows: Sequence[Tensor], place: str
    ) -> list[dict[str, Tensor]]:
        outputs = self.student(torch.stack(list(read)))
        totals, figures = [], []
        for i, loop in enumerate(self.loops):
            loop.rate = self.optimizer.param_groups[0]["lr"]
            batch = Batch(read[i % len(read)], loop.train.target[rows[i]], rows[i])
            total, terms = _given(loop.objective, outputs[i], batch)
            totals.append(total)
            figures.append(terms | {"total": total})
        self.optimizer.zero_grad(set_to_none=True)
        self._check(torch.isfinite(torch.stack(totals)), "loss", figures, place)
        torch.stack(totals).sum().backward()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not torch.isfinite(get_total_norm(gradients)):
            self._check(self._finite_gradients(), "gradient", figures, place)
        self.optimizer.step()
        self.schedule.step()
        return [f | loop.objective.monitor() for f, loop in zip(figures, self.loops, strict=True)]

    def _check(
        self, finite: Tensor, what: str, figures: Sequence[dict[str, Tensor]], place: str
    ) -> None:
        """Name the first member of which something is not finite, before the weights change."""
        if not finite.all():
            bad = int(finite.int().argmin())
            said = self.loops[bad]._say(figures[bad])
            raise Diverged(f"in {self.names[bad]}, the {what} is not finite {place} ({said})")

    def _finite_gradients(self) -> Tensor:
        """For each member, whether all gradients are finite."""
        count = len(self.loops)
        own = [p.grad.reshape(count, -1) for p in self.student.parameters() if p.grad is not None]
        finite = torch.isfinite(torch.cat(own, 1)).all(1)
        for i, others in enumerate(self.others):
            grads = [p.grad for p in others.parameters() if p.grad is not None]
            finite[i] &= all(bool(torch.isfinite(grad).all()) for grad in grads)
        return finite

    def _validated(self) -> list[Tensor]:
        """Each member's logits of its validation samples; shorter sets repeat their last row."""
        inputs = [loop.validation.inputs for loop in self.loops]
        if all(x is inputs[0] for x in inputs):
            inputs = inputs[:1]
        counts = [len(loop.validation.inputs) for loop in self.loops]
        self.student.eval()
        found = []
        with torch.inference_mode():
            for rows in torch.arange(max(counts)).split(VALIDATED):
                x = torch.stack([one[rows.clamp(max=len(one) - 1)] for one in inputs])
                found.append(torch.stack([output.logits for output in self.student(x)]))
        return [own[:count] for own, count in zip(torch.cat(found, 1), counts, strict=True)]


class _Answer(nn.Module):
    """Stands in an objective for its student, whose output is known already."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, _inputs: Tensor) -> Output:
        return self.output


def _given(objective: Objective, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """What the objective says of a batch to which its student has answered."""
    student, objective.student = objective.student, _Answer(output)
    try:
        return objective(batch)
    finally:
        objective.student = student


class Grouped(nn.Module):
    """Several 1-D ResNets of one architecture as one network, side by side along the channels.

    Convolutions have a group for each network. They are two-dimensional, of height one, since the
    fast layout, channels last, is there for maps only.
    """

    def __init__(self, networks: Sequence[ResNet1d]) -> None:
        super().__init__()
        self.count, first = len(networks), networks[0]
        self.shapes = {name: value.shape for name, value in first.state_dict().items()}
        with seeded(0):  # new layers draw weights, which are replaced
            self.network = _grouped(copy.deepcopy(first), self.count)
        self.network.to(next(first.parameters()).dtype)
        states = [network.state_dict() for network in networks]
        for name, value in self.network.state_dict().items():
            each = torch.stack([state[name] for state in states])
            value.copy_(each.reshape(value.shape) if value.ndim else each[0])

    def forward(self, x: Tensor) -> list[Output]:
        """Map ``(networks, batch, length)`` to features ``(batch, C, 9)`` and logits of each.

        Inputs that all of them read are ``(1, batch, length)``.
        """
        net = self.network
        net.stem[0].groups = len(x)
        maps = x.transpose(0, 1).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        features = net.pool(net.attention(net.stages(net.stem(maps))))
        features = features.reshape(len(features), self.count, -1, features.shape[-1])
        features = features.transpose(0, 1).contiguous()
        return list(map(Output, features.unbind(), net.head(features.flatten(2)).unbind()))

    def states(self) -> list[dict[str, Tensor]]:
        """Each network's own state dict, copies."""
        found = self.network.state_dict()
        return [
            {
                name: (found[name].reshape(self.count, *shape)[i] if shape else found[name]).clone()
                for name, shape in self.shapes.items()
            }
            for i in range(self.count)
        ]


class _Linears(nn.Module):
    """As many linear layers as networks, each with inputs of its own."""

    def __init__(self, count: int, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.new_empty(count, *layer.weight.shape))
        self.bias = nn.Parameter(layer.bias.new_empty(count, *layer.bias.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(networks, batch, inputs)`` to ``(networks, batch, outputs)``."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


def _grouped(module: nn.Module, count: int) -> nn.Module:
    """A network's layers, replaced by those of so many networks."""
    for name, child in module.named_children():
        module.register_module(name, _grouped(child, count))
    if isinstance(module, nn.Conv1d):
        (kernel,), (stride,), (padding,) = module.kernel_size, module.stride, module.padding
        made = nn.Conv2d(
            count * module.in_channels,
            count * module.out_channels,
            (1, kernel),
            (1, stride),
            (0, padding),
            groups=count,
            bias=module.bias is not None,
        )
        return _like(made, module).to(memory_format=torch.channels_last)
    if isinstance(module, nn.BatchNorm1d):
        return _like(nn.BatchNorm2d(count * module.num_features), module)
    if isinstance(module, nn.Linear):
        return _like(_Linears(count, module), module)
    if isinstance(module, nn.MaxPool1d):
        return nn.MaxPool2d((1, module.kernel_size), (1, module.stride), (0, module.padding))
    if isinstance(module, nn.AdaptiveAvgPool1d):
        return nn.AdaptiveAvgPool2d((1, module.output_size))
    if isinstance(module, nn.Dropout):  # of 0: it would draw all the same
        return nn.Identity()
    return module


def _like(made: nn.Module, layer: nn.Module) -> nn.Module:
    """A new layer whose parameters are trained where the old one's are."""
    for name, parameter in layer.named_parameters():
        made.get_parameter(name).requires_grad_(parameter.requires_grad)
    return made


def train_together(
    jobs: Iterable[tuple[Trainer, Callable[[Trainer], Stage]]], *, progress: bool = True
) -> list[Stage]:
    """Train one stage each, of one trainer or of several, together where that is possible.

    To train three students of one trainer on the same batches::

        train_together([(trainer, lambda t, n=n: t.distil("student", "teacher", RECIPES[n], n))
                        for n in RECIPES])

    What cannot be trained with the others (see :func:`obstacle`), and what a checkpoint has begun,
    is trained one by one; a warning says so.

    Args:
        jobs: a trainer and a function that trains one stage of it by one of its methods; the
            function must not use the stage, which is not trained before this returns.
        progress: show a bar for each group.

    Returns:
        The stages, in the order of the jobs; they are in each trainer's ``stages``, too.

    Raises:
        ArgumentError: if a function trains more than one stage.
        HfldError, Interrupted: as :func:`fit_together`; stages that are not trained are removed.
    """
    made: list[tuple[Trainer, Stage]] = []
    trainers: list[Trainer] = []
    waiting: list[_Waiting] = []
    try:
        for trainer, train in jobs:
            trainers.append(trainer)
            stage, call = _asked(trainer, train)
            if call is not None:
                waiting.append(_Waiting(len(made), *call))
            made.append((trainer, stage))
        for group in _groups(waiting):
            if len(group) > 1:
                fabric = made[group[0].place][0].fabric
                members = [one.member for one in group]
                fits = fit_together(members, progress=progress, fabric=fabric)
            else:
                fits = [group[0].alone()]
            for one, found in zip(group, fits, strict=True):
                trainer, stage = made[one.place]
                made[one.place] = trainer, replace(stage, fit=found)
                trainer.stages[stage.role] = made[one.place][1]
    except BaseException:
        for trainer in trainers:
            for name, stage in [*trainer.stages.items()]:
                if stage.fit is _NOT_YET:
                    del trainer.stages[name]
        raise
    return [stage for _, stage in made]


def chains_together(
    data: Data,
    recipes: Sequence[Recipe],
    *,
    controls: Sequence[str] = ("alone",),
    folders: Sequence[str | Path | None] = (),
    **options: Any,
) -> list[Chain]:
    """What `distill_chain` gives for each recipe, their networks trained together by role.

    First all teachers, then all secondary teachers, then all students with their controls.

    Args:
        data, controls: see :func:`hfld_lite.hierarchy.distill_chain`.
        recipes: which may differ in the seed, above all.
        folders: one for each recipe, for a checkpoint of each finished stage; see `Trainer`.
        options: others of :class:`hfld_lite.hierarchy.Trainer`.

    Raises:
        HfldError, Interrupted: as `distill_chain`.
    """
    ways = {f"student_{name}": look_up(CONTROLS, name, "Control") for name in controls}
    if folders and len(folders) != len(recipes):
        raise ArgumentError(
            f"folders has {len(folders)} entries for {len(recipes)} recipes; give one for each."
        )
    trainers = [
        TRAINERS[recipe.behaviour](data, recipe, **options, folder=folder)
        for recipe, folder in zip(recipes, folders or [None] * len(recipes), strict=True)
    ]
    progress = options.get("progress", True)
    roles = {role: None for recipe in recipes for role in recipe.chain}
    for role in roles:
        jobs = [
            (trainer, partial(_stage, before, role))
            for trainer in trainers
            for before, own in pairwise([None, *trainer.recipe.chain])
            if own == role
        ]
        if role == "student":
            jobs += [(t, lambda t, r=r: ways[r](t, r)) for r in ways for t in trainers]
        train_together(jobs, progress=progress)
    return [trainer.chain() for trainer in trainers]


def _stage(teacher: str | None, role: str, trainer: Trainer) -> Stage:
    if role in trainer.trained:
        return trainer.take(role)
    return trainer.distil(role, teacher) if teacher else trainer.supervise(role)


_NOT_YET = Fit([], 0, math.nan)


def _asked(
    trainer: Trainer, train: Callable[[Trainer], Stage]
) -> tuple[Stage, tuple[Member, Callable[[], Fit]] | None]:
    """The stage that a function would train, and what it gave to `fit`."""
    if type(trainer) is not Trainer:
        warnings.warn(f"Stages of a {type(trainer).__name__} are trained one by one.", stacklevel=3)
        return train(trainer), None
    calls: list[tuple[tuple, dict[str, Any]]] = []

    def note(*args: Any, **options: Any) -> Fit:
        calls.append((args, options))
        return _NOT_YET

    usual, trainer.fit = trainer.fit, note
    try:
        stage = train(trainer)
    finally:
        trainer.fit = usual
    if not calls:  # a network that was given trained
        return stage, None
    if len(calls) > 1:
        raise ArgumentError(
            f"A function given to train_together trained {len(calls)} stages; it may train one."
        )
    args, options = calls[0]
    kept = ("seed", "on_epoch", "checkpoints", "generators", "augment")
    name = f"{stage.role} of seed {trainer.recipe.seed}"
    member = Member(name, *args, **{key: options[key] for key in kept})
    return stage, (member, lambda: usual(*args, **options))


@dataclass
class _Waiting:
    """A stage that is to be trained: its place among the jobs, and how to train it alone."""

    place: int
    member: Member
    alone: Callable[[], Fit]


def _groups(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """What is trained together; a warning says what is not, and why."""
    kinds: dict[Hashable, list[_Waiting]] = {}
    single, said = [], {}
    for one in waiting:
        if why := _own_obstacle(one.member):
            said.setdefault(why, []).append(one.member.name)
            single.append(one)
        elif one.member.checkpoints and one.member.checkpoints.load() is not None:
            single.append(one)  # which is finished, or continues where it was
        else:
            kinds.setdefault(tuple(_kind(one.member).items()), []).append(one)
    groups = [[one] for one in single]
    largest = max(kinds.values(), key=len, default=[])
    for same in kinds.values():
        if len(same) == 1 and same is not largest:
            why = obstacle([largest[0].member, same[0].member])
            said.setdefault(why, []).append(same[0].member.name)
        parts = -(-len(same) // AT_ONCE)
        groups += [same[i::parts] for i in range(parts)]
    for why, names in said.items():
        warnings.warn(f"Trained one by one: {', '.join(names)} ({why}).", stacklevel=4)
    return groups
