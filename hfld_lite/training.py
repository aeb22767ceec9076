"""One training loop for every objective, and prediction."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from hfld_lite.data.examples import Samples, Stored, batches, evaluated, shuffle
from hfld_lite.distillation import Batch, Objective
from hfld_lite.errors import ArgumentError, Diverged, Stopped, training_errors
from hfld_lite.recipes import DECAY, Recipe
from hfld_lite.storage import ranks
from hfld_lite.storage.checkpoints import StageCheckpoints
from hfld_lite.storage.history import Fit, postfix
from hfld_lite.storage.progress import bar, tell
from hfld_lite.storage.randomness import derive_seed, random_states, seeded, set_random_states
from hfld_lite.storage.threads import use_threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(recipe: Recipe, folder: Any = None) -> Fabric:
    """Device, precision and threads: a rank's own, or one GPU where there is one, else the CPU."""
    from lightning_fabric import Fabric  # here, as it takes as long to import as torch

    if ranks.fabric is None:
        use_threads(recipe, folder)
    return ranks.fabric or Fabric(accelerator="auto", devices=1, precision=recipe.precision)


def fit(
    objective: Objective,
    train: Samples,
    validation: Samples,
    recipe: Recipe,
    epochs: int,
    *,
    seed: int,
    title: str = "",
    progress: bool = True,
    fabric: Fabric | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    before_epoch: Callable[[torch.optim.Optimizer, int], None] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    checkpoints: StageCheckpoints | None = None,
) -> Fit:
    """Minimise an objective, and leave its student with the weights of the best epoch.

    The best epoch has the highest validation accuracy, and of those the lowest validation loss.
    Each epoch visits the training set in a new order; the last, incomplete batch is left out unless
    it is the only one (batch norm would be estimated from few samples).

    Args:
        objective: what is minimised; ``objective.student`` is validated.
        train, validation: samples, in memory or read step by step where they are stored.
        recipe: optimiser, schedule, batch size, precision.
        epochs: passes over the training set.
        seed: of the order and of dropout.
        title: what the progress bar says first.
        progress: show a bar with epoch, terms, validation accuracy and time left.
        fabric: device and precision; by default :func:`make_fabric`.
        on_epoch: called with each new row of the history.
        before_epoch: called with the optimiser and the number of epochs that are left.
        augment: makes what the networks read of a batch of ``train.inputs`` (raw signals then) and
            a generator on their device.
        generators: others that the objective draws from, to be kept in checkpoints.
        checkpoints: where the state after each epoch goes, and where an earlier one is; an epoch
            that was interrupted is repeated from its start, with the same bits.

    Raises:
        ArgumentError: if a set is empty, epochs is below 1, or cached answers are to other inputs.
        HfldError: if a loss or gradient is not finite (before the weights change), memory runs out,
            or a checkpoint cannot be written; the student has the weights of its best epoch so far.
        Interrupted: if the user pressed Ctrl-C; a second Ctrl-C does not wait for the step to end.
    """
    if len(train.inputs) < 2 or not len(validation.inputs) or epochs < 1:
        raise ArgumentError(
            f"fit needs 2 training samples, a validation sample and 1 epoch at least; found "
            f"{len(train.inputs)}, {len(validation.inputs)} and {epochs}."
        )
    objective.check(len(train.inputs), augmented=augment is not None)
    size = recipe.batch(len(train.inputs))
    fabric, steps = fabric or make_fabric(recipe), max(1, len(train.inputs) // size)
    check_warmup(recipe, epochs * steps)
    loop = _Loop(objective, recipe, epochs, steps, seed, fabric)
    loop.train, loop.validation = train.to(fabric.device), validation.to(fabric.device)
    loop.augment, loop.generators = augment, {**(generators or {}), **loop.generators}
    with seeded(derive_seed(seed, "dropout")), training_errors(title, checkpoints) as stopped:
        if checkpoints and (state := checkpoints.load()):
            loop.load(state)
        begun = {"total": epochs * loop.steps, "initial": loop.epoch * loop.steps}
        shown = bar(**begun, desc=title, unit="step", progress=progress, mininterval=0.5)
        try:
            while not loop.finished:
                if before_epoch:
                    before_epoch(loop.optimizer, epochs - loop.epoch)
                row = loop.run_epoch(shown, stopped)
                if checkpoints:
                    checkpoints.save(loop.state(), loop.epoch, finished=loop.finished)
                tell(shown, postfix(row, epochs))
                if on_epoch:
                    on_epoch(row)
                if stopped():  # in validation or while a checkpoint was written
                    raise Stopped(f"after epoch {loop.epoch} of {epochs}")
        finally:
            shown.close()
            objective.student.load_state_dict(loop.best_state)
            objective.student.eval()
    return Fit(loop.rows, loop.best_epoch, loop.seconds)


def check_warmup(recipe: Recipe, steps: int) -> None:
    """Refuse a budget of steps that ends before the rate has reached its highest value."""
    if recipe.schedule == "one-cycle" and recipe.warmup and recipe.warmup >= steps:
        raise ArgumentError(
            f"The recipe's warmup is {recipe.warmup} steps and a network trains for {steps}; give "
            "it more steps or a shorter warmup."
        )


class _Loop:
    """All that changes while `fit` runs, so all that a checkpoint must hold."""

    counts = ("epoch", "rows", "seconds", "best", "best_epoch")

    def __init__(
        self, objective: Objective, recipe: Recipe, epochs: int, steps: int, seed: int, fabric: Any
    ) -> None:
        self.objective, self.recipe, self.epochs, self.fabric = objective, recipe, epochs, fabric
        # Moved before the optimiser looks at the parameters, and without a wrapper to peel off.
        fabric.to_device(objective)
        self.steps, self.optimizer = steps, _optimizer(objective, recipe)
        if hasattr(objective, "weigh"):
            objective.weigh.optimizer = self.optimizer
        self.schedule = LambdaLR(self.optimizer, _schedule(recipe, epochs, steps))
        self.model, self.wrapped_optimizer = fabric.setup(objective, self.optimizer)
        self.order = torch.Generator().manual_seed(derive_seed(seed, "order"))
        self.variety = torch.Generator(fabric.device).manual_seed(derive_seed(seed, "augmentation"))
        self.generators = {"order": self.order, "augmentation": self.variety}
        self.parts = {"objective": objective, "optimizer": self.optimizer}
        self.parts |= {"schedule": self.schedule, "precision": fabric.strategy.precision}
        self.epoch, self.rows, self.seconds = 0, [], 0.0
        self.best, self.best_epoch = (-1.0, -math.inf), 0
        self.best_state = copy.deepcopy(objective.student.state_dict())

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or there were none better for as long as the patience."""
        idle, patience = (self.epoch - self.best_epoch) * self.steps, self.recipe.patience
        return self.epoch >= self.epochs or (patience is not None and idle >= patience)

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, as tensors and JSON values."""
        return {
            **{name: part.state_dict() for name, part in self.parts.items()},
            **random_states(self.generators, self.fabric.device),
            "best_state": self.best_state,
            **{name: getattr(self, name) for name in self.counts},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        set_random_states(state, self.generators, self.fabric.device)
        for name in self.counts:
            setattr(self, name, state[name])
        self.best_state = self.fabric.to_device(state["best_state"])

    def run_epoch(self, shown: Any, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Train for an epoch and validate; the new row of the history."""
        began, sums = time.perf_counter(), {}
        self.model.train()
        for step, (rows, inputs) in enumerate(batches(self.train.inputs, self.rows_by_step()), 1):
            place = f"at step {step} of {self.steps} of epoch {self.epoch + 1}"
            for name, value in self._step(rows, inputs, place).items():
                sums[name] = sums.get(name, 0) + value.detach()
            shown.update()
            if stopped():
                raise Stopped(place)
        logits = predict_logits(self.objective.student, self.validation.inputs, fabric=self.fabric)
        return self.close(sums, logits, time.perf_counter() - began)

    def rows_by_step(self) -> tuple[Tensor, ...]:
        """The rows that each step of the next epoch reads."""
        count = len(self.train.inputs)
        size, share = self.recipe.batch(count), self.recipe.unlabelled * self.objective.unlabelled
        shuffled = shuffle(self.train.target, self.order, self.recipe.balance, size, share)
        return shuffled.to(self.fabric.device).split(size)[: self.steps]

    def close(self, sums: Mapping[str, Tensor], logits: Tensor, seconds: float) -> dict[str, Any]:
        """End an epoch: its new row, from the sums over its steps and the validation's logits."""
        number = self.epoch + 1
        row = {"epoch": number, **{name: float(v) / self.steps for name, v in sums.items()}}
        row |= {"learning_rate": self.rate, **validate(logits, self.validation.target)}
        if not math.isfinite(row["validation_loss"]):  # before such weights are taken for the best
            said = self._say({name: row[name] for name in (*sums, "validation_loss")})
            place = f"after epoch {number}"
            raise Diverged(f"the loss on validation data is not finite {place} ({said})")
        row |= {"seconds": seconds, "verdict": self.objective.verdict(row)}
        score = (row["validation_accuracy"], -row["validation_loss"])
        if score > self.best:
            self.best, self.best_epoch = score, number
            self.best_state = copy.deepcopy(self.objective.student.state_dict())
        self.rows.append(row)
        self.epoch, self.seconds = number, self.seconds + seconds
        return row

    def _step(self, rows: Tensor, inputs: Tensor, place: str) -> dict[str, Tensor]:
        self.rate = self.optimizer.param_groups[0]["lr"]
        if self.augment:
            inputs = self.augment(inputs, self.variety)
        total, terms = self.model(Batch(inputs, self.train.target[rows], rows))
        figures = terms | {"total": total}
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(total):
            if torch.is_anomaly_enabled():
                self._backward(total, place, figures)  # may name the operation
            raise Diverged(f"the loss is not finite {place} ({self._say(figures)})")
        self._backward(total, place, figures)
        self.wrapped_optimizer.step()
        self.schedule.step()
        return figures | self.objective.monitor()

    def _backward(self, total: Tensor, place: str, figures: Mapping[str, Tensor]) -> None:
        try:
            self.fabric.backward(total)
        except RuntimeError as error:  # from torch's anomaly detection, where it is switched on
            if "returned nan values" not in str(error):
                raise
            said = f"{error} {place} ({self._say(figures)})".replace(". at", " at")
            raise Diverged(said) from error
        if self.recipe.precision == "16-mixed":
            return  # the scaler tries too large a scale now and then, and leaves out such steps
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        if not torch.isfinite(get_total_norm(gradients)):
            raise Diverged(f"a gradient is not finite {place} ({self._say(figures)})")

    def _say(self, figures: Mapping[str, Tensor | float]) -> str:
        said = (f"{name} {float(torch.as_tensor(v).detach()):.4g}" for name, v in figures.items())
        return f"{', '.join(said)}; learning rate {self.rate:.3g}"


def validate(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Accuracy and cross-entropy of a network's logits, as a history names them."""
    return {
        "validation_accuracy": float((logits.argmax(1) == target).float().mean()),
        "validation_loss": float(F.cross_entropy(logits, target)),
    }


def predict_logits(
    network: nn.Module, inputs: Tensor | Stored, batch_size: int = 256, fabric: Fabric | None = None
) -> Tensor:
    """Logits ``(n, classes)`` in float32, in eval mode; the network's modes stay as they were."""
    device, autocast = next(network.parameters()).device, fabric.autocast if fabric else nullcontext
    with evaluated(network), torch.inference_mode(), autocast():
        chunks = batches(inputs, torch.arange(len(inputs)).split(batch_size))
        return torch.cat([network(chunk.to(device)).logits.float() for _, chunk in chunks])


def _optimizer(objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; what sets the weights of the terms is a group of its own.

    That group has no weight decay, which would pull the weights together, and the rate that its
    strategy asks for.
    """
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    own = [trained.pop(name) for name in list(trained) if name.startswith("weigh.")]
    groups = [{"params": list(trained.values())}]
    if own:
        rate = recipe.learning_rate * objective.weigh.rate
        groups.append({"params": own, "lr": rate, "weight_decay": 0.0})
    given, usual = recipe.weight_decay, DECAY[recipe.optimizer]
    options = {"lr": recipe.learning_rate, "weight_decay": usual if given is None else given}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    return torch.optim.AdamW(groups, **options)


def _schedule(recipe: Recipe, epochs: int, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step."""
    if recipe.schedule == "drops":
        return lambda step: 0.1 ** sum(step // steps >= epochs - drop for drop in recipe.drops)
    total = epochs * steps
    warm = recipe.warmup or max(1, total // 10)

    def one_cycle(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return one_cycle
