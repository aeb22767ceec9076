"""Checks for notebook 05: a price for small weights, a fixed sum, the meta gradient, a script."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, tensor


@check
def check_price(price: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``price(s, losses)``: a scalar that is least where w = exp(−s) is 1/L."""
    losses = torch.tensor([2.0, 0.5, 0.25, 1.0])

    def slope(at: Tensor) -> Tensor:
        s = at.clone().requires_grad_()
        value = tensor(ask(price, s, losses), (), "What price returns")
        expect(
            value.requires_grad,
            "The price does not change with s: write w as torch.exp(-s) in it, and keep torch's "
            "functions.",
        )
        return torch.autograd.grad(value, s)[0]

    half = torch.full((4,), 0.5)
    paid = slope(half) + torch.exp(-half) * losses  # what the price adds to the slope of Σ w L
    expect(
        not close(paid + 1, torch.ones(4)),
        "Small weights cost nothing here: Σ w L alone is smallest at w = 0, which is the collapse.",
    )
    expect(
        not close(paid, -torch.ones(4)),
        "log w is added, so that small weights are rewarded twice; subtract it.",
    )
    settled = losses.log()
    expect(
        bool(slope(settled).abs().max() < 1e-4),
        "The lowest point is not at w = 1/L: with w = exp(−s), differentiate w·L − log w.",
    )
    expect(
        bool((slope(settled + 0.1) > 0).all() and (slope(settled - 0.1) < 0).all()),
        "w = 1/L is the highest point of this price and not the lowest: turn its sign.",
    )
    return "Each weight settles at 1/L: a term that is twice as large gets half the weight."


@check
def check_fixed_sum(fixed_sum: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``fixed_sum(weights, losses)``: the sum is the number of terms that are not exactly zero."""
    weights, losses = torch.tensor([1.0, 2.0, 3.0, 2.0]), torch.tensor([0.5, 1.2, 0.0, 0.8])
    found = tensor(ask(fixed_sum, weights.clone(), losses.clone()), (4,), "What fixed_sum returns")
    counted = weights * (losses != 0)
    kept = (
        "A term that is exactly zero still takes a part of the sum: multiply the weights by "
        "losses != 0 before you add them up."
    )
    compare(
        found,
        counted * 3 / 5,
        {
            kept: weights * 3 / 8,
            kept + " ": weights * 4 / 8,
            "The zero term is left out, but its weight was still in the sum that you divided by: "
            "mask first, add up then.": counted * 3 / 8,
            "The sum is 1: multiply by the number of terms that count, here 3.": counted / 5,
            "The sum is 4, but only three terms are left: then dropping NCKD makes every step a "
            "third longer.": counted * 4 / 5,
            "Nothing was scaled: the weights only lost the zero term.": counted,
            "softmax changes the ratio of the weights; they are only to be scaled.": (
                3 * torch.softmax(weights.masked_fill(losses == 0, -torch.inf), 0)
            ),
        },
        "The weights must keep their ratios, and add up to the number of terms that count.",
    )
    again = tensor(ask(fixed_sum, weights.clone(), losses + 0.1), (4,), "What fixed_sum returns")
    expect(
        close(again, weights / 2),
        "Right where one term is zero, and wrong where all four count: their sum must be 4 then.",
    )
    return "The sum stays at one a term, so that only the balance is learned, not the step size."


@check
def check_meta_slope(meta_slope: Callable[..., Tensor]) -> str:
    """∂L_meta/∂wᵢ = −η ∇L_meta(θ′) · ∇Lᵢ(θ), with θ′ = θ − η Σ wᵢ ∇Lᵢ(θ)."""
    theta, weights, rate = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0]), 0.25
    gradients = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]])
    curve = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]])

    def of_meta(at: Tensor) -> Tensor:
        return curve @ at - torch.tensor([0.3, 0.1, -0.2])

    def along(at: Tensor) -> Tensor:
        return gradients @ of_meta(at)

    step = weights @ gradients
    right = -rate * along(theta - rate * step)
    found = ask(meta_slope, theta.clone(), weights.clone(), gradients.clone(), of_meta, rate)
    compare(
        tensor(found, (2,), "What meta_slope returns"),
        right,
        {
            "The sign is turned: the step goes against ∇L_i, so more weight for a term that agrees "
            "with the meta gradient lowers L_meta.": -right,
            "∇L_meta is taken at θ, before the step; take it at θ′ = θ − η Σ w ∇L.": (
                -rate * along(theta)
            ),
            "η is missing in front: a weight moves θ′ by −η ∇L_i.": right / rate,
            "η is missing in θ′: the step is η Σ w ∇L.": -rate * along(theta - step),
            "The step goes uphill; θ′ = θ − η Σ w ∇L.": -rate * along(theta + rate * step),
            "The step leaves the weights out; θ′ = θ − η Σ w ∇L.": (
                -rate * along(theta - rate * gradients.sum(0))
            ),
            "The weight stands in front, too: L_meta is differentiated by w_i, so it drops out "
            "there.": weights * right,
        },
        "Compare each factor with −η ∇L_meta(θ′) · ∇L_i(θ).",
    )
    return "A term whose gradient agrees with the meta gradient gains weight."


_COLLAPSES = (
    (
        [1.0, 1.0, 1.0, 1.0],
        "sound",
        "Equal weights of 1 are sound: it is the *share* of a term that must not pass 0.99, not "
        "its weight.",
    ),
    (
        [0.004, 0.004, 0.003, 0.004],
        "vanished",
        "0.004, 0.004, 0.003 and 0.004 are well balanced and have all but vanished: look at the "
        "sum as well.",
    ),
    (
        [3.97, 0.012, 0.008, 0.01],
        "one-sided",
        "One term has more than 99 % of all weight in 3.97, 0.012, 0.008, 0.01, whose sum is still "
        "4: look at the shares as well.",
    ),
    (
        [0.45, 0.4, 0.35, 0.6],
        "sound",
        "0.45, 0.4, 0.35 and 0.6 are sound: a sum below 4 is no collapse yet, one below 0.04 is.",
    ),
    (
        [0.25, 0.1, 0.1, 0.1],
        "sound",
        "0.25, 0.1, 0.1 and 0.1 are sound: compare the sum with 0.04, and shares, not weights, "
        "with 0.99.",
    ),
    (
        [2.5, 0.0, 0.5, 1.0],
        "sound",
        "A weight of exactly 0 belongs to a term that was left out (NCKD with two classes); that "
        "is no collapse.",
    ),
    (
        [1.8, 1.2, 0.5, 0.5],
        "sound",
        "1.8, 1.2, 0.5 and 0.5 are sound: it is the *share* of a term that must not pass 0.99, not "
        "its weight.",
    ),
)


@check
def check_verdict(verdict: Callable[[Tensor], str]) -> str:
    """``verdict(weights)``: "vanished", "one-sided" or "sound"."""
    for weights, right, sentence in _COLLAPSES:
        found = ask(verdict, torch.tensor(weights))
        expect(
            found in ("sound", "vanished", "one-sided"),
            f"Return 'sound', 'vanished' or 'one-sided'; found {found!r}.",
        )
        expect(found == right, sentence)
    return "A monitor of sum and shares names both collapses."


def two_losses(features: Tensor, target: Tensor) -> Tensor:
    """Two losses ``(2,)`` of a toy student, for the training script of exercise 5."""
    gap = features - target
    return torch.stack([(gap[:, :2] ** 2).mean(), gap[:, 2:].abs().mean()])


def _toy() -> tuple[nn.Module, nn.Module, list[tuple[Tensor, Tensor]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batches = [(torch.randn(6, 3), torch.randn(6, 4)) for _ in range(4)]
        return nn.Linear(3, 4), nn.Linear(4, 2), batches


def _mended() -> list[Tensor]:
    """The parameters of student and PVPN that the script leaves when its faults are mended."""
    student, pvpn, batches = _toy()
    both = [*student.parameters(), *pvpn.parameters()]
    optimizer = torch.optim.SGD(both, lr=0.1)
    for inputs, target in batches:
        features = student(inputs)
        losses = two_losses(features, target)
        weights = torch.exp(-pvpn(features.detach()).mean(0))
        price = (weights * losses.detach() - torch.log(weights)).sum()
        optimizer.zero_grad()
        ((weights.detach() * losses).sum() + price).backward()
        optimizer.step()
    return both


@check
def check_balanced_training(balanced_training: Callable[..., list[float]]) -> str:
    """``balanced_training(student, pvpn, batches)`` without its two faults."""
    student, pvpn, batches = _toy()
    both = [*student.parameters(), *pvpn.parameters()]
    before, attached = [p.detach().clone() for p in both], []
    pvpn.register_forward_pre_hook(lambda _, read: attached.append(read[0].requires_grad))
    ask(balanced_training, student, pvpn, batches)
    moved = [not torch.equal(p, old) for p, old in zip(both, before, strict=True)]
    expect(attached, "The PVPN is never called.")
    expect(
        any(moved[:2]),
        "The student no longer learns: detach the features for the PVPN only, not for the losses.",
    )
    expect(
        any(moved[2:]),
        "The PVPN is where it was before training: no optimiser holds its parameters, so that it "
        "stays random.",
    )
    expect(
        not any(attached),
        "The PVPN still reads features with their gradient, so that the student can lower its "
        "loss by lowering its own weights; detach what the PVPN reads.",
    )
    expect(
        all(close(p, right, 1e-3) for p, right in zip(both, _mended(), strict=True)),
        "Both faults are gone, but something else was changed as well: leave the other lines.",
    )
    return "The PVPN is trained, and the student cannot lower its own weights."
