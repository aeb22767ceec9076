"""Wrong answers to the exercises of notebook 04, and the sentence that each must bring."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from hfld_lite.losses import one_to_all_matching


def look(s, t, *, dim=2, factor=None, swap=False):
    """The similarity with a choice of mistakes."""
    s, t = (t, s) if swap else (s, t)
    factor = math.sqrt(s.shape[1]) if factor is None else factor
    return torch.softmax(t.transpose(1, 2) @ s / factor, dim)


def loss(s, t, *, values=None, reduction="mean", detach=True):
    """The matching loss with a choice of mistakes."""
    t = t.detach() if detach else t
    keys = t if values == "teacher" else s
    return F.mse_loss(look(keys, t) @ keys.transpose(1, 2), t.transpose(1, 2), reduction=reduction)


def one_to_one(s, t):
    """Position i with position i, where there are enough."""
    return F.mse_loss(s, t.detach()[:, :, : s.shape[2]])


def training(student, target, inputs, steps, optimise, *, teacher=False, mine=True, own=True):
    """A training with a choice of mistakes."""
    channels = student(inputs).shape[1], target.shape[1]
    project = nn.Conv1d(*(channels[::-1] if teacher else channels), 1)
    optimiser = optimise(
        [*(student.parameters() if own else []), *(project.parameters() if mine else [])]
    )
    for _ in range(steps):
        optimiser.zero_grad()
        features = student(inputs)
        pair = (features, project(target)) if teacher else (project(features), target)
        one_to_all_matching(*pair, heads=1).backward()
        optimiser.step()
    return project


def projection(s, t, kernel=1):
    """A projection with a choice of kernel."""
    return nn.Sequential(nn.Conv1d(s, t, kernel, padding=kernel // 2), nn.BatchNorm1d(t))


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "channel_statistics": [
        (lambda x: (x.mean(0), x.std(0)), "positions are kept apart"),
        (lambda x: (x.mean(), x.std()), "one number for all channels"),
        (lambda x: (x.mean(1), x.std(1)), "over the channels"),
        (lambda x: (x.mean(2), x.std(2)), "recordings are kept apart"),
        (lambda x: (x.mean((0, 2)), x.var((0, 2))), "the variance"),
        (lambda x: x.mean((0, 2)), "two tensors"),
    ],
    "look": [
        (lambda s, t: look(s, t, dim=1), "over the teacher's positions"),
        (lambda s, t: look(s, t, factor=1), "1/√d is forgotten"),
        (lambda s, t: look(s, t, factor=16), "divided by d"),
        (lambda s, t: look(s, t, swap=True), "exchanged"),
        (lambda s, t: t.transpose(1, 2) @ s / 4, "softmax is missing"),
    ],
    "read_similarity": [
        ((2, 6), "column 4"),
        ((8, 7), "counted from 0"),
        ((3, 6), "Row 4"),
        ((7, 5), "one of the two columns"),
        ((7, 0), "one bright cell"),
    ],
    "matching_loss": [
        (lambda s, t: loss(s, t, reduction="sum"), "Summed"),
        (lambda s, t: loss(s, t, values="teacher"), "rebuilt from itself"),
        (lambda s, t: loss(s, t, detach=False), "teacher is not detached"),
        (lambda s, t: loss(s.detach(), t), "do not detach it"),
        (lambda s, t: loss(s, t).sqrt(), "root"),
        (one_to_one, "expected mean"),
    ],
    "projector": [
        (lambda s, t: projection(t, s), "channels are exchanged"),
        (lambda s, t: projection(s, t, 3), "Neighbouring positions"),
        (lambda s, t: nn.Conv1d(s, t, 1), "batch norm is missing"),
        (lambda s, t: nn.Linear(s, t), "channels last"),
        (lambda s, t: torch.randn(t, s), "return a module"),
    ],
    "train_matching": [
        (lambda *a: training(*a, teacher=True), "teacher's features are projected"),
        (lambda *a: training(*a, teacher=True, mine=False), "teacher's features are projected"),
        (lambda *a: training(*a, mine=False), "projection is in no optimiser"),
        (lambda *a: training(*a, own=False), "student is in no optimiser"),
        (lambda *a: training(*a[:3], 0, a[4]), "has not moved"),
    ],
}
