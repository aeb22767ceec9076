"""Wrong answers to the exercises of notebook 05, and what each must bring."""

import torch

from hfld_lite.course.exercises.e05_parameter_value_prediction import two_losses


def script(held=False, detached=False, everything=False, extra=None):
    """The training script, with and without its faults, and with new ones."""

    def train(student, pvpn, batches):
        parameters = [*student.parameters(), *(pvpn.parameters() if held else ())]
        optimizer, totals = torch.optim.SGD(parameters, lr=0.1), []
        for inputs, target in batches:
            features = student(inputs)
            read = features.detach() if detached or everything else features
            losses = two_losses(read if everything else features, target)
            weights = torch.exp(-pvpn(read).mean(0))
            price = (weights * losses.detach() - torch.log(weights)).sum()
            total = (weights.detach() * losses).sum() + price
            if extra == "twice":
                total = total / len(inputs)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        return None if extra == "nothing" else totals

    return train


def only_student(student, pvpn, batches):
    """Never asks the PVPN."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for inputs, target in batches:
        optimizer.zero_grad()
        two_losses(student(inputs), target).sum().backward()
        optimizer.step()
    return []


def masked(weights, losses):
    return weights * (losses != 0)


def meta(sign=-1, front=True, at=True, inside=True, weighted=True, uphill=False, twice=False):
    def gradient(theta, weights, gradients, gradient_meta, rate):
        step = (weights if weighted else torch.ones_like(weights)) @ gradients
        step = step * (rate if inside else 1) * (-1 if uphill else 1)
        found = sign * (gradients @ gradient_meta(theta - step if at else theta))
        return found * (rate if front else 1) * (weights if twice else 1)

    return gradient


def verdict(total=0.04, largest=0.99, shares=True, starved=None):
    def say(weights):
        if total and weights.sum() < total:
            return "vanished"
        if largest and (weights / weights.sum() if shares else weights).max() > largest:
            return "one-sided"
        if starved is not None and (weights / weights.sum()).min() < starved:
            return "one-sided"
        return "sound"

    return say


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "price": [
        (lambda s, losses: (torch.exp(-s) * losses).sum(), "Small weights cost nothing"),
        (lambda s, losses: (torch.exp(-s) * losses - s).sum(), "log w is added"),
        (lambda s, losses: -(torch.exp(-s) * losses + s).sum(), "highest point"),
        (lambda s, losses: (torch.exp(-s) * losses + s**2).sum(), "not at w = 1/L"),
        (lambda s, losses: (torch.exp(s) * losses - s).sum(), "not at w = 1/L"),
        (lambda s, losses: (losses - losses.log()).sum(), "does not change with s"),
        (lambda s, losses: torch.exp(-s) * losses + s, "shape"),
    ],
    "fixed_sum": [
        (lambda w, losses: w * 4 / w.sum(), "exactly zero still takes a part"),
        (lambda w, losses: w * (losses != 0).sum() / w.sum(), "exactly zero still takes a part"),
        (lambda w, losses: masked(w, losses) / masked(w, losses).sum(), "The sum is 1"),
        (lambda w, losses: masked(w, losses) * 4 / masked(w, losses).sum(), "The sum is 4"),
        (lambda w, losses: masked(w, losses) * 3 / w.sum(), "mask first"),
        (masked, "Nothing was scaled"),
        (
            lambda w, losses: 3 * torch.softmax(w.masked_fill(losses == 0, -torch.inf), 0),
            "softmax changes the ratio",
        ),
        (lambda w, losses: masked(w, losses) * 3 / masked(w, losses).sum(), "all four count"),
    ],
    "meta_slope": [
        (meta(sign=1), "The sign is turned"),
        (meta(at=False), "before the step"),
        (meta(front=False), "missing in front"),
        (meta(inside=False), "missing in θ′"),
        (meta(uphill=True), "goes uphill"),
        (meta(weighted=False), "leaves the weights out"),
        (meta(twice=True), "The weight stands in front"),
        (lambda theta, w, g, of_meta, rate: -rate * of_meta(theta), "has shape"),
    ],
    "verdict": [
        (verdict(largest=None), "look at the shares as well"),
        (verdict(total=None), "all but vanished"),
        (verdict(total=4), "a sum below 4 is no collapse yet"),
        (verdict(shares=False), "share"),
        (verdict(starved=0.001), "left out"),
        (lambda weights: bool(weights.sum() < 0.04), "Return 'sound'"),
    ],
    "balanced_training": [
        (script(), "no optimiser holds"),
        (script(held=True), "with their gradient"),
        (script(detached=True), "no optimiser holds"),
        (script(held=True, everything=True), "no longer learns"),
        (script(held=True, detached=True, extra="twice"), "something else"),
        (script(held=True, detached=True, extra="nothing"), "not answered yet"),
        (only_student, "never called"),
    ],
}
