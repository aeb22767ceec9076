"""One training loop for every objective, and prediction."""

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from hfld_lite.distillation import Batch, Objective
from hfld_lite.errors import ArgumentError
from hfld_lite.recipes import Recipe
from hfld_lite.weighting import TERMS


class Samples(NamedTuple):
    """Network inputs ``(n, length)`` and their classes, int64 ``(n,)``."""

    inputs: Tensor
    target: Tensor


@dataclass(frozen=True)
class Fit:
    """What a training run left behind, besides the network's weights.

    ``history`` has a row an epoch: ``epoch``, each loss term (mean over the epoch's steps),
    ``total``, the terms' weights as ``weight_…`` where there are any, ``learning_rate`` (of the
    last step), ``validation_accuracy``, ``validation_loss``, ``seconds`` and ``verdict``, a
    sentence where the weights have collapsed.
    ``best_epoch`` is the one whose weights the network now holds.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float


def make_fabric(recipe: Recipe) -> Fabric:
    """The device and precision to train with: one GPU where there is one, else the CPU."""
    return Fabric(accelerator="auto", devices=1, precision=recipe.precision)


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    state = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)
    return int(state[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's generators seeded, and give the caller's back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Fit:
    """Minimise an objective, and leave its student with the weights of the best epoch.

    The best epoch has the highest validation accuracy, and of those the lowest validation loss.
    Each epoch visits the training set in a new order; the last, incomplete batch of an epoch is
    left out unless it is the only one (batch norm would be estimated from few samples, and the
    order changes what is left out).

    Args:
        objective: what is minimised; ``objective.student`` is validated.
        train, validation: samples; moved to the device once, at the start.
        recipe: optimiser, schedule, batch size, precision.
        epochs: passes over the training set.
        seed: of the order and of dropout.
        title: what the progress bar says first.
        progress: show a progress bar with epoch, terms, validation accuracy and time left.
        fabric: device and precision; by default :func:`make_fabric`.
        on_epoch: called with each new row of the history.
        augment: makes what the networks read of a batch of ``train.inputs`` (raw signals then) and
            a generator on their device.

    Returns:
        The history and the best epoch.

    Raises:
        ArgumentError: if training or validation set is empty, epochs is below 1, or the objective
            learns from cached answers that do not belong to these inputs: other rows, or augmented.
    """
    if len(train.inputs) < 2 or not len(validation.inputs) or epochs < 1:
        raise ArgumentError(
            f"fit needs 2 training samples, a validation sample and 1 epoch at least; found "
            f"{len(train.inputs)}, {len(validation.inputs)} and {epochs}."
        )
    objective.check(len(train.inputs), augmented=augment is not None)
    fabric = fabric or make_fabric(recipe)
    # Moved before the optimiser looks at the parameters, and without a wrapper to peel off later.
    fabric.to_device(objective)
    steps = max(1, len(train.inputs) // recipe.batch_size)
    optimizer = _optimizer(objective, recipe)
    schedule = LambdaLR(optimizer, _schedule(recipe, epochs, steps))
    momentum = optimizer.state
    model, optimizer = fabric.setup(objective, optimizer)
    train = Samples(*(fabric.to_device(t) for t in train))
    validation = Samples(*(fabric.to_device(t) for t in validation))

    order = torch.Generator().manual_seed(derive_seed(seed, "order"))
    variety = torch.Generator(fabric.device).manual_seed(derive_seed(seed, "augmentation"))
    best, best_state, rows, began = (-1.0, -math.inf), None, [], time.perf_counter()
    bar = tqdm(total=epochs * steps, desc=title, unit="step", disable=not progress, mininterval=0.5)
    with seeded(derive_seed(seed, "dropout")):
        for epoch in range(1, epochs + 1):
            model.train()
            if _is_renewed(recipe, epochs - epoch + 1):
                momentum.clear()  # what a new optimiser would start with
            start, sums = time.perf_counter(), {}
            shuffled = torch.randperm(len(train.inputs), generator=order).to(fabric.device)
            for step in range(steps):
                rows_of_batch = shuffled[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                inputs = train.inputs[rows_of_batch]
                if augment:
                    inputs = augment(inputs, variety)
                batch = Batch(inputs, train.target[rows_of_batch], rows_of_batch)
                terms = model(batch)
                total = objective.total(terms)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(total)
                optimizer.step()
                rate = optimizer.param_groups[0]["lr"]
                schedule.step()
                for name, value in (terms | {"total": total} | objective.monitor()).items():
                    sums[name] = sums.get(name, 0) + value.detach()
                bar.update()
            row = {"epoch": epoch, **{name: float(v) / steps for name, v in sums.items()}}
            row["learning_rate"] = rate
            logits = predict_logits(objective.student, validation.inputs, fabric=fabric)
            row["validation_accuracy"] = float(
                (logits.argmax(1) == validation.target).float().mean()
            )
            row["validation_loss"] = float(F.cross_entropy(logits, validation.target))
            row["seconds"] = time.perf_counter() - start
            row["verdict"] = objective.verdict(row)
            rows.append(row)
            score = (row["validation_accuracy"], -row["validation_loss"])
            if score > best:
                best, best_epoch = score, epoch
                best_state = copy.deepcopy(objective.student.state_dict())
            bar.set_postfix_str(_postfix(row, epochs))
            if on_epoch:
                on_epoch(row)
    bar.close()
    objective.student.load_state_dict(best_state)
    objective.student.eval()
    return Fit(pd.DataFrame(rows), best_epoch, time.perf_counter() - began)


def predict_logits(
    network: nn.Module, inputs: Tensor, batch_size: int = 256, fabric: Fabric | None = None
) -> Tensor:
    """Logits ``(n, classes)`` in float32, in eval mode; the network's mode is given back after."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.inference_mode(), fabric.autocast() if fabric else torch.no_grad():
        parts = [network(chunk.to(device)).logits.float() for chunk in inputs.split(batch_size)]
    network.train(was_training)
    return torch.cat(parts)


def _postfix(row: dict[str, float], epochs: int) -> str:
    """Epoch, loss terms, validation accuracy, and what is wrong if anything is."""
    names = [name for name in (*TERMS, "dense") if name in row]
    terms = " ".join(f"{name} {row[name]:.3f}" for name in names)
    accuracy = row["validation_accuracy"]
    wrong = f" | {row['verdict']}" if row["verdict"] else ""
    return f"epoch {row['epoch']}/{epochs} | {terms} | validation {accuracy:.1%}{wrong}"


def _optimizer(objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; what sets the weights of the terms is a group of its own.

    That group has no weight decay, which would pull the weights together, and with "meta" a rate
    higher by the number of steps from one of its updates to the next.
    """
    weighting = {id(p) for p in getattr(objective, "weigh", nn.Module()).parameters()}
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if id(p) not in weighting]}]
    if own := [p for p in trained if id(p) in weighting]:
        factor = recipe.meta_every if recipe.weighting == "meta" else 1
        groups.append({"params": own, "lr": recipe.learning_rate * factor, "weight_decay": 0.0})
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    return torch.optim.AdamW(groups, **options)


def _is_renewed(recipe: Recipe, left: int) -> bool:
    """As published, a drop of the rate, ``left`` epochs before the end, is a new optimiser."""
    drops = recipe.drops if recipe.schedule == "drops" else ()
    return recipe.behaviour == "published" and left in drops


def _schedule(recipe: Recipe, epochs: int, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step."""
    if recipe.schedule == "drops":
        return lambda step: 0.1 ** sum(step // steps >= epochs - drop for drop in recipe.drops)
    total, warm = epochs * steps, max(1, epochs * steps // 10)

    def one_cycle(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return one_cycle
