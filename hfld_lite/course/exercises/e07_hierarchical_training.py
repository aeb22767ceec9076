"""Checks for notebook 07: the size in between, the gap, the next teacher."""

import math
from collections.abc import Callable, Sequence

import pandas as pd

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number


@check
def check_best_middle(best_middle: Callable[[int, int, Sequence[int]], int]) -> str:
    """``best_middle(teacher, student, candidates)``: the size that makes the largest step small."""
    sizes = 250_000, 10_000, [130_000, 50_000, 240_000, 20_000]
    found = number(ask(best_middle, *sizes), "What best_middle returns")
    sentences = {
        130_000: "130,000 lies in the middle by difference. A step is a ratio: compare teacher / "
        "middle with middle / student.",
        240_000: "From 240,000 the step to the student is 24 times, nearly the whole way: the "
        "larger of the two steps counts.",
        20_000: "The step from the teacher to 20,000 is 12.5 times: the larger of the two steps "
        "counts.",
        5: "This is how large the step is; return the candidate that gives it.",
        1: "This is a place in the list; return the number of parameters that stands there.",
    }
    wrong = sentences.get(int(found), f"{found:g} is not among the candidates.")
    expect(found == 50_000, wrong)
    for other, right in (((64, 4, [48, 20, 6]), 20), ((64, 4, [17, 48, 30]), 17)):
        expect(
            number(ask(best_middle, *other), "What best_middle returns") == right,
            f"With teacher {other[0]}, student {other[1]} and candidates {other[2]} the answer is "
            f"{right}: there the larger of the two steps is smallest.",
        )
    return "5 times and 5 times: where it can be, the best middle is √(teacher · student)."


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
