"""The weighting *trusted*: the recipe's weights, but for terms that are seen to do harm.

Meta gradients as in ``meta``, of the step that the optimiser really takes; they move the weights
only as far as they stand out of their own noise, and never further than a trust region allows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError
from hfld_lite.rivals.meta import Meta
from hfld_lite.rivals.strategies import active_terms
from hfld_lite.weighting import TERMS, weighting

RATE = 3.0
"""Factor on the PVPN's learning rate, so that it follows the signal; it was not tuned."""

UNKNOWN = ("nesterov", "dampening", "amsgrad", "maximize")
"""Options of the optimisers whose steps are not worked out here."""


@weighting("trusted")
class Trusted(Meta):
    """Weights near the recipe's, moved by what the meta batches show beyond their noise.

    **Signal.** At every k-th step g_i = ∂L_meta/∂w_i of the optimiser's own next step
    (:func:`optimizer_step`). Divided by the length of (g_i), so that early and late updates count
    alike, it enters running means of g_i and g_i² that forget a factor ``memory`` an update. With n
    the number of updates that these means amount to, the mean's standard deviation (of Student's t
    with n − 1 degrees of freedom) is s_i = √((mean of g_i² − mean²) / (n − 3)), and

        ĝ_i = 2 (mean of g_i / s_i − low) / (high − low) − 1, cut to [−1, 1]; −1 up to n = 3.

    A term has +1 that does harm beyond doubt, by ``high`` deviations; −1 means that it helps, or
    that nothing certain is known. So all terms that help keep their given weights to each other: a
    greater help in the next step is no reason to distrust the others.

    **Trust region.** Let π_i be the shares of the given weights (of the terms that are not zero)
    and S their sum. At Σ w = S minimise

        w·ĝ + (S/κ) KL(w/S ‖ π).

    With p = w/S and a multiplier λ for Σ p = 1, the derivative ĝ_i + (log(p_i/π_i) + 1)/κ = λ gives
    the minimum w_i ∝ π_i exp(−κ ĝ_i). As |ĝ_i| ≤ 1, no term loses more than a factor e^(2κ)
    against another. Without a signal, or as κ → 0, w is the given weights: *fixed*.

    **PVPN.** Its outputs o, averaged over the batch and cut to ±κ, set w_i ∝ π_i exp(o_i), so that
    the bound holds at every step. At every step it learns the minimum in the logarithm,
    o_i = −κ (ĝ_i − c) with c the middle of the least and the greatest ĝ, by least squares. What is
    minimised above is KL(p ‖ p at the minimum)/κ and a constant; it has the same minimum, but its
    gradient goes to 0 with p_i, so that a term whose weight was once too small stays there.

    Args:
        channels, positions, student, next_batch, learning_rate, every, terms, hidden: see
            :class:`~hfld_lite.rivals.meta.Meta`; the learning rate is for a loop that does not set
            ``optimizer``, and the step is then one of plain SGD.
        prior: the given weights by term; by default all 1.
        kappa: κ, 0 or more.
        low, high: deviations above 0 at which a harm begins to count, and is certain.
        memory: factor from 0 to 1 by which an earlier update counts less than the next.

    The last four were chosen on the bearings' validation data. With a ``memory`` of 0.9 the weights
    of a wrong teacher came back at the end, where small gradients show no harm any more.

    Raises:
        ArgumentError: if a weight is negative, none is above 0, or an argument is outside these
            values.
    """

    def __init__(
        self,
        channels: int,
        positions: int,
        student: nn.Module,
        next_batch: Callable[[], tuple[Tensor, Tensor]],
        learning_rate: float,
        every: int = 10,
        terms: Sequence[str] = TERMS,
        prior: Mapping[str, float] | None = None,
        kappa: float = 3.0,
        low: float = 0.5,
        high: float = 2.0,
        memory: float = 0.95,
        hidden: str = "adaptive",
    ) -> None:
        meta = (student, next_batch, learning_rate, every, terms, None, hidden)
        super().__init__(channels, positions, *meta)
        if not (0 <= kappa < math.inf and low < high and 0 < memory < 1):
            raise ArgumentError(
                f"kappa is {kappa}, low {low}, high {high} and memory {memory}; kappa must be 0 or "
                "more, low below high, and memory between 0 and 1."
            )
        given = torch.tensor([(prior or {}).get(name, float(prior is None)) for name in self.terms])
        if not torch.isfinite(given).all() or (given < 0).any() or not given.any():
            raise ArgumentError(
                f"The prior is {prior}; each weight must be 0 or more and one above 0."
            )
        self.kappa, self.low, self.high = kappa, low, high
        self.memory, self.rate = memory, RATE
        self.register_buffer("prior", given)
        # Sums over the updates: of g, of g², of the factors that they have, of these squared.
        self.register_buffer("sums", torch.zeros(4, len(self.terms)))

    @classmethod
    def of(cls, recipe: Any, shape: Any, student: nn.Module, next_batch: Any) -> "Trusted":
        """A PVPN for these features and terms, its meta batches, and the recipe's weights."""
        rate, every, prior = recipe.learning_rate, recipe.meta_every, recipe.weights
        read = (shape.channels, shape.positions)
        return cls(*read, student, next_batch, rate, every, tuple(prior), prior)

    def forward(
        self,
        losses: Mapping[str, Tensor],
        features: Tensor,
        logits: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum, which trains the student; its gradient trains the PVPN as well."""
        terms = self._losses(losses)
        active = active_terms(torch.stack(terms).detach())
        prior, outputs = self.prior * active, self.by_term(self.pvpn(features.detach()).mean(0))
        weights = prior * torch.exp(outputs.detach().clamp(-self.kappa, self.kappa))
        weights = weights * (prior.sum() / weights.sum())
        total = self._weighted(terms, weights)
        if not self.training:
            return total
        self.step += 1
        if self.step % self.every == 0:
            known = self.optimizer is not None
            step = partial(optimizer_step, self.optimizer) if known else self.learning_rate
            self._keep(self.gradient(terms, weights, features, logits, inputs, step), prior > 0)
        error = ((outputs - self.aim(prior > 0).to(outputs.dtype)) ** 2 * (prior > 0)).sum() / 2
        return total + (error - error.detach())

    def signal(self) -> Tensor:
        """ĝ by term, each in [−1, 1]."""
        first, second, factors, squares = self.sums
        some = factors.clamp_min(1e-30)
        mean, n = first / some, factors**2 / squares.clamp_min(1e-30)
        variance = (second / some - mean**2).clamp_min(0) / (n - 3).clamp_min(1e-30)
        harm = (mean / variance.sqrt().clamp_min(1e-30) - self.low) / (self.high - self.low)
        return torch.where(n > 3, (2 * harm - 1).clamp(-1, 1), -1.0)

    def aim(self, active: Tensor) -> Tensor:
        """The outputs at the minimum, each in [−κ, κ]; ``active`` terms have a weight."""
        signal = self.signal()
        seen = signal[active] if active.any() else signal
        return -self.kappa * (signal - (seen.min() + seen.max()) / 2)

    def _keep(self, gradient: Tensor, active: Tensor) -> None:
        """Take an update's g into the sums of the terms that are not zero."""
        gradient = gradient * active
        length = gradient.norm()
        if not torch.isfinite(length) or length == 0:
            return  # no meta gradient; a loss that is not finite is for the loop to report
        g = (gradient / length).to(self.sums.dtype)
        one = torch.ones_like(g)
        kept = self.memory * self.sums
        kept[3] = self.memory**2 * self.sums[3]
        self.sums = torch.where(active, kept + torch.stack([g, g**2, one, one]), self.sums)


def optimizer_step(
    optimizer: torch.optim.Optimizer, theta: Sequence[Tensor], gradient: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """What the optimiser's next step makes of θ, and the diagonal of its derivative by g.

    AdamW's, with m and v its means of g and g² after the step t, m̂ = m/(1 − β₁ᵗ) and
    v̂ = v/(1 − β₂ᵗ)::

        θ′ = (1 − ηλ) θ − η m̂ / (√v̂ + ε)
        ∂θ′/∂g = −η/(1 − β₁ᵗ) [(1 − β₁)/(√v̂ + ε) − m (1 − β₂) g / ((1 − β₂ᵗ) √v̂ (√v̂ + ε)²)]

    The second term is v's share in the derivative, so nothing is left out. SGD's with momentum b
    and weight decay λ: θ′ = θ − η (b·buffer + g + λθ) and ∂θ′/∂g = −η. The state stays as it is.

    Raises:
        ArgumentError: if it is neither torch's AdamW nor SGD, or one with other options than these.
    """
    kind, groups = type(optimizer), {id(p): g for g in optimizer.param_groups for p in g["params"]}
    one = {torch.optim.AdamW: _adamw_step, torch.optim.SGD: _sgd_step}.get(kind)
    odd = [k for g in optimizer.param_groups for k in UNKNOWN if g.get(k)]
    if one is None or odd:
        raise ArgumentError(
            f"The optimiser is {kind.__name__} {' '.join(odd)}; the weighting trusted knows the "
            "steps of torch's AdamW and SGD without nesterov, dampening, amsgrad or maximize."
        )
    moved = [
        one(groups[id(p)], optimizer.state.get(p, {}), p, g)
        for p, g in zip(theta, gradient, strict=True)
    ]
    return [after for after, _ in moved], [slope for _, slope in moved]


def _adamw_step(group: dict, state: dict, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    (b1, b2), rate, t = group["betas"], group["lr"], float(state.get("step", 0)) + 1
    m = b1 * state.get("exp_avg", torch.zeros_like(p)) + (1 - b1) * g
    v = (b2 * state.get("exp_avg_sq", torch.zeros_like(p)) + (1 - b2) * g**2) / (1 - b2**t)
    root, rate1 = v.sqrt(), rate / (1 - b1**t)
    below = root + group["eps"]
    bend = g / root.clamp_min(1e-30) * (1 - b2) / (1 - b2**t) * m / below / below  # 0 where g is 0
    after = p * (1 - rate * group["weight_decay"]) - rate1 * m / below
    return after, -rate1 * ((1 - b1) / below - bend)


def _sgd_step(group: dict, state: dict, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    buffer, rate = state.get("momentum_buffer"), group["lr"]
    along = g + group["weight_decay"] * p
    if buffer is not None and group["momentum"]:
        along = along + group["momentum"] * buffer
    return p - rate * along, torch.full_like(p, -rate)
