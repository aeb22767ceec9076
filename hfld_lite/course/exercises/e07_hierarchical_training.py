"""Checks for notebook 07: the chain's order, the cache, the gap, the next teacher, a script."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number
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


@check
def check_gap_closed(gap_closed: Callable[[float, float, float], float]) -> str:
    """``gap_closed(alone, distilled, teacher)``: a share, nan where there is no gap."""
    alone, distilled, teacher = 0.90, 0.93, 0.98
    compare(
        number(ask(gap_closed, alone, distilled, teacher), "What gap_closed returns"),
        0.375,
        {
            "This is the gain itself; what part of the gap is it? Divide by teacher − alone.": (
                distilled - alone
            ),
            "Divide the gain by the gap, teacher − alone, and not by the teacher.": (
                (distilled - alone) / teacher
            ),
            "Divide the gain by the gap, teacher − alone, and not by the student alone.": (
                (distilled - alone) / alone
            ),
            "This is how much of the teacher's accuracy the student has; the student alone has "
            "most of that, too.": distilled / teacher,
            "This is the part of the gap that is still open; the closed part is 1 minus it.": 0.625,
            "A sign is turned: both differences are counted from the student alone.": -0.375,
        },
        "(what was gained) / (what there was to gain), both counted from the student alone.",
    )
    for found_accuracy, right in ((0.86, -0.5), (1.0, 1.25)):
        found = number(ask(gap_closed, alone, found_accuracy, teacher), "What gap_closed returns")
        expect(
            close(found, right),
            "Do not clip: a student that lost comes out below 0, and one that passes its teacher "
            "above 1.",
        )
    for best in (alone, 0.88):
        try:
            found = number(ask(gap_closed, alone, distilled, best), "What gap_closed returns")
        except ZeroDivisionError:
            found = 0.0
        expect(
            math.isnan(found),
            "A teacher that is no better than the student alone leaves no gap to close: return "
            "float('nan') then.",
        )
    return "And it says nothing where the teacher is no better than the student alone."


@check
def check_next_teacher(next_teacher: Callable[[pd.DataFrame], int]) -> str:
    """``next_teacher(runs)``: the seed of the run that teaches next, by a rule on validation."""
    runs = pd.DataFrame(
        {
            "seed": [10, 11, 12, 13, 14],
            "validation_accuracy": [0.95, 0.97, 0.96, 0.97, 0.94],
            "validation_loss": [0.20, 0.19, 0.12, 0.15, 0.25],
            "test_accuracy": [0.96, 0.95, 0.99, 0.94, 0.97],
        }
    )
    sentences = {
        12: "Seed 12 is best on the test part, or by its loss alone, but not by validation "
        "accuracy; a test part that has chosen anything no longer tests.",
        11: "Seeds 11 and 13 have the same validation accuracy; of those the lower validation "
        "loss decides.",
        14: "Seed 14 has the lowest validation accuracy: sort the other way.",
        10: "This is the first run, whatever its figures are.",
        3: "This is a place in the table; return the seed that stands there.",
        1: "This is a place in the table; return the seed that stands there.",
    }
    found = number(ask(next_teacher, runs.copy()), "What next_teacher returns")
    expect(found == 13, sentences.get(int(found), f"{found:g} is not a seed of the table."))
    other = runs.assign(validation_accuracy=[0.99, 0.97, 0.96, 0.97, 0.94])
    mixed = runs.iloc[[2, 3, 0, 4, 1]]
    expect(
        number(ask(next_teacher, other), "What next_teacher returns") == 10
        and number(ask(next_teacher, mixed), "What next_teacher returns") == 13,
        "In a table with other figures or in another order this takes the wrong run: a seed that "
        "is written down is a choice by hand.",
    )
    return "Anyone who has the table comes to the same teacher, and the test part was not read."


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
