"""How the four terms of the loss are balanced: L = α·L_feature + μ·TCKD + ν·NCKD + β·CE."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError

TERMS = ("feature", "tckd", "nckd", "cross_entropy")
"""The terms of the loss by name; their weights are α, μ, ν, β."""


class Fixed(nn.Module):
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

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the named terms, a scalar."""
        return torch.stack([losses[name] for name in self.terms]) @ self.values
