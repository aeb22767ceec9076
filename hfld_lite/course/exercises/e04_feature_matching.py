"""Checks for notebook 04: similarity, one-to-all matching, what is projected and trained."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
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
from hfld_lite.losses import one_to_all_matching


@check
def check_channel_statistics(channel_statistics: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """``channel_statistics(features)``: mean and deviation of each channel, ``(C,)`` both."""
    x = torch.randn(40, 5, 9) * torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])[:, None]
    x = x + torch.tensor([4.0, 0.0, -2.0, 1.0, 7.0])[:, None] + torch.linspace(0, 2, 9)
    both = ask(channel_statistics, x)
    expect(
        isinstance(both, tuple | list) and len(both) == 2,
        "channel_statistics must return two tensors, the mean and the deviation.",
    )
    mean, deviation = (torch.as_tensor(value) for value in both)
    shapes = {
        (
            5,
            9,
        ): "The positions are kept apart; a channel has one mean over recordings and positions, "
        "dims 0 and 2.",
        (): "This is one number for all channels, and channels with large values would "
        "dominate; keep the channels separate.",
        (
            40,
            5,
        ): "The recordings are kept apart; the statistics are the training set's, over dims 0 "
        "and 2.",
        (40, 9): "The average runs over the channels, dim 1; they must be kept, dims 0 and 2 go.",
    }
    expect(tuple(mean.shape) not in shapes, shapes.get(tuple(mean.shape), ""))
    mean, deviation = tensor(mean, (5,), "The mean"), tensor(deviation, (5,), "The deviation")
    expect(close(mean, x.mean((0, 2)), 1e-3), "The mean of each channel is not right.")
    expect(
        not close(deviation, x.var((0, 2)), 1e-2),
        "This is the variance; the deviation is its root, in the units of the features.",
    )
    expect(
        close(deviation, x.std((0, 2)), 3e-3),
        "The deviation of each channel is not right; it runs over recordings and positions.",
    )
    return "Standardised with these, every teacher's features have the same scale."


@check
def check_look(look: Callable[..., Tensor]) -> str:
    """``look(student, teacher)``: the similarity M with one head, ``(B, N_t, N_s)``."""
    s, t = torch.randn(2, 16, 3), torch.randn(2, 16, 4)
    found = torch.as_tensor(ask(look, s, t))
    scores = t.transpose(1, 2) @ s
    expect(
        tuple(found.shape) != (2, 3, 4),
        "Rows and columns are exchanged: queries come from the teacher, so row i is a teacher "
        "position and says to which student positions it attends.",
    )
    found = tensor(found, (2, 4, 3), "What look returns")
    compare(
        found,
        torch.softmax(scores / 4, 2),
        {
            "The softmax runs over the teacher's positions (dim 1); each row must sum to 1 over "
            "the student's.": torch.softmax(scores / 4, 1),
            "1/√d is forgotten: with many channels the softmax saturates and selects a single "
            "position.": torch.softmax(scores, 2),
            "The scores are divided by d; divide by √d.": torch.softmax(scores / 16, 2),
            "d is the number of channels, not of positions.": torch.softmax(
                scores / math.sqrt(3), 2
            ),
            "These are the scores; the softmax is missing.": scores / 4,
        },
        "M differs from softmax(Q Kᵀ / √d) over the student's positions.",
    )
    return "Each teacher position's row is a distribution over the student's positions."


@check
def check_read_similarity(looks_at: int, undecided: int) -> str:
    """From the picture: where teacher position 4 attends, which position attends to two places."""
    looks_at, undecided = number(looks_at, "looks_at"), number(undecided, "undecided")
    expect(
        looks_at != 2,
        "That teacher position attends to student position 4 (column 4). Teacher position 4 is "
        "row 4.",
    )
    expect(looks_at != 8, "Positions are counted from 0, as on the axes.")
    expect(looks_at == 7, f"Row 4 is not brightest in column {looks_at:g}; find row 4 on the left.")
    expect(undecided not in (1, 5), "That is one of the two columns; the row is asked for.")
    expect(undecided == 6, f"Row {undecided:g} has one bright cell only; look for a row with two.")
    return "Teacher position 4 attends to 7; position 6 mixes 1 and 5."


@check
def check_matching_loss(matching_loss: Callable[..., Tensor]) -> str:
    """``matching_loss(student, teacher)``: mean((M V − F_t)²) with one head."""
    s = torch.randn(2, 16, 3).requires_grad_()
    t = torch.randn(2, 16, 4).requires_grad_()
    found = tensor(ask(matching_loss, s, t), (), "What matching_loss returns")
    with torch.no_grad():
        right = one_to_all_matching(s, t, heads=1)
        m = torch.softmax(t.transpose(1, 2) @ s / 4, 2)
        from_teacher = torch.softmax(t.transpose(1, 2) @ t / 4, 2) @ t.transpose(1, 2)
        square = ((m @ s.transpose(1, 2) - t.transpose(1, 2)) ** 2).sum()
    compare(
        found,
        right,
        {
            "Summed instead of averaged: the loss then grows with batch, channels and "
            "positions.": square,
            "Averaged over the batch only; take the mean over all entries.": square / 2,
            "The root is taken; the mean square itself is asked for.": right.sqrt(),
            "The values come from the teacher: it is rebuilt from itself, and the student learns "
            "nothing. V = K = student.": ((from_teacher - t.transpose(1, 2)) ** 2).mean(),
        },
        f"The loss is {found.item():.4f}, expected mean((M V − F_t)²) = {right.item():.4f}.",
    )
    expect(found.requires_grad, "No gradient reaches the student; do not detach it.")
    found.backward()
    expect(s.grad is not None, "No gradient reaches the student; do not detach it.")
    expect(
        t.grad is None or not t.grad.any(),
        "The teacher is not detached: a gradient flows into it. Use teacher.detach().",
    )
    with torch.no_grad():
        shuffled = ask(matching_loss, s[:, :, [2, 0, 1]], t)
    expect(close(shuffled, right), "Shuffling the student's positions must not change the loss.")
    return "The loss does not change when the student's positions are shuffled."


@check
def check_projector(projector: Callable[..., nn.Module]) -> str:
    """``projector(student_channels, teacher_channels)``: position by position."""
    module = ask(projector, 4, 6)
    expect(isinstance(module, nn.Module), "projector must return a module, such as nn.Sequential.")
    x = torch.randn(3, 4, 9)
    with torch.no_grad():
        try:
            seen = module.eval()(x)
        except RuntimeError:
            seen = None
        if seen is None:
            expect(
                not _runs(module, torch.randn(3, 6, 9)),
                "The channels are exchanged: this projects the teacher to the student, and if it "
                "is trained, the target drifts toward the student. Project the student.",
            )
            expect(
                not _runs(module, x.transpose(1, 2)),
                "The module expects channels last; features are (batch, channels, positions), as "
                "nn.Conv1d with kernel 1 expects them.",
            )
        expect(seen is not None, "The module does not accept student features (batch, 4, 9).")
        tensor(seen, (3, 6, 9), "What the module returns for (3, 4, 9)")
        changed = x.clone()
        changed[:, :, 4] += 1
        moved = (module(changed) - seen).abs().amax((0, 1)) > 1e-6
    expect(
        int(moved.sum()) <= 1,
        "Neighbouring positions are mixed; with kernel 1 each position is projected on its own.",
    )
    expect(
        any(isinstance(layer, nn.BatchNorm1d) for layer in module.modules()),
        "The batch norm is missing: it brings the student's features to the target's scale.",
    )
    return "The student's channels become the teacher's, position by position."


@check
def check_train_matching(train_matching: Callable[..., nn.Module]) -> str:
    """The mended training: the student is projected, and the projection is trained with it."""
    student, inputs, target = nn.Conv1d(1, 4, 3), torch.randn(16, 1, 11), torch.randn(16, 6, 9)
    first = [parameter.detach().clone() for parameter in student.parameters()]
    given: list[nn.Parameter] = []

    def optimise(parameters: Iterable[Any]) -> Descent:
        parameters = list(parameters)
        given.extend(parameters)
        return Descent(parameters, 0.3)

    project = ask(train_matching, student, target, inputs, 20, optimise)
    expect(
        isinstance(project, nn.Module) and list(project.parameters()),
        "train_matching must return the projection that it trained, a module with parameters.",
    )
    expect(
        not _runs(project, target) and _runs(project, student(inputs)),
        "The teacher's features are projected: the student's target then depends on the "
        "projection, not on the teacher. Project the student's 4 channels to the teacher's 6.",
    )
    ids = {id(parameter) for parameter in given}
    expect(
        ids >= {id(parameter) for parameter in student.parameters()},
        "The student is in no optimiser: it learns nothing.",
    )
    expect(
        ids >= {id(parameter) for parameter in project.parameters()},
        "The projection is in no optimiser: it keeps its random initial values. Give the optimiser "
        "its parameters as well.",
    )
    expect(
        not all(torch.equal(a, b) for a, b in zip(first, student.parameters(), strict=True)),
        "The student has not moved; call backward and step, 20 times.",
    )
    with torch.no_grad():
        loss = float(one_to_all_matching(project(student(inputs)), target, heads=1))
    expect(math.isfinite(loss) and loss < 1.0, f"After 20 steps the loss is still {loss:.2f}.")
    return "The student is projected, and the projection is trained with it."


def _runs(module: nn.Module, x: Tensor) -> bool:
    try:
        module(x)
    except RuntimeError:
        return False
    return True
