"""How the terms of the loss are balanced: L = α·L_feature + μ·TCKD + ν·NCKD + β·CE.

The weights are given, or a small network (PVPN) predicts them from the student's features; the
ways to train it are in ``rivals``. Source: the paper that the package teaches (HFLKD) and its code.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError, look_up, registering

TERMS = ("feature", "tckd", "nckd", "cross_entropy")
"""The terms of HFLKD's loss by name; their weights are α, μ, ν, β."""

OUTPUTS = ("tckd", "nckd", "feature", "cross_entropy")
"""What the outputs of the paper's PVPN weigh, in their order: μ, ν, α, β."""


class Weighting(nn.Module):
    """Base of all strategies: ``weighting(losses, features)`` is the scalar to minimise.

    ``losses`` are scalars by name; ``features`` are the student's, unprojected; a strategy may ask
    for the student's ``logits`` and ``inputs`` as well. The scalar's value is Σ w_i L_i. Its
    gradient trains the student and, where the strategy says so, the strategy's own parameters.

    Attributes:
        weights: the last w by term, detached scalars, averaged over the batch; empty before.
        sigmoid: the weights are sigmoids in (0, 1) and their sum is free, for ``errors.collapse``.
        meta_batches: the strategy needs batches that are kept from training.
        rate: factor on the learning rate of the strategy's own parameters.
        optimizer: what moves the student, where the training loop has said so.
    """

    sigmoid = meta_batches = False
    rate, optimizer = 1.0, None

    def __init__(self, terms: Sequence[str] = TERMS) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.weights: dict[str, Tensor] = {}

    @classmethod
    def of(cls, recipe: Any, shape: Any, student: nn.Module, next_batch: Any) -> "Weighting":
        """The strategy, made of what it needs of :func:`make_weighting`'s arguments."""
        raise ArgumentError(f"{cls.__name__} lacks the classmethod of; see hfld_lite.weighting.")

    def forward(
        self,
        losses: Mapping[str, Tensor],
        features: Tensor,
        logits: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """The scalar to minimise."""
        raise NotImplementedError


WEIGHTINGS: dict[str, type[Weighting]] = {}
"""The strategies by the names that recipes use."""

weighting = registering(WEIGHTINGS, "weighting", Weighting)
"""Decorator that registers a strategy: ``@weighting("name")``."""


def make_weighting(recipe: Any, shape: Any, student: nn.Module, next_batch: Any) -> Weighting:
    """The strategy of a recipe, for a student whose features have a shape (channels, positions).

    ``next_batch`` gives the next meta batch (inputs, target). An unknown name is an ArgumentError.
    """
    kind = look_up(WEIGHTINGS, recipe.weighting, "Weighting")
    return kind.of(recipe, shape, student, next_batch)


@weighting("fixed")
class Fixed(Weighting):
    """Given weights by term, the same at every step: L = Σ_i w_i L_i.

    A weight that is negative or not finite is an ArgumentError, as are weights that are all 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(tuple(weights))
        values = torch.tensor(list(weights.values()), dtype=torch.float32)
        if not torch.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ArgumentError(
                f"The weights are {dict(weights)}; each must be 0 or more and one above 0."
            )
        self.register_buffer("values", values)

    @classmethod
    def of(cls, recipe: Any, *_given: Any) -> "Fixed":
        """The recipe's weights."""
        return cls(recipe.weights)

    def forward(self, losses: Mapping[str, Tensor], *_read: Tensor | None) -> Tensor:
        """The weighted sum of the named terms, a scalar; the student's output is not used."""
        self.weights = dict(zip(self.terms, self.values, strict=True))
        return torch.stack([losses[name] for name in self.terms]) @ self.values


class PVPN(nn.Module):
    """Parameter value prediction network: 1x1 convolutions, ReLU, flatten, linear layers.

    C→256→32→4 channels, then 4·N→512→128→outputs: 224,808 parameters at C = 512, N = 9 and four
    outputs.

    Args:
        channels, positions: C and N of the features; a map's N is height times width.
        outputs: one for each term that is weighed.
        hidden: ``"published"`` for the sizes above, or ``"adaptive"``: these times C/512, at least
            4 and never above the published, so that the PVPN stays smaller than the student that
            it serves: 2,100 parameters at C = 32, N = 9.

    Raises:
        ArgumentError: if an argument is outside these values.
    """

    layout = (512, (256, 32, 4), (512, 128))
    """Channels read, channels of the 1x1 convolutions, sizes of the hidden linear layers."""

    def __init__(
        self, channels: int, positions: int, outputs: int = 4, hidden: str = "adaptive"
    ) -> None:
        super().__init__()
        if min(channels, positions, outputs) < 1:
            raise ArgumentError(
                "A PVPN needs a channel, a position and an output at least; found "
                f"{channels}, {positions} and {outputs}."
            )
        if hidden not in ("published", "adaptive"):
            raise ArgumentError(f"hidden is {hidden!r}; choose published or adaptive.")
        read, *sizes = self.layout
        scale = min(1.0, channels / read) if hidden == "adaptive" else 1.0
        maps, units = ([max(4, round(size * scale)) for size in part] for part in sizes)
        self.layers = nn.Sequential()
        for before, after in pairwise([channels, *maps]):
            self.layers.extend([nn.Conv1d(before, after, 1), nn.ReLU()])
        self.layers.append(nn.Flatten())
        for before, after in pairwise([maps[-1] * positions, *units]):
            self.layers.extend([nn.Linear(before, after), nn.ReLU()])
        self.layers.append(nn.Linear(units[-1], outputs))
        self.channels, self.positions = channels, positions

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, C, N)`` or ``(batch, C, H, W)`` to ``(batch, outputs)``, unbounded."""
        features = features.flatten(2)
        if features.shape[1:] != (self.channels, self.positions):
            raise ArgumentError(
                f"The PVPN reads {self.channels} channels at {self.positions} positions; found "
                f"features of shape {tuple(features.shape)} (batch, channels, positions)."
            )
        with torch.autocast(features.device.type, enabled=False):  # weights in full precision
            return self.layers(features.to(self.layers[0].weight.dtype))


class Predicted(Weighting):
    """Base of the strategies whose weights a PVPN predicts, at first equal ones.

    Args:
        channels, positions: C and N of the student's features.
        terms: names of the terms that are weighed.
        total: Σ w where it is fixed; by default the number of terms that are not exactly zero at
            that step (NCKD of two classes is), so that equal weights are 1. Zero terms get 0.
        hidden: see :class:`PVPN`.

    Raises:
        ArgumentError: if a total is given to sigmoids, whose sum is free, or is not above 0.
    """

    network: type[PVPN] = PVPN

    def __init__(
        self,
        channels: int,
        positions: int,
        terms: Sequence[str] = TERMS,
        total: float | None = None,
        hidden: str = "adaptive",
    ) -> None:
        super().__init__(terms)
        if total is not None and (self.sigmoid or total <= 0):
            raise ArgumentError(
                f"total is {total}; it must be above 0, and sigmoids have no fixed sum."
            )
        first = [name for name in OUTPUTS if name in self.terms]
        self.order = (*first, *(name for name in self.terms if name not in first))
        self.total, self.pvpn = total, self.network(channels, positions, len(self.order), hidden)
        nn.init.zeros_(self.pvpn.layers[-1].weight)
        nn.init.zeros_(self.pvpn.layers[-1].bias)

    @classmethod
    def of(cls, recipe: Any, shape: Any, *_given: Any) -> "Predicted":
        """A PVPN for these features and terms."""
        return cls(shape.channels, shape.positions, terms=tuple(recipe.weights))

    def by_term(self, values: Tensor) -> Tensor:
        """Put the PVPN's outputs ``(outputs,)`` into the order of ``terms``."""
        return values[[self.order.index(name) for name in self.terms]]

    def _losses(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """The losses in the order of the terms; a term that is missing counts as zero."""
        if not losses or not set(losses) <= set(self.terms):
            raise ArgumentError(
                f"The losses are named {', '.join(losses)}; this weighting knows "
                f"{', '.join(self.terms)}."
            )
        zero = torch.zeros_like(next(iter(losses.values())), requires_grad=False)
        return [losses.get(name, zero) for name in self.terms]

    def _weighted(self, losses: list[Tensor], weights: Tensor) -> Tensor:
        self.weights = dict(zip(self.terms, weights.detach(), strict=True))
        return (weights * torch.stack(losses)).sum()

    def _scaled(self, weights: Tensor, active: Tensor) -> Tensor:
        weights = weights * active
        return weights * ((active.sum() if self.total is None else self.total) / weights.sum())
