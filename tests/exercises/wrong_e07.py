"""Wrong answers to the exercises of notebook 07, and what each must bring."""


def gap(alone, distilled, teacher):
    return (distilled - alone) / (teacher - alone) if teacher > alone else float("nan")


def clipped(alone, distilled, teacher):
    return min(1, max(0, gap(alone, distilled, teacher))) if teacher > alone else float("nan")


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "best_middle": [
        (lambda t, s, c: min(c, key=lambda m: max(t - m, m - s)), "in the middle by difference"),
        (lambda t, s, c: min(c, key=lambda m: t / m), "nearly the whole way"),
        (lambda t, s, c: min(c), "12.5 times"),
        (lambda t, s, c: min(max(t / m, m / s) for m in c), "how large the step is"),
        (lambda t, s, c: 1, "a place in the list"),
        (lambda t, s, c: (t * s) ** 0.5, "With teacher 64"),
        (lambda t, s, c: sorted(c)[1], "the answer is 17"),
        (lambda t, s, c: (t + s) / 2 + 7, "not among the candidates"),
    ],
    "gap_closed": [
        (lambda alone, distilled, teacher: distilled - alone, "gain itself"),
        (lambda alone, distilled, teacher: (distilled - alone) / teacher, "and not by the teacher"),
        (lambda alone, distilled, teacher: distilled / teacher, "most of that, too"),
        (
            lambda alone, distilled, teacher: (teacher - distilled) / (teacher - alone),
            "still open",
        ),
        (lambda alone, distilled, teacher: -gap(alone, distilled, teacher), "A sign is turned"),
        (clipped, "Do not clip"),
        (lambda a, d, t: (d - a) / (t - a), "no gap to close"),
        (lambda a, d, t: (d - a) / (t - a) if t != a else float("nan"), "no gap to close"),
    ],
    "next_teacher": [
        (lambda runs: runs.loc[runs["test_accuracy"].idxmax(), "seed"], "no longer tests"),
        (lambda runs: runs.loc[runs["validation_accuracy"].idxmax(), "seed"], "11 and 13"),
        (lambda runs: runs.loc[runs["validation_accuracy"].idxmin(), "seed"], "sort the other way"),
        (lambda runs: 13, "a choice by hand"),
        (lambda runs: runs["seed"].iloc[0], "first run"),
        (
            lambda runs: int(
                runs.sort_values(["validation_accuracy", "validation_loss"]).index[-2]
            ),
            "place in the table",
        ),
        (lambda runs: "teacher2", "a number is asked for"),
    ],
}
