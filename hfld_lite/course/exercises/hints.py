"""Help for learners who are stuck, a step at a time.

The texts come from the notebooks with solutions; ``data_scripts/make_exercises.py`` collects them
in ``help/``, a file for each notebook.
"""

import json
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from hfld_lite.errors import ArgumentError

STEPS = ("hint", "expected", "solution")
"""What each step of the help shows."""


@cache
def catalogue() -> dict[str, dict[str, str | int]]:
    """Every exercise by name: notebook, title, points, minutes, goal, hint, expected, solution."""
    folder = files("hfld_lite.course.exercises") / "help"
    found = sorted((file for file in folder.iterdir()), key=lambda file: file.name)
    exercises: dict[str, dict[str, str | int]] = {}
    for file in found:
        if file.name.endswith(".json"):
            exercises |= json.loads(file.read_text(encoding="utf-8"))
    return exercises


def hint(exercise: str, step: int = 1) -> None:
    """Print help for an exercise: 1 a hint, 2 what to expect, 3 the solution.

    Args:
        exercise: its name, such as ``"soften"`` where the check is ``check_soften``.
        step: from 1 to 3; each shows more than the one before.

    Raises:
        ArgumentError: if there is no such exercise or step; the nearest name is offered.
    """
    known = catalogue()
    name = str(exercise).removeprefix("check_")
    if name not in known:
        near = get_close_matches(name, known, 1, cutoff=0) or [""]
        raise ArgumentError(f"There is no exercise {exercise!r}; did you mean {near[0]!r}?")
    if step not in (1, 2, 3):
        raise ArgumentError(
            f"step is {step!r}; choose 1 (a hint), 2 (what to expect) or 3 (the solution)."
        )
    print(known[name][STEPS[step - 1]])
    if step < len(STEPS):
        print(f'\nStill stuck? hint("{name}", {step + 1})')
