"""Make the learners' notebooks and the help in steps from the notebooks with solutions.

notebooks/solutions/NN_*.ipynb is the source. Its text cells say the points, and the cells with
solutions and checks get nbgrader's marks here. nbgrader's own preprocessors then take the
solutions out, which gives notebooks/exercises/NN_*.ipynb. Hints and solutions go to
hfld_lite/course/exercises/help/. The same source gives the same bytes.
"""

import copy
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import Config
from typer import Argument, Option

from hfld_lite.storage.files import write_whole

ROOT = Path(__file__).parent.parent
SOLUTIONS = ROOT / "notebooks" / "solutions"
EXERCISES = ROOT / "notebooks" / "exercises"
HELP = ROOT / "hfld_lite" / "course" / "exercises" / "help"

STUB = "# YOUR CODE HERE"
"""Stands for a solution. nbgrader's own stub raises an error, and so hides the check's sentence."""

TITLE = re.compile(r"## Exercise \d+: (.+)")
POINTS = re.compile(r"\*\*(\d+) points?, about (\d+) minutes of work\.\*\*")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION", re.S | re.M)
CHECK = re.compile(r"^check_(\w+)\(", re.M)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Exercise:
    """What a notebook says of one exercise."""

    notebook: str
    title: str
    points: int
    minutes: int
    goal: str
    hint: str
    expected: str
    solution: str = ""


@app.command(help=__doc__, epilog="Example: python data_scripts/make_exercises.py 03")
def main(
    numbers: Annotated[list[str] | None, Argument(help="Which, by number; all by default.")] = None,
    check: Annotated[bool, Option(help="Write nothing; fail if something is out of step.")] = False,
) -> None:
    """Write what is out of step with the sources."""
    sources = sorted(SOLUTIONS.glob("*.ipynb"))
    if unknown := {n for n in numbers or () if not any(p.name.startswith(n) for p in sources)}:
        raise typer.BadParameter(f"there is no notebook {sorted(unknown)[0]!r} in solutions/")
    stale = []
    for source in sources:
        if not numbers or source.name.startswith(tuple(numbers)):
            stale += [(path, text) for path, text in made(source).items() if old(path) != text]
    for path, text in stale:
        print(f"{path.relative_to(ROOT)}: {'out of step' if check else 'written'}")
        if not check:
            write_whole(path, text)
    if check and stale:
        raise typer.Exit(1)


def old(path: Path) -> str:
    """What stands in a file, nothing if there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def made(source: Path) -> dict[Path, str]:
    """Every file that follows from a source, the source with its marks among them, and its text."""
    notebook = nbformat.read(source, 4)
    exercises = mark(notebook, source.stem)
    help_texts = {name: asdict(exercise) for name, exercise in exercises.items()}
    return {
        source: nbformat.writes(notebook) + "\n",
        EXERCISES / source.name: nbformat.writes(for_learners(notebook)) + "\n",
        HELP / f"{source.stem}.json": json.dumps(help_texts, ensure_ascii=False, indent=1) + "\n",
    }


def mark(notebook: NotebookNode, stem: str) -> dict[str, Exercise]:
    """Give cells nbgrader's marks and lasting ids, in place; return the exercises by name.

    An exercise is a text cell, any cells that are given, one with a solution, and one whose check
    is graded. The check's name is the exercise's.
    """
    exercises: dict[str, Exercise] = {}
    read: Exercise | None = None
    waiting: dict[str, NotebookNode] = {}
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"{stem[:2]}-{place:02d}"
        for leftover in ("nbgrader", "lines_to_next_cell"):
            cell.metadata.pop(leftover, None)
        if cell.cell_type == "markdown" and TITLE.match(cell.source):
            _refuse(read, f"{stem}: the exercise before cell {place} has no check")
            read, waiting = read_text(cell.source, stem), {"text": cell}
        elif cell.cell_type == "code" and SOLUTION.search(cell.source):
            _refuse("solution" in waiting, f"{stem}: cell {place} is a second solution")
            waiting["solution"] = cell
        elif cell.cell_type == "code" and (found := CHECK.search(cell.source)):
            name = found[1]
            _refuse(name in exercises, f"{stem}: there are two exercises {name!r}")
            _refuse(set(waiting) != {"text", "solution"}, f"{stem}: {name} lacks text or solution")
            read.solution = _code(SOLUTION.search(waiting["solution"].source))
            _set(waiting["text"], f"{name}_text", locked=True)
            _set(waiting["solution"], name, solution=True)
            _set(cell, f"check_{name}", grade=True, locked=True, points=read.points)
            exercises[name], read, waiting = read, None, {}
    _refuse(read, f"{stem}: the last exercise has no check")
    return exercises


def read_text(text: str, stem: str) -> Exercise:
    """Title, points, minutes, goal, hint and expectation of an exercise's text cell."""
    title, worth = TITLE.match(text)[1], POINTS.search(text)
    parts = dict(
        re.findall(r"<details><summary>(.+?)</summary>\n\n(.+?)\n\n</details>", text, re.S)
    )
    goal = re.search(r"\*\*Goal\.\*\* (.+?)\n\n", text, re.S)
    complete = worth and goal and set(parts) == {"Hint", "What to expect"}
    _refuse(not complete, f"{stem}: {title!r} lacks goal, points, hint or what to expect")
    return Exercise(
        notebook=stem,
        title=title,
        points=int(worth[1]),
        minutes=int(worth[2]),
        goal=goal[1],
        hint=parts["Hint"],
        expected=parts["What to expect"],
    )


def for_learners(notebook: NotebookNode) -> NotebookNode:
    """The notebook without solutions and outputs, as nbgrader would release it."""
    result, resources = copy.deepcopy(notebook), {}
    config = Config({"ClearSolutions": {"code_stub": {"python": STUB}}})
    for step in (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums):
        result, resources = step(config=config).preprocess(result, resources)
    return result


def _set(cell: NotebookNode, name: str, **marks: bool | int) -> None:
    cell["id"] = name.replace("_", "-")
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": name,
        "grade": False,
        "solution": False,
        "locked": False,
        "task": False,
    } | marks


def _code(found: re.Match[str]) -> str:
    lines = found[2].rstrip().splitlines()
    return "\n".join(line.removeprefix(found[1]) for line in lines)


def _refuse(condition: object, sentence: str) -> None:
    if condition:
        raise SystemExit(sentence)


if __name__ == "__main__":
    app()
