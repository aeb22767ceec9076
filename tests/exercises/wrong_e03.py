"""Wrong answers to the exercises of notebook 03, and the sentence that each must bring."""

import math

import torch
import torch.nn.functional as F


def kd(s, t, temperature, *, power=2, dim=1, reduction="batchmean", detach=True, swap=False):
    """Distillation with a choice of mistakes."""
    t = t.detach() if detach else t
    s, t = (t, s) if swap else (s, t)
    s, t = (F.log_softmax(z / temperature, dim) for z in (s, t))
    return F.kl_div(s, t, reduction=reduction, log_target=True) * temperature**power


def through_zero(s, t, temperature):
    """The logarithm is taken after the softmax."""
    s, t = torch.softmax(s / temperature, 1), torch.softmax(t.detach() / temperature, 1)
    return (t * (t.log() - s.log())).sum(1).mean() * temperature**2


def parts(s, t, y, temperature, *, renormalise=True, power=2, swap=False, weigh=False, batches=1):
    """TCKD and NCKD with a choice of mistakes."""
    p, q = torch.softmax(t / temperature, 1), torch.softmax(s / temperature, 1)
    own = F.one_hot(y, p.shape[1]).bool()
    p_y, q_y = p[own], q[own]
    tckd = p_y * (p_y / q_y).log() + (1 - p_y) * ((1 - p_y) / (1 - q_y)).log()
    p, q = p[~own].view(len(p), -1), q[~own].view(len(q), -1)
    if renormalise:
        p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    nckd = (p * (p / q).log()).sum(1)
    nckd = nckd * (1 - p_y) if weigh else nckd
    tckd, nckd = (x.mean() * temperature**power / batches for x in (tckd, nckd))
    return (nckd, tckd) if swap else (tckd, nckd)


def step(
    student,
    teacher,
    optimiser,
    inputs,
    target,
    temperature,
    *,
    eval_teacher=True,
    grad=False,
    train=True,
    again=1,
    power=2,
    zero=True,
):
    """A training step with a choice of mistakes."""
    student.train(train)
    teacher.train(not eval_teacher)
    if zero:
        optimiser.zero_grad()
    with torch.set_grad_enabled(grad):
        said = teacher(inputs)
    z = student(inputs)
    loss = kd(z, said, temperature, power=power, detach=not grad) / again
    loss = loss + F.cross_entropy(z, target)
    loss.backward()
    optimiser.step()
    return loss.item()


TCKD = 0.8 * math.log(2) + 0.2 * math.log(1 / 3)
NCKD = 0.75 * math.log(2.25) + 0.25 * math.log(0.375)

# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "soften": [
        (lambda z, t: torch.softmax(z / t, 0), "over the batch"),
        (lambda z, t: torch.softmax(z * t, 1), "must divide them"),
        (lambda z, t: torch.softmax(z, 1), "not used"),
        (lambda z, t: torch.softmax(z, 1) / t, "divides the probabilities"),
        (lambda z, t: torch.log_softmax(z / t, 1), "logarithms"),
        (lambda z, t: (z / t)[0], "has shape"),
    ],
    "by_hand": [
        ((NCKD, TCKD), "exchanged"),
        ((0.3819, NCKD), "turned round"),
        ((0.483, NCKD), "log2"),
        ((0.5545, NCKD), "second part"),
        ((TCKD, -0.1471), "not renormalised"),
        ((TCKD, 0.0726), "as it stands in KD"),
        (("0.33 or so", NCKD), "a number is asked for"),
    ],
    "read_temperature": [
        (0.4, "1/T"),
        (5.76, "log10"),
        (1.0, "At T = 1"),
        (3.0, "gap between the logits"),
        (10, "At T = 10"),
    ],
    "distil_loss": [
        (lambda s, t, x: kd(s, t, x, power=0), "T² is forgotten"),
        (lambda s, t, x: kd(s, t, x, power=1), "must be T²"),
        (lambda s, t, x: kd(s, t, x) / len(s), "Divided by the batch twice"),
        (lambda s, t, x: kd(s, t, x, reduction="sum"), "Summed over the batch"),
        (lambda s, t, x: kd(s, t, x, reduction="mean"), "Averaged over classes"),
        (lambda s, t, x: kd(s, t, x, swap=True), "exchanged"),
        (lambda s, t, x: kd(s, t, x, dim=0), "wrong axis"),
        (lambda s, t, x: kd(s, t, x, detach=False), "teacher is not detached"),
        (lambda s, t, x: kd(s.detach(), t, x), "student is detached"),
        (through_zero, "logarithm of 0"),
    ],
    "separate": [
        (lambda *a: parts(*a, renormalise=False), "not renormalised"),
        (lambda *a: parts(*a, power=0), "T² is forgotten"),
        (lambda *a: parts(*a, weigh=True), "as it stands in KD"),
        (lambda *a: parts(*a, swap=True), "exchanged"),
        (lambda *a: parts(*a, batches=len(a[0])), "divided by the batch twice"),
        (lambda *a: parts(*a)[0], "two values"),
        (lambda s, t, y, x: (kd(s, t, x), kd(s, t, x)), "whole of KD"),
    ],
    "distil_step": [
        (lambda *a: step(*a, eval_teacher=False), "The teacher changed"),
        (lambda *a: step(*a, grad=True), "teacher is not detached"),
        (lambda *a: step(*a, again=6), "Divided by the batch twice"),
        (lambda *a: step(*a, train=False), "eval mode"),
        (lambda *a: step(*a, power=0), "T² is forgotten"),
        (lambda *a: step(*a, zero=False), "zero the gradients"),
    ],
}
