"""How the four terms of the loss are balanced: L = α·L_feature + μ·TCKD + ν·NCKD + β·CE.

The weights are given, or a small network (PVPN) reads them off the student's features and is
trained in one of several ways. Source: the paper that the package teaches (HFLKD) and its code.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from hfld_lite.errors import ArgumentError

TERMS = ("feature", "tckd", "nckd", "cross_entropy")
"""The terms of the loss by name; their weights are α, μ, ν, β."""

ORDER = {4: ("tckd", "nckd", "feature", "cross_entropy"), 3: ("feature", "logits", "cross_entropy")}
"""What the outputs of the two published PVPNs weigh: μ, ν, α, β for tiles, three on CIFAR-100."""

LIMIT = 6.0
"""Bound on |s| in uncertainty weighting; weights lie between exp(−6) and exp(6) before scaling."""

# Their channels read, channels of 1x1 convolutions and sizes of hidden linear layers.
_LAYOUT = {4: (512, (256, 32, 4), (512, 128)), 3: (64, (32,), (512, 128))}


class PVPN(nn.Module):
    """Parameter value prediction network: 1x1 convolutions, ReLU, flatten, linear layers.

    With four outputs C→256→32→4, then 4·N→512→128→4: 224,808 parameters at C = 512, N = 9. With
    three C→32, then 32·N→512→128→3: 85,027 at C = 64, N = 1, the pooled map of CIFAR-100.

    Args:
        channels, positions: C and N of the features; a map's N is height times width.
        outputs: 4, or 3 with one for both logit terms, which are split 1:2.
        hidden: ``"published"`` for the sizes above, or ``"adaptive"``: these times C/512 (C/64
            with three outputs), at least 4 and never above the published, so that the PVPN stays
            smaller than the student that it serves: 2,100 parameters at C = 32, N = 9.

    Raises:
        ArgumentError: if an argument is outside these values.
    """

    def __init__(
        self, channels: int, positions: int, outputs: int = 4, hidden: str = "adaptive"
    ) -> None:
        super().__init__()
        if channels < 1 or positions < 1 or outputs not in ORDER:
            raise ArgumentError(
                f"A PVPN needs a channel and a position at least and 4 or 3 outputs; found "
                f"{channels}, {positions} and {outputs}."
            )
        if hidden not in ("published", "adaptive"):
            raise ArgumentError(f"hidden is {hidden!r}; choose published or adaptive.")
        read, *sizes = _LAYOUT[outputs]
        scale = min(1.0, channels / read) if hidden == "adaptive" else 1.0
        maps, units = ([max(4, round(size * scale)) for size in part] for part in sizes)
        self.layers = nn.Sequential()
        for before, after in pairwise([channels, *maps]):
            self.layers.extend([nn.Conv1d(before, after, 1), nn.ReLU()])
        self.layers.append(nn.Flatten())
        for before, after in pairwise([maps[-1] * positions, *units]):
            self.layers.extend([nn.Linear(before, after), nn.ReLU()])
        self.layers.append(nn.Linear(units[-1], outputs))
        self.channels, self.positions, self.order = channels, positions, ORDER[outputs]

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, C, N)`` or ``(batch, C, H, W)`` to ``(batch, outputs)``, before a sigmoid.

        The outputs stand in the published order; :meth:`by_term` puts them into that of ``TERMS``.
        """
        features = features.flatten(2)
        if features.shape[1:] != (self.channels, self.positions):
            raise ArgumentError(
                f"The PVPN reads {self.channels} channels at {self.positions} positions; found "
                f"features of shape {tuple(features.shape)} (batch, channels, positions)."
            )
        with torch.autocast(features.device.type, enabled=False):  # weights in full precision
            return self.layers(features.to(self.layers[0].weight.dtype))

    def by_term(self, values: Tensor) -> Tensor:
        """Weights ``(outputs,)`` in the published order as weights ``(4,)`` in that of TERMS."""
        named = dict(zip(self.order, values, strict=True))
        if "logits" in named:
            named |= {"tckd": named["logits"], "nckd": 2 * named["logits"]}
        return torch.stack([named[term] for term in TERMS])


class Weighting(nn.Module):
    """What every strategy is: ``weighting(losses, features)`` is the scalar to minimise.

    ``losses`` are named as in ``TERMS``, a missing one counts as zero; ``features`` are the
    student's, unprojected. The scalar's value is Σ w_i L_i. Its gradient trains the student and,
    where the strategy says so, its ``pvpn``, a submodule that the optimiser must then hold.

    Attributes:
        weights: the last w by term, detached scalars, averaged over the batch; empty before.
        sigmoid: the weights are sigmoids in (0, 1) and their sum is free, for :func:`collapse`.
    """

    sigmoid = False

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, Tensor] = {}

    def forward(self, losses: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The scalar to minimise."""
        raise NotImplementedError

    def observe(self, inputs: Tensor, features: Tensor, logits: Tensor) -> None:
        """See what the next losses come from; only :class:`Meta` makes use of it."""


class Fixed(Weighting):
    """Given weights, the same at every step: L = Σ_i w_i L_i.

    Args:
        weights: a weight, 0 or more, for each term by name; at least one above 0.

    Raises:
        ArgumentError: if a weight is negative or not finite, or all are 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        values = torch.tensor(list(weights.values()), dtype=torch.float32)
        if not torch.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ArgumentError(
                f"The weights are {dict(weights)}; each must be 0 or more and one above 0."
            )
        self.terms = tuple(weights)
        self.register_buffer("values", values)

    def forward(self, losses: Mapping[str, Tensor], features: Tensor | None = None) -> Tensor:
        """The weighted sum of the named terms, a scalar; ``features`` are not looked at."""
        self.weights = dict(zip(self.terms, self.values, strict=True))
        return torch.stack([losses[name] for name in self.terms]) @ self.values


class Predicted(Weighting):
    """Base of the strategies whose weights a PVPN predicts, at first equal ones.

    Args:
        channels, positions, layout: of the :class:`PVPN` (``outputs`` and ``hidden`` by name).
        total: Σ w where it is fixed; by default the number of terms that are not exactly zero at
            that step (NCKD of two classes is), so that equal weights are 1. Zero terms get 0.

    Raises:
        ArgumentError: if a total is given to sigmoids, whose sum is free, or is not above 0.
    """

    def __init__(
        self, channels: int, positions: int, total: float | None = None, **layout: object
    ) -> None:
        super().__init__()
        if total is not None and (self.sigmoid or total <= 0):
            raise ArgumentError(
                f"total is {total}; it must be above 0, and sigmoids have no fixed sum."
            )
        self.pvpn, self.total = PVPN(channels, positions, **layout), total
        nn.init.zeros_(self.pvpn.layers[-1].weight)
        nn.init.zeros_(self.pvpn.layers[-1].bias)

    def _weighted(self, losses: list[Tensor], weights: Tensor) -> Tensor:
        self.weights = dict(zip(TERMS, weights.detach(), strict=True))
        return (weights * torch.stack(losses)).sum()

    def _scaled(self, weights: Tensor, active: Tensor) -> Tensor:
        weights = weights * active
        return weights * ((active.sum() if self.total is None else self.total) / weights.sum())


class Naive(Predicted):
    """The tempting mistake: the PVPN minimises Σ w_i L_i itself, w the batch mean of sigmoids.

    Every L_i is positive, so that all w_i fall from 1/2 to 0, where :func:`collapse` names it.
    """

    sigmoid = True
    detach_input = True

    def forward(self, losses: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The weighted sum, which trains the student and a PVPN that is not frozen."""
        outputs = self.pvpn(features.detach() if self.detach_input else features)
        return self._weighted(_in_order(losses), self.pvpn.by_term(outputs.sigmoid().mean(0)))


class Published(Naive):
    """The released behaviour: the naive weights, but of a PVPN that is random and frozen.

    Args:
        channels, positions, layout: see :class:`Predicted`.
        detach_input: False reproduces the released code, where the student's features reach the
            PVPN with their gradient and the student is paid for shrinking its own loss weights.
    """

    def __init__(
        self, channels: int, positions: int, detach_input: bool = True, **layout: object
    ) -> None:
        super().__init__(channels, positions, **layout)
        self.pvpn.layers[-1].reset_parameters()
        self.pvpn.requires_grad_(False)
        self.detach_input = detach_input


class Uncertainty(Predicted):
    """Weights w_i = exp(−s_i) that settle at 1/L_i, then scaled to a fixed sum.

    s are the PVPN's outputs, averaged over the batch and softly clamped to ±6 (6·tanh(s/6): from
    beyond a hard clamp no gradient leads back). With the losses constant, the PVPN minimises
    Σ (w_i L_i − log w_i); with the weights constant, the student minimises Σ w̃_i L_i, where
    w̃ = w · total / Σ w. Zero terms are left out of all three sums. After Kendall et al.,
    "Multi-task learning using uncertainty to weigh losses", 2018.
    """

    def unscaled(self, features: Tensor) -> Tensor:
        """The weights w before they are scaled, ``(4,)`` in the order of ``TERMS``."""
        s = self.pvpn(features.detach()).mean(0)
        return self.pvpn.by_term(torch.exp(-LIMIT * torch.tanh(s / LIMIT)))

    def forward(self, losses: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The weighted sum, which trains the student; its gradient trains the PVPN as well."""
        terms = _in_order(losses)
        weights, constant = self.unscaled(features), torch.stack(terms).detach()
        active = _active(constant)
        aim = (active * (weights * constant - weights.log())).sum()
        total = self._weighted(terms, self._scaled(weights, active).detach())
        return total + (aim - aim.detach())


class Meta(Predicted):
    """Weights under which a step of the student lowers the cross-entropy on meta batches.

    w is the softmax of the PVPN's outputs, averaged over the batch, scaled to a fixed sum (else
    only the step size is learned); zero terms are left out. The student minimises Σ w_i L_i with
    w constant. At every k-th training step the PVPN gets the gradient ∂L_meta/∂w of
    :func:`meta_gradient`; at the others none at all, so that optimisers leave it where it is.

    A k-th step costs a forward and a backward pass on the meta batch and a pass in forward mode
    besides (with dropout, a backward pass for each term instead), about 4 plain steps more: at
    k = 15 training takes 1.3 times as long, measured by ``tests/benchmarks/bench_distillation.py``.

    Args:
        channels, positions, total, layout: see :class:`Predicted`.
        student: returns ``(features, logits)``; looked at, not owned, so no submodule here.
        next_batch: gives the next meta batch (inputs, target) on the student's device. Cut it
            from the training part, not from the validation part that chooses epochs.
        learning_rate: η of the student's step, or a callable that gives its value now.
        every: k. The PVPN moves at one step in k only; a learning rate k times the student's makes
            up for it, without which a short training ends at nearly equal weights.
        normalise: divide ∂L_meta/∂w by its largest magnitude, so that the PVPN's own learning
            rate means the same whatever η and the scale of the losses.

    Raises:
        ArgumentError: if k is below 1.
    """

    def __init__(
        self,
        channels: int,
        positions: int,
        student: nn.Module,
        next_batch: Callable[[], tuple[Tensor, Tensor]],
        learning_rate: float | Callable[[], float],
        every: int = 10,
        normalise: bool = True,
        total: float | None = None,
        **layout: object,
    ) -> None:
        super().__init__(channels, positions, total, **layout)
        if every < 1:
            raise ArgumentError(f"every is {every}; the PVPN can be updated every step at most.")
        self._student = (student,)  # in a tuple, or its parameters would be owned twice
        self.next_batch, self.learning_rate = next_batch, learning_rate
        self.every, self.normalise, self.step = every, normalise, 0
        self._answer = None

    def observe(self, inputs: Tensor, features: Tensor, logits: Tensor) -> None:
        """With what the losses come from, the meta gradient costs half as much."""
        self._answer = (inputs, features, logits)

    def forward(self, losses: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The weighted sum, which trains the student; at a k-th step it trains the PVPN too."""
        terms, answer, self._answer = _in_order(losses), self._answer, None
        active = _active(torch.stack(terms).detach())
        outputs = self.pvpn(features.detach()).mean(0)
        shares = torch.exp(outputs - outputs.max().detach())  # softmax, but for the sum
        weights = self._scaled(self.pvpn.by_term(shares), active)
        total = self._weighted(terms, weights.detach())
        self.step += self.training
        if not self.training or self.step % self.every:
            return total
        rate = self.learning_rate() if callable(self.learning_rate) else self.learning_rate
        student, (inputs, target) = self._student[0], self.next_batch()
        gradient = meta_gradient(terms, weights, student, inputs, target, rate, answer)
        if self.normalise:
            gradient = gradient / gradient.abs().max().clamp_min(1e-30)
        aim = weights @ gradient.to(weights.dtype)
        return total + (aim - aim.detach())

    def get_extra_state(self) -> Tensor:
        """The step, so that a resumed run updates the PVPN at the same steps."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the step of a checkpoint."""
        self.step = int(state)


def meta_gradient(
    losses: Sequence[Tensor],
    weights: Tensor,
    student: nn.Module,
    inputs: Tensor,
    target: Tensor,
    learning_rate: float,
    answer: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """How the cross-entropy on a meta batch after one step changes with each term's weight.

    With θ the student's parameters and θ′ = θ − η Σ w_i ∇L_i(θ) after a step of plain SGD::

        ∂L_meta/∂w_i = −η ∇L_meta(θ′) · ∇L_i(θ)

    Exact for plain SGD; momentum, weight decay and Adam's scaling are left out. The student's
    parameters and buffers stay as they are, and the graph of the losses is kept.

    A backward pass for each term gives the right factors. With ``answer`` there is a cheaper way
    to the same numbers: the terms depend on θ through the student's features and logits z alone,
    so ∇L_i(θ) · v = ∂L_i/∂z · J v, and one forward-mode pass gives J v, the change of z along v.

    Args:
        losses: L_i, scalars with the graph of the training batch.
        weights: w_i, ``(len(losses),)``; constants here.
        student: returns ``(features, logits)``; it is run in the mode in which it stands.
        inputs, target: the meta batch.
        learning_rate: η.
        answer: the training batch's inputs and the student's features and logits with their
            graph; not used where dropout would answer otherwise when it is asked again.

    Returns:
        ``(len(losses),)``; 0 for a term that does not depend on the student.
    """
    named = {name: p for name, p in student.named_parameters() if p.requires_grad}
    theta = list(named.values())
    # Batch norm updates its buffers in place: it gets copies.
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}

    def direction(gradient: Sequence[Tensor]) -> list[Tensor]:
        """∇L_meta after a step against the gradient of the weighted sum."""
        with torch.no_grad():
            after = [p - learning_rate * g for p, g in zip(theta, gradient, strict=True)]
        state = {name: p.requires_grad_() for name, p in zip(named, after, strict=True)}
        output = functional_call(
            student, state | {k: b.clone() for k, b in buffers.items()}, inputs
        )
        return _gradients(F.cross_entropy(output.logits, target), after)

    if answer is None or _drops_out(student):
        gradients = [_gradients(loss, theta, keep=True) for loss in losses]
        v = direction(_combined(weights, gradients))
        along = [_dot(gradient, v) for gradient in gradients]
    else:
        read, *outputs = answer
        parts = [_partial(loss, *outputs) for loss in losses]
        v = direction(_gradients(outputs, theta, keep=True, along=_combined(weights, parts)))
        with torch.no_grad(), forward_ad.dual_level():
            duals = [forward_ad.make_dual(p.detach(), t) for p, t in zip(theta, v, strict=True)]
            state = dict(zip(named, duals, strict=True)) | buffers
            said = functional_call(student, state, read)
            change = [forward_ad.unpack_dual(z).tangent for z in said]
        along = [_dot(part, change) for part in parts]
    return -learning_rate * torch.stack(along)


def _partial(loss: Tensor, features: Tensor, logits: Tensor) -> list[Tensor]:
    """∂L/∂features with the logits held, and ∂L/∂logits, though the logits hang on the features."""
    by_features, by_logits = _gradients(loss, (features, logits), keep=True)
    (through,) = _gradients(logits, (features,), keep=True, along=(by_logits,))
    return [by_features - through, by_logits]


def _combined(weights: Tensor, gradients: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Σ_i w_i g_i of lists of tensors, constants."""
    sums = [torch.zeros_like(tensor) for tensor in gradients[0]]
    for weight, gradient in zip(weights.detach(), gradients, strict=True):
        for total, tensor in zip(sums, gradient, strict=True):
            total.add_(tensor.detach() * weight.to(tensor.dtype))
    return sums


def _gradients(
    of: Tensor | Sequence[Tensor],
    by: Sequence[Tensor],
    keep: bool = False,
    along: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Gradients of ``of``, zeros where it does not depend on ``by``; ``keep`` leaves its graph."""
    if isinstance(of, Tensor) and not of.requires_grad:
        return [torch.zeros_like(tensor) for tensor in by]
    found = torch.autograd.grad(
        of, by, along, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return list(found)


def _dot(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(ones, others, strict=True)]).sum()


def _drops_out(student: nn.Module) -> bool:
    layers = [m for m in student.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    return any(layer.training and layer.p > 0 for layer in layers)


STRATEGIES: dict[str, type[Weighting]] = {
    "fixed": Fixed,
    "published": Published,
    "naive": Naive,
    "uncertainty": Uncertainty,
    "meta": Meta,
}
"""The strategies by the names that recipes use."""


def make_weighting(
    name: str, *, channels: int, positions: int, weights: Mapping[str, float], **options: object
) -> Weighting:
    """The strategy of this name.

    Args:
        name: one of ``STRATEGIES``.
        channels, positions: of the student's features, which the PVPN reads.
        weights: by term, for ``"fixed"``; the others learn or draw theirs.
        options: of the strategy's class; ``"meta"`` needs ``student``, ``next_batch`` and
            ``learning_rate``.

    Raises:
        ArgumentError: if the name is unknown, with the nearest, or the options do not fit.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(STRATEGIES)
        raise ArgumentError(f"Weighting {name!r} is unknown; {hint}There are {known}.")
    arguments = (weights,) if name == "fixed" else (channels, positions)
    try:
        return STRATEGIES[name](*arguments, **options)
    except TypeError as error:
        raise ArgumentError(f"The weighting {name} takes other options ({error}).") from error


def collapse(
    weights: Mapping[str, float], low: float = 0.01, sigmoid: bool = False, saturated: float = 1e-3
) -> str:
    """Name the collapse of the weights in a sentence, or return "" where there is none.

    Args:
        weights: by term; exactly 0 means dropped or switched off, not collapsed.
        low: a share of the sum below which a term is starved.
        sigmoid: the weights are sigmoids, see :class:`Weighting`: look for saturation as well.
        saturated: how near to 0 or 1 a sigmoid is saturated.
    """
    used = {name: float(w) for name, w in weights.items() if w != 0}
    total = sum(used.values())
    if not math.isfinite(total):
        return f"The weights are no longer finite: {used}."
    if sigmoid and all(min(w, 1 - w) < saturated for w in used.values()):
        return f"All weights are saturated (sum {total:.2g}), each within {saturated:g} of 0 or 1."
    shares = {name: w / total for name, w in used.items()}
    if len(shares) > 1:
        winner = max(shares, key=shares.get)
        if shares[winner] > 1 - low:
            return f"{winner} has {shares[winner]:.1%} of all weight; no other term counts."
        starved = [f"{name} ({share:.1%})" for name, share in shares.items() if share < low]
        if starved:
            return f"Terms with less than {low:.0%} of all weight: {', '.join(starved)}."
    return ""


def _in_order(losses: Mapping[str, Tensor]) -> list[Tensor]:
    if not losses or not set(losses) <= set(TERMS):
        raise ArgumentError(f"The losses are named {list(losses)}; known are {', '.join(TERMS)}.")
    zero = torch.zeros_like(next(iter(losses.values())), requires_grad=False)
    return [losses.get(name, zero) for name in TERMS]


def _active(losses: Tensor) -> Tensor:
    """1 for each loss that is not exactly zero, else 0; all 1 where all are zero."""
    active = losses != 0
    return (active | ~active.any()).to(losses.dtype)
