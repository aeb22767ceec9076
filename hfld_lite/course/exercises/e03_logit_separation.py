"""Checks for notebook 03: temperatures, the loss of distillation and its two parts."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.course.exercises.answers import (
    Descent,
    ask,
    check,
    close,
    compare,
    expect,
    number,
    tensor,
)

TEACHER = torch.tensor(
    [[8.0, 5.0, 3.0, -1.0, 0.0], [0.5, 2.0, -1.0, 1.0, 1.5], [-3.0, 0.0, 4.0, 2.0, 1.0]]
)
STUDENT = torch.tensor(
    [[2.0, 1.5, 1.0, 0.0, 0.5], [1.0, -0.5, 0.0, 2.0, 1.0], [0.0, 1.0, 1.5, -2.0, 3.0]]
)
TARGET = torch.tensor([0, 1, 2])


@check
def check_soften(soften: Callable[..., Tensor]) -> str:
    """``soften(logits, temperature)``: softmax(z / T) over the classes, ``(batch, classes)``."""
    z = TEACHER
    found = tensor(ask(soften, z, 4.0), (3, 5), "What soften returns")
    compare(
        found,
        torch.softmax(z / 4, 1),
        {
            "The softmax runs over the batch (dim 0): each column sums to 1. It must run over the "
            "classes, dim 1.": torch.softmax(z / 4, 0),
            "The temperature multiplies the logits; it must divide them: T = 4 has to make the "
            "answer softer, not surer.": torch.softmax(z * 4, 1),
            "The temperature is not used: this is the answer at T = 1.": torch.softmax(z, 1),
            "The temperature divides the probabilities instead of the logits: the rows no longer "
            "sum to 1.": torch.softmax(z, 1) / 4,
            "These are logarithms of probabilities; softmax, not log_softmax, is asked "
            "for.": torch.log_softmax(z / 4, 1),
        },
        "The probabilities differ from softmax(z / T) over the classes.",
    )
    return "Each row is a distribution, and a higher temperature makes it softer."


@check
def check_by_hand(tckd: float, nckd: float) -> str:
    """TCKD and NCKD of (0.8, 0.15, 0.05) against (0.4, 0.2, 0.4), first class true, T = 1."""
    relevant = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    rest = 0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 3 / 2)
    tckd, nckd = number(tckd, "tckd"), number(nckd, "nckd")
    expect(
        not (close(tckd, rest, 0.01) and close(nckd, relevant, 0.01)),
        "The two are exchanged: TCKD is about the true class against all others together.",
    )
    wrong = {
        "TCKD is turned round: KL(teacher, student) weighs with the teacher's probabilities, "
        "p_t ln(p_t / p_s).": 0.4 * math.log(0.4 / 0.8) + 0.6 * math.log(0.6 / 0.2),
        "TCKD misses its second part: 'not the true class' has a probability, too, 0.2 against "
        "0.6.": 0.8 * math.log(2),
        "TCKD is in bits (log2); the natural logarithm is asked for.": relevant / math.log(2),
        "This is the whole of KD; TCKD has two outcomes only, 0.8 and 0.2 against 0.4 and "
        "0.6.": relevant + 0.2 * rest,
    }
    _about(tckd, relevant, wrong, "TCKD is not right: two outcomes, 0.8 and 0.2 against 0.4, 0.6.")
    wrong = {
        "NCKD is not renormalised: the others must sum to 1, (0.75, 0.25) against (1/3, 2/3).": 0.15
        * math.log(0.15 / 0.2)
        + 0.05 * math.log(0.05 / 0.4),
        "NCKD is turned round: weigh with the teacher's probabilities.": math.log(4 / 9) / 3
        + 2 * math.log(8 / 3) / 3,
        "This is (1 − p_y) · NCKD, as it stands in KD; give NCKD itself.": 0.2 * rest,
        "NCKD is in bits (log2); the natural logarithm is asked for.": rest / math.log(2),
    }
    _about(nckd, rest, wrong, "NCKD is not right: (0.75, 0.25) against (1/3, 2/3).")
    return "TCKD + 0.2 · NCKD is 0.407, which is KD."


@check
def check_read_temperature(temperature: float) -> str:
    """The temperature that turned the stated logits into the picture's shares, 2.5."""
    temperature = number(temperature, "temperature")
    wrong = {
        "This is 1/T: at T the gap between two logits, divided by T, is ln(p1 / p2), so "
        "T = (z1 − z2) / ln(p1 / p2).": 0.4,
        "This comes from log10; ln, the natural logarithm, undoes the softmax.": 2.5 * math.log(10),
        "At T = 1 the first row would say 95 % for the first class; the picture is softer.": 1.0,
        "This is the gap between the logits; divide it by ln(p1 / p2).": 3.0,
    }
    _about(
        temperature,
        2.5,
        wrong,
        f"At T = {temperature:g} the shares would be others. Take two classes of one row: "
        "T = (z1 − z2) / ln(p1 / p2).",
        0.07,
    )
    return "T is 2.5, and every row of the picture gives it."


@check
def check_distil_loss(distil_loss: Callable[..., Tensor]) -> str:
    """``distil_loss(student, teacher, temperature)``: T² KL(p_t, p_s), mean over the batch."""
    s, t = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    found = tensor(ask(distil_loss, s, t, 4.0), (), "What distil_loss returns")
    right = _kl(TEACHER / 4, STUDENT / 4, 1) * 16
    compare(
        found,
        right,
        {
            "T² is forgotten: at T = 4 the loss is 16 times too small, and the teacher has "
            "little influence beside the labels.": right / 16,
            "The loss is multiplied by T; it must be T², because two derivatives divide by "
            "T.": right / 4,
            "Divided by the batch twice: 'batchmean' divides already (the released code makes this "
            "mistake).": right / 3,
            "Summed over the batch; divide by the number of samples.": right * 3,
            "Averaged over classes as well as samples (reduction='mean'); sum over the classes, "
            "average over the batch.": right / 5,
            "The two are exchanged: this is KL(student, teacher). F.kl_div takes the student's "
            "logarithms first.": _kl(STUDENT / 4, TEACHER / 4, 1) * 16,
            "Softmax over the wrong axis: it runs over the batch; the classes are dim 1.": _kl(
                TEACHER / 4, STUDENT / 4, 0
            )
            * 16,
            "The temperature is not used inside the softmax.": _kl(TEACHER, STUDENT, 1) * 16,
        },
        f"The loss is {found.item():.4f}; expected T² · KL(p_t, p_s) = {right.item():.4f}.",
    )
    expect(found.requires_grad, "The student is detached: no gradient could reach it.")
    found.backward()
    expect(s.grad is not None, "The student is detached: no gradient reaches it.")
    expect(
        t.grad is None or not t.grad.any(),
        "The teacher is not detached: a gradient flows into it. Use teacher.detach().",
    )
    far = torch.tensor([[0.0, 0.0, 300.0]], requires_grad=True)
    loss = ask(distil_loss, far, torch.tensor([[300.0, 0.0, 0.0]]), 1.0)
    loss.backward()
    expect(
        torch.isfinite(loss) and torch.isfinite(far.grad).all(),
        "Not finite where logits are far apart: log(softmax(z)) is the logarithm of 0. Use "
        "log_softmax (and log_target=True).",
    )
    return "T², the batch, the direction and the teacher's gradient are all correct."


@check
def check_separate(separate: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """``separate(student, teacher, target, temperature)``: (TCKD, NCKD), means over the batch."""
    both = ask(separate, STUDENT, TEACHER, TARGET, 4.0)
    expect(
        isinstance(both, tuple | list) and len(both) == 2,
        "separate must return two values, TCKD and NCKD.",
    )
    tckd, nckd = (tensor(v, (), name) for v, name in zip(both, ("TCKD", "NCKD"), strict=True))
    p, q = (torch.softmax(z / 4, 1) for z in (TEACHER, STUDENT))
    relevant, rest, raw, weighted = _parts(p, q)
    expect(
        not (close(tckd, rest * 16) and close(nckd, relevant * 16)),
        "The two are exchanged; return TCKD first, then NCKD.",
    )
    compare(
        tckd,
        relevant * 16,
        {
            "TCKD: T² is forgotten.": relevant,
            "TCKD: divided by the batch twice.": relevant * 16 / 3,
            "TCKD: summed over the batch; take the mean.": relevant * 48,
            "TCKD is the whole of KD here; it has two outcomes only: the true class, and all "
            "others together.": _kl(TEACHER / 4, STUDENT / 4, 1) * 16,
            "TCKD leaves out the second outcome, 1 − p_y.": (
                p.diagonal() * (p.diagonal() / q.diagonal()).log()
            ).mean()
            * 16,
        },
        f"TCKD is {tckd.item():.4f}, expected {relevant.item() * 16:.4f}.",
    )
    compare(
        nckd,
        rest * 16,
        {
            "NCKD: T² is forgotten.": rest,
            "NCKD: divided by the batch twice.": rest * 16 / 3,
            "NCKD: summed over the batch; take the mean.": rest * 48,
            "NCKD is not renormalised: divide the other probabilities by 1 − p_y, for teacher and "
            "student each.": raw * 16,
            "This is (1 − p_y) · NCKD, as it stands in KD; NCKD itself has no such "
            "factor.": weighted * 16,
        },
        f"NCKD is {nckd.item():.4f}, expected {rest.item() * 16:.4f}.",
    )
    two = ask(separate, STUDENT[:, :2], TEACHER[:, :2], torch.tensor([0, 1, 0]), 4.0)
    expect(close(float(two[1]) + 1, 1.0), "With two classes NCKD must be 0: one class is left.")
    return "TCKD + (1 − p_y) NCKD is KD, sample by sample."


@check
def check_distil_step(distil_step: Callable[..., float]) -> str:
    """The mended training step: a teacher that stays as it is, a loss divided by the batch once."""
    student, teacher = _network(0.0), _network(0.5)
    inputs, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    before = copy.deepcopy(teacher.state_dict())
    right, kd, labels, moved = _sound_step(copy.deepcopy(student), teacher, inputs, target)
    student.eval(), teacher.train()  # as their last user may have left them
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)  # of a step before
    modes: list[bool] = []
    student.register_forward_hook(lambda module, *_: modes.append(module.training))
    optimiser = Descent(student.parameters(), 0.1)
    loss = ask(distil_step, student, teacher, optimiser, inputs, target, 4.0)
    expect(
        all(torch.equal(teacher.state_dict()[name], value) for name, value in before.items()),
        "The teacher changed during the step: it ran in training mode, and its batch norm moved. "
        "Call teacher.eval() first.",
    )
    expect(
        all(parameter.grad is None for parameter in teacher.parameters()),
        "The teacher is not detached: its gradients were computed, which took half of the step's "
        "time, and never used. Call it under torch.no_grad().",
    )
    expect(modes and modes[-1], "The student was left in eval mode; call student.train().")
    wrong = {
        "Divided by the batch twice: 'batchmean' has done so already.": kd / 6 + labels,
        "T² is forgotten.": kd / 16 + labels,
        "The labels' cross-entropy is gone; the step needs both terms.": kd,
        "The teacher's term is gone; the step needs both.": labels,
    }
    compare(
        number(loss, "The loss"),
        right,
        wrong,
        f"The loss is {float(loss):.4f}, expected {right:.4f}: teacher in eval mode, its term "
        "times T², divided by the batch once, plus the cross-entropy.",
    )
    after = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    expect(
        close(after, moved),
        "The student's parameters are not where one step should take them; zero the gradients, "
        "call backward, then optimiser.step().",
    )
    return "The teacher stays as it was, and its term has its full weight."


def _about(
    found: float, right: float, wrong: dict[str, float], otherwise: str, within: float = 0.01
) -> None:
    """Compare numbers that were worked out by hand or read off a picture."""
    if close(found, right, within):
        return
    for sentence, value in wrong.items():
        expect(not close(found, value, 0.02), sentence)
    expect(False, otherwise)


def _kl(t: Tensor, s: Tensor, dim: int) -> Tensor:
    p, q = torch.log_softmax(t, dim), torch.log_softmax(s, dim)
    return (p.exp() * (p - q)).sum() / len(t)


def _parts(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """TCKD; NCKD; NCKD without renormalisation; NCKD times 1 − p_y. Targets: 0, 1, 2."""
    own, beside = torch.arange(3), ~torch.eye(3, p.shape[1], dtype=torch.bool)
    p_y, q_y = p[own, own], q[own, own]
    relevant = p_y * (p_y / q_y).log() + (1 - p_y) * ((1 - p_y) / (1 - q_y)).log()
    p, q = p[beside].view(3, -1), q[beside].view(3, -1)
    raw = (p * (p / q).log()).sum(1)
    p, q = p / (1 - p_y)[:, None], q / (1 - q_y)[:, None]
    rest = (p * (p / q).log()).sum(1)
    return relevant.mean(), rest.mean(), raw.mean(), ((1 - p_y) * rest).mean()


def _network(dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )


def _sound_step(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, target: Tensor
) -> tuple[float, float, float, Tensor]:
    """The loss, its two terms, and where a step of SGD takes the student."""
    student.train(), teacher.eval()
    with torch.no_grad():
        said = teacher(inputs)
    z = student(inputs)
    kd, labels = _kl(said / 4, z / 4, 1) * 16, F.cross_entropy(z, target)
    gradients = torch.autograd.grad(kd + labels, list(student.parameters()))
    moved = [p.detach() - 0.1 * g for p, g in zip(student.parameters(), gradients, strict=True)]
    loss = kd + labels
    return float(loss), float(kd), float(labels), torch.cat([x.flatten() for x in moved])
