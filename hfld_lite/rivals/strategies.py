"""Strategies that the fixed weights are compared with: *naive* and *uncertainty*."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hfld_lite.weighting import Predicted, weighting

LIMIT = 6.0
"""Bound on |s| in uncertainty weighting; weights lie between exp(−6) and exp(6) before scaling."""


def active_terms(losses: Tensor) -> Tensor:
    """1 for each loss that is not exactly zero, else 0; all 1 where all are zero."""
    active = losses != 0
    return (active | ~active.any()).to(losses.dtype)


@weighting("uncertainty")
class Uncertainty(Predicted):
    """Weights w_i = exp(−s_i) that settle at 1/L_i, then scaled to a fixed sum.

    s are the PVPN's outputs, averaged over the batch and softly clamped to ±6 (6·tanh(s/6): from
    beyond a hard clamp no gradient leads back). A loss below exp(−6) = 0.0025 therefore settles at
    a weight near exp(6) = 403 and not at 1/L, and a loss above 403 near exp(−6). With the losses
    constant, the PVPN minimises Σ (w_i L_i − log w_i); with the weights constant, the student
    minimises Σ w̃_i L_i, where w̃ = w · total / Σ w. Zero terms are left out of all three sums.
    After Kendall et al., "Multi-task learning using uncertainty to weigh losses", 2018.
    """

    def unscaled(self, features: Tensor) -> Tensor:
        """The weights w before they are scaled, ``(terms,)``."""
        s = self.pvpn(features.detach()).mean(0)
        return self.by_term(torch.exp(-LIMIT * torch.tanh(s / LIMIT)))

    def forward(self, losses: Mapping[str, Tensor], features: Tensor, *_read: Tensor) -> Tensor:
        """The weighted sum, which trains the student; its gradient trains the PVPN as well."""
        terms = self._losses(losses)
        weights, constant = self.unscaled(features), torch.stack(terms).detach()
        active = active_terms(constant)
        aim = (active * (weights * constant - weights.log())).sum()
        total = self._weighted(terms, self._scaled(weights, active).detach())
        return total + (aim - aim.detach())


@weighting("naive")
class Naive(Predicted):
    """The tempting mistake: the PVPN minimises Σ w_i L_i itself, w the batch mean of sigmoids.

    Every L_i is positive, so that all w_i fall from 1/2 to 0, where :func:`collapse` names it.
    """

    sigmoid = True
    detach_input = True

    def forward(self, losses: Mapping[str, Tensor], features: Tensor, *_read: Tensor) -> Tensor:
        """The weighted sum, which trains the student and a PVPN that is not frozen."""
        outputs = self.pvpn(features.detach() if self.detach_input else features)
        return self._weighted(self._losses(losses), self.by_term(outputs.sigmoid().mean(0)))
