"""The weighting *meta*: weights under which the student's next step helps on other batches.

Source: Ren et al., "Learning to reweight examples for robust deep learning", 2018, and Jang et al.,
"Learning what and where to transfer", 2019; here a weight for each term of the loss.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from hfld_lite.errors import ArgumentError
from hfld_lite.rivals.strategies import active_terms
from hfld_lite.storage.ranks import averaged
from hfld_lite.weighting import TERMS, Predicted, weighting

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], Sequence[Any]]]
"""Of θ and the gradient g: θ′ after an optimiser's step, and the diagonal of ∂θ′/∂g."""


@weighting("meta")
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
        channels, positions, terms, total, hidden: see :class:`Predicted`.
        student: returns ``(features, logits)``; read, not owned, so it is no submodule here.
        next_batch: gives the next meta batch (inputs, target) on the student's device. Cut it
            from the training part, not from the validation part that chooses epochs.
        learning_rate: η of the student's step.
        every: k. The PVPN moves at one step in k only; a learning rate k times the student's makes
            up for it, without which a short training ends at nearly equal weights.

    Raises:
        ArgumentError: if k is below 1.
    """

    meta_batches = True

    def __init__(
        self,
        channels: int,
        positions: int,
        student: nn.Module,
        next_batch: Callable[[], tuple[Tensor, Tensor]],
        learning_rate: float,
        every: int = 10,
        terms: Sequence[str] = TERMS,
        total: float | None = None,
        hidden: str = "adaptive",
    ) -> None:
        super().__init__(channels, positions, terms, total, hidden)
        if every < 1:
            raise ArgumentError(f"every is {every}; the PVPN can be updated every step at most.")
        self._student = (student,)  # in a tuple, or its parameters would be owned twice
        self.next_batch, self.learning_rate = next_batch, learning_rate
        self.every, self.step, self.rate = every, 0, float(every)

    @classmethod
    def of(cls, recipe: Any, shape: Any, student: nn.Module, next_batch: Any) -> "Meta":
        """A PVPN for these features and terms, and its meta batches."""
        rate, every, terms = recipe.learning_rate, recipe.meta_every, tuple(recipe.weights)
        return cls(shape.channels, shape.positions, student, next_batch, rate, every, terms)

    def forward(
        self,
        losses: Mapping[str, Tensor],
        features: Tensor,
        logits: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum, which trains the student; at a k-th step it trains the PVPN too.

        With the logits and inputs that the losses come from, the gradient costs half as much.
        """
        terms = self._losses(losses)
        active = active_terms(torch.stack(terms).detach())
        outputs = self.pvpn(features.detach()).mean(0)
        shares = torch.exp(outputs - outputs.max().detach())  # softmax, but for the sum
        weights = self._scaled(self.by_term(shares), active)
        total = self._weighted(terms, weights.detach())
        self.step += self.training
        if not self.training or self.step % self.every:
            return total
        gradient = self.gradient(terms, weights, features, logits, inputs, self.learning_rate)
        # By its largest magnitude, so that the PVPN's own learning rate means the same whatever η
        # and the scale of the losses.
        gradient = gradient / gradient.abs().max().clamp_min(1e-30)
        aim = weights @ gradient.to(weights.dtype)
        return total + (aim - aim.detach())

    def gradient(
        self,
        losses: Sequence[Tensor],
        weights: Tensor,
        features: Tensor,
        logits: Tensor | None,
        inputs: Tensor | None,
        step: float | Step,
    ) -> Tensor:
        """∂L_meta/∂w on the next meta batch; see :func:`meta_gradient`."""
        answer = None if logits is None or inputs is None else (inputs, features, logits)
        student, batch = self._student[0], self.next_batch()
        return meta_gradient(losses, weights, student, *batch, step, answer)

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
    step: float | Step,
    answer: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """How the cross-entropy on a meta batch after one step changes with each term's weight.

    With θ the student's parameters and θ′ = θ − η Σ w_i ∇L_i(θ) after a step of plain SGD::

        ∂L_meta/∂w_i = −η ∇L_meta(θ′) · ∇L_i(θ)

    Exact for plain SGD; momentum, weight decay and Adam's scaling are left out. With another
    optimiser's step θ′(θ, g), g = Σ w_i ∇L_i(θ), whose ∂θ′/∂g is diagonal, it is exact as well::

        ∂L_meta/∂w_i = ∇L_meta(θ′) · (∂θ′/∂g ∇L_i(θ))

    The student's parameters and buffers stay as they are, and the graph of the losses is kept.

    A backward pass for each term gives the right factors. With ``answer`` there is a cheaper way
    to the same numbers: the terms depend on θ through the student's features and logits z alone,
    so ∇L_i(θ) · v = ∂L_i/∂z · J v, and one forward-mode pass gives J v, the change of z along v.

    Args:
        losses: L_i, scalars with the graph of the training batch.
        weights: w_i, ``(len(losses),)``; constants here.
        student: returns ``(features, logits)``; it is run in the mode in which it stands.
        inputs, target: the meta batch.
        step: η of plain SGD, or the step of another optimiser.
        answer: the training batch's inputs and the student's features and logits with their
            graph; not used where dropout would answer otherwise when it is asked again.

    Returns:
        ``(len(losses),)``; 0 for a term that does not depend on the student.
    """
    named = {name: p for name, p in student.named_parameters() if p.requires_grad}
    theta = list(named.values())
    scale, move = (1.0, step) if callable(step) else (-step, partial(_plain_step, step))
    # Batch norm updates its buffers in place: it gets copies.
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}

    def direction(gradient: Sequence[Tensor]) -> list[Tensor]:
        """∇L_meta after a step against the gradient of the weighted sum, by what moves it."""
        with torch.no_grad():
            after, slopes = move(theta, gradient)
        state = {name: p.requires_grad_() for name, p in zip(named, after, strict=True)}
        output = functional_call(
            student, state | {k: b.clone() for k, b in buffers.items()}, inputs
        )
        found = averaged(_gradients(F.cross_entropy(output.logits, target), after))
        return [g * slope for g, slope in zip(found, slopes, strict=True)]

    if answer is None or _drops_out(student):
        gradients = [averaged(_gradients(loss, theta, keep=True)) for loss in losses]
        v = direction(_combined(weights, gradients))
        along = [_dot(gradient, v) for gradient in gradients]
    else:
        read, *outputs = answer
        parts = [_partial(loss, *outputs) for loss in losses]
        along = _combined(weights, parts)
        v = direction(averaged(_gradients(outputs, theta, keep=True, along=along)))
        with torch.no_grad(), forward_ad.dual_level():
            duals = [forward_ad.make_dual(p.detach(), t) for p, t in zip(theta, v, strict=True)]
            state = dict(zip(named, duals, strict=True)) | buffers
            said = functional_call(student, state, read)
            change = [forward_ad.unpack_dual(z).tangent for z in said]
        along = [_dot(part, change) for part in parts]
    return scale * torch.stack(along)


def _plain_step(
    rate: float, theta: Sequence[Tensor], gradient: Sequence[Tensor]
) -> tuple[list[Tensor], list[float]]:
    """A step of plain SGD; its factor −η is left to the caller."""
    after = [p - rate * g for p, g in zip(theta, gradient, strict=True)]
    return after, [1.0] * len(after)


def _partial(loss: Tensor, features: Tensor, logits: Tensor) -> list[Tensor]:
    """∂L/∂features with the logits held fixed, and ∂L/∂logits; logits depend on the features."""
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
