"""Checks for notebook 06: the chain's order, the cache, a stage with two faults."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hfld_lite.course.exercises.answers import ask, check, close, expect
from hfld_lite.edge.analysis import threads


@check
def check_stage_order(stage_order: Callable[[Sequence[str]], list[tuple[str, str, str]]]) -> str:
    """``stage_order(chain)``: rows (who learns, from whom, who is frozen), in order."""
    for chain in (["teacher", "secondary teacher", "student"], ["big", "medium", "small", "tiny"]):
        rows = ask(stage_order, list(chain))
        expect(
            isinstance(rows, list) and all(len(row) == 3 for row in rows),
            "Return a list of rows (who learns, from whom, who is frozen).",
        )
        learners, teachers, frozen = (list(column) for column in zip(*rows, strict=True))
        expect(
            learners != chain[::-1],
            "The order is turned: a network must be trained before it can teach.",
        )
        expect(learners == chain, "Each network of the chain learns once, the largest first.")
        expect(
            (teachers[0], frozen[0]) == ("labels", "nobody"),
            "The first network has no teacher: its row ends with 'labels', 'nobody'.",
        )
        expect(
            teachers[1:] != [chain[0]] * (len(chain) - 1),
            f"Everyone learns from the {chain[0]} here, which is direct distillation: in the "
            "hierarchy each network learns from the one just above it.",
        )
        expect(teachers[1:] == chain[:-1], "Each network learns from the one just above it.")
        expect(
            frozen[1:] != learners[1:],
            "The learner is frozen here: it is its teacher that must not change.",
        )
        expect(frozen[1:] == teachers[1:], "In each step its teacher is frozen, nobody else.")
    return "Each step crosses one gap, and nobody changes while it teaches."


class _AskedTeacher(nn.Module):
    """A teacher that counts the recordings that it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.count, self.modes = nn.Linear(2, 3), 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        self.modes.append(self.training)
        return self.layer(x)


@check
def check_distil_cached(distil_cached: Callable[..., list[float]]) -> str:
    """``distil_cached(teacher, inputs, orders, step)``: one answer for each recording."""
    inputs = torch.arange(16.0).reshape(8, 2)
    rows = [[5, 2, 7, 0], [1, 3, 4, 6], [0, 6, 1, 2], [7, 5, 3, 4], [4, 3, 2, 1], [0, 7, 6, 5]]
    orders = [[torch.tensor(r) for r in pair] for pair in (rows[:2], rows[2:4], rows[4:])]
    teacher, seen = _AskedTeacher().train(), []

    def step(batch: Tensor, logits: Tensor) -> float:
        seen.append((batch, logits))
        return float(len(seen))

    ask(distil_cached, teacher, inputs, orders, step)
    expect(
        len(seen) == 6, f"step must be called for each batch, 6 times; it was called {len(seen)}."
    )
    expect(
        teacher.count != 24,
        "The teacher answered 24 times for 8 recordings: ask it once, before the first epoch.",
    )
    expect(teacher.count == 8, f"The teacher answered {teacher.count} times; 8 are enough.")
    expect(
        all(torch.equal(batch, inputs[r]) for (batch, _), r in zip(seen, rows, strict=True)),
        "step was given other recordings than those of the order: read inputs[rows].",
    )
    expect(
        all(close(logits, teacher.layer(batch)) for batch, logits in seen),
        "The answers belong to other recordings: row i of the cache answers row i of inputs, so "
        "read it by the batch's rows.",
    )
    expect(
        not any(logits.requires_grad for _, logits in seen),
        "The cached answers carry a gradient: ask the teacher under torch.no_grad().",
    )
    expect(
        not any(teacher.modes),
        "The teacher was asked in train mode, so that its dropout is in the cache for good: call "
        "teacher.eval() before.",
    )
    return "8 answers instead of 24; with 40 epochs it would be 8 instead of 320."


class _NotingNet(nn.Module):
    """A small network with batch norm and dropout that notes its mode at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5))
        self.head, self.calls = nn.Linear(5, 2), []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((len(x), self.training))
        return self.head(self.body(x))


@check
def check_distil_stage(distil_stage: Callable[..., list[float]]) -> str:
    """``distil_stage(teacher, student, batches, validation, epochs)`` without its two faults."""
    teacher, student = _NotingNet(), _NotingNet()
    batches = [(torch.randn(8, 3), torch.randint(2, (8,))) for _ in range(3)]
    validation = torch.randn(5, 3), torch.randint(2, (5,))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with threads(1):  # so small that several threads would only wait for each other
        found = ask(distil_stage, teacher, student, batches, validation, 3)
    learning = [training for count, training in student.calls if count == 8]
    judged = [training for count, training in student.calls if count == 5]
    expect(
        (len(learning), len(judged)) == (9, 3) and teacher.calls,
        "Three epochs of three batches are 9 steps and 3 validations, with the teacher asked at "
        "each step: leave the loops as they were.",
    )
    drifted = any(not torch.equal(v, before[name]) for name, v in teacher.state_dict().items())
    expect(
        not drifted and not any(training for _, training in teacher.calls),
        "The teacher answers in train mode: its dropout makes the targets noisy, and its batch "
        "norm drifts. It needs teacher.eval().",
    )
    expect(not any(judged), "The student is validated in train mode: keep student.eval() there.")
    expect(
        any(learning), "The student never learns in train mode: its dropout and batch norm are off."
    )
    expect(
        all(learning),
        "After the first validation the student is left in eval mode: student.train() belongs "
        "inside the loop over the epochs.",
    )
    expect(
        isinstance(found, list) and len(found) == 3,
        "Return the validation accuracies, one for each epoch, as the script did.",
    )
    return "The teacher stands still, and the student learns in train mode in every epoch."
