"""The exercises both ways: solutions pass, empty forms and known mistakes bring their sentence."""

import contextlib
import functools
import importlib.util
import io
import math
import re
import time
from fractions import Fraction
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch

from hfld_lite.course import exercises
from hfld_lite.course.exercises import NotAnswered, NotRight, hint
from hfld_lite.course.exercises.hints import catalogue
from hfld_lite.errors import ArgumentError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
NAMES = list(catalogue())


def load(path):
    """A program or a table of wrong answers, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_exercises = load(ROOT / "data_scripts" / "make_exercises.py")
WRONG = {}
for table in sorted(HERE.glob("wrong_e[0-9]*.py")):
    WRONG |= load(table).WRONG


def timed(function, seconds):
    """The same function, which notes the processor's time: other tests run beside this one."""

    @functools.wraps(function)
    def wrapper(*answers):
        start = time.thread_time()
        try:
            function(*answers)
        finally:
            seconds.append(time.thread_time() - start)

    wrapper.timed = True
    return wrapper


def run_cells(path):
    """Run a notebook's code here, without a kernel; what each cell printed and raised.

    The last value is what the check in it took, none for other cells.
    """
    seconds = []
    space = {"__name__": "__main__"}
    mpl.use("agg")
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            printed, raised = io.StringIO(), None
            seconds.clear()
            with contextlib.redirect_stdout(printed):
                try:
                    exec(compile(cell.source, cell.id, "exec"), space)
                except Exception as error:
                    raised = error
            yield cell, printed.getvalue(), raised, list(seconds)
            for name, value in space.items():
                if name.startswith("check_") and not hasattr(value, "timed"):
                    space[name] = timed(value, seconds)


def marks(cell):
    return cell.metadata.get("nbgrader", {})


def graded(path):
    return [cell for cell in nbformat.read(path, 4).cells if marks(cell).get("grade")]


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_solution_passes_its_check_within_two_seconds(path):
    for cell, printed, raised, seconds in run_cells(path):
        assert raised is None, cell.source
        if marks(cell).get("grade"):
            assert printed.splitlines()[0].startswith("Right. ")
            assert max(seconds) < 2, cell.source


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_stub_fails_with_the_intended_sentence_and_nothing_else(path):
    for cell, _, raised, seconds in run_cells(make_exercises.EXERCISES / path.name):
        if marks(cell).get("grade"):
            name = marks(cell)["grade_id"].removeprefix("check_")
            assert type(raised) is NotAnswered, (name, raised)
            assert str(raised).startswith(f'Exercise "{name}" is not answered yet')
            assert max(seconds) < 2, cell.source
        else:
            assert raised is None, cell.source


CASES = [(name, number) for name, answers in WRONG.items() for number in range(len(answers))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_wrong_answer_brings_its_sentence(name, number):
    answer, words = WRONG[name][number]
    answers = answer if isinstance(answer, tuple) else (answer,)
    start = time.thread_time()
    with pytest.raises(NotRight) as caught:
        getattr(exercises, f"check_{name}")(*answers)
    assert time.thread_time() - start < 2
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert caught.value._render_traceback_() == [f"Not yet. {sentence}"]


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_two_wrong_answers_with_two_sentences(name):
    assert len({words for _, words in WRONG.get(name, [])}) >= 2


def test_wrong_answers_and_checks_belong_to_exercises():
    assert set(WRONG) == set(NAMES)
    checks = {name for name in exercises.__all__ if name.startswith("check_")}
    assert checks == {f"check_{name}" for name in NAMES}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_what_is_generated_is_in_step_with_its_source(path):
    for made, text in make_exercises.made(path).items():
        assert made.read_text(encoding="utf-8") == text, f"{made.name}: run `make exercises`"
    learners = make_exercises.EXERCISES / path.name
    assert "BEGIN SOLUTION" not in learners.read_text()


def test_nothing_generated_is_left_over():
    stems = {path.stem for path in SOLUTIONS}
    assert {path.stem for path in make_exercises.EXERCISES.glob("*.ipynb")} == stems
    assert {path.stem for path in make_exercises.HELP.glob("*.json")} == stems


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_exercise_says_goal_hint_expectation_points_and_minutes(path):
    mine = {name: each for name, each in catalogue().items() if each["notebook"] == path.stem}
    assert len(mine) >= 3
    assert [cell.metadata.nbgrader.points for cell in graded(path)] == [
        each["points"] for each in mine.values()
    ]
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    assert re.findall(r"## Exercise (\d+)", text) == [str(i + 1) for i in range(len(mine))]
    for each in mine.values():
        assert all(each[part].strip() for part in ("goal", "hint", "expected", "solution"))
        assert 1 <= each["points"] <= 8
        assert 2 <= each["minutes"] <= 30
        assert each["solution"] not in text


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        (..., 16, "Not answered yet"),
        (..., "teacher", "Not answered yet"),
        (None, 16, "Not yet. That is None, nothing at all: is a return missing?"),
        (16, 16, "Right. Four times four."),
        ([16], 16, "Right. Four times four."),
        (torch.tensor([16.0], requires_grad=True), 16, "Right. Four times four."),
        (8, 16, "Not yet. That is the sum."),
        (5, 16, "Not yet. Multiply."),
        (10**400, 16, "Not yet. 1000000000000"),
        ((1, 156), 1156, "Not yet. Write the number without a comma"),
        ("1,156", 1156, "Not yet. Write the number without a comma"),
        ("16", 16, "Not yet. '16' is not a number: write it without quotation marks."),
        (torch, 16, "Not yet. <module 'torch'"),
        (2.7183, 2.718, "Right. Four times four."),
        (np.fft.rfft([1, 1.7183])[0], 2.718, "Right. Four times four."),
        (2.72, 2.718, "Not yet. That is right as far as it goes: decimals are missing, give 3."),
        (2.71, 2.718, "Not yet. Multiply."),
        (3, 2.718, "Not yet. Multiply."),
        (8.0004, 2.718, "Not yet. That is the sum."),
        (1j, 2.718, "Not yet. 1j is not a number."),
        (torch.tensor(1j), 0, "Not yet. tensor(0.+1.j) cannot be compared. Multiply."),
        (torch.ones(3, 3), 2.718, "Not yet. One number is asked for, not 9. Multiply."),
        (torch.ones(2), torch.ones(2), "Right. Four times four."),
        (torch.ones(3), torch.ones(2), "Not yet. Multiply."),
        (" The Teacher ", "teacher", "Right. Four times four."),
        ("student_alone", "student alone", "Right. Four times four."),
        ("student", "teacher", "Not yet. Multiply."),
        ("class", "teacher", "Not yet. That is the sum."),
        (torch, "teacher", "Not yet. A word is asked for: write it in quotation marks."),
    ],
)
def test_a_small_exercise_answers_in_one_sentence_whatever_it_is_given(
    answer, right, said, capsys, recwarn
):
    mistakes = {"That is the sum.": "class" if isinstance(right, str) else 8}
    exercises.exercise(right, "Four times four.", mistakes, "Multiply.")(answer)
    out = capsys.readouterr().out
    assert out.startswith(said)
    assert out.count("\n") == 1
    assert len(out) < 200
    assert not recwarn.list


@pytest.mark.parametrize("name", NAMES)
def test_help_comes_in_steps_and_the_solution_last(name, capsys):
    hint(name, 1)
    hint(f"check_{name}", 2)
    before = capsys.readouterr().out
    solution = catalogue()[name]["solution"]
    assert catalogue()[name]["hint"] in before
    assert catalogue()[name]["expected"] in before
    assert solution not in before
    hint(name, 3)
    assert capsys.readouterr().out.strip() == solution.strip()


def test_an_unknown_exercise_or_step_gets_a_sentence():
    with pytest.raises(ArgumentError, match="did you mean 'soften'"):
        hint("sofften")
    with pytest.raises(ArgumentError, match="choose 1"):
        hint("soften", 4)


def test_a_check_leaves_the_learners_randomness_and_hides_warnings(recwarn):
    import warnings

    def noisy(logits, temperature):
        warnings.warn("loud", stacklevel=1)
        torch.rand(3)
        return torch.softmax(logits / temperature, 1)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    exercises.check_soften(noisy)
    assert torch.equal(torch.get_rng_state(), state)
    assert not recwarn.list


def test_what_a_learners_code_raises_becomes_a_sentence():
    with pytest.raises(NotRight, match="Your code stops with ZeroDivisionError: division by zero"):
        exercises.check_soften(lambda logits, temperature: 1 / 0)
    with pytest.raises(NotAnswered):
        exercises.check_soften(None)

    def nbgraders_stub(logits, temperature):
        raise NotImplementedError

    with pytest.raises(NotAnswered):
        exercises.check_soften(nbgraders_stub)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_are_stored_executed_small_and_readable(path):
    notebook, text = nbformat.read(path, 4), path.read_text(encoding="utf-8")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        data = output.get("data", {})
        assert "image/png" not in data, "a bare picture has no alternative text"
        for alt in re.findall(r'<img alt="([^"]*)"', data.get("text/html", "")):
            assert len(alt) > 30
    for cell in graded(path):  # nbgrader would read a cell's value as partial credit
        assert not any(output.output_type == "execute_result" for output in cell.outputs)
    assert re.search(r"\*\*\d minutes?\*\*", notebook.cells[0].source)
    assert len(text) < 1_000_000
    assert str(ROOT) not in text
    assert "/tmp/" not in text
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    "requantise",
    [
        lambda a, m, h, z: max(-128, min(127, (a * m + 2 ** (h - 1)) // 2**h + z)),
        lambda a, m, h, z: np.clip(z + ((a * m + (1 << (h - 1))) >> h), -128, 127),
        lambda a, m, h, z: np.int8(np.clip((np.int64(a) * m + (1 << (h - 1)) >> h) + z, -128, 127)),
        lambda a, m, h, z: (torch.tensor(a * m + (1 << (h - 1))) >> h).add(z).clamp(-128, 127),
        lambda a, m, h, z: min(127, max(-128, z + math.floor(Fraction(2 * a * m + 2**h, 2 << h)))),
        lambda a, m, h, z: max(-128, min(127, (((a * m >> (h - 1)) + 1) >> 1) + z)),
    ],
)
def test_every_right_way_to_requantise_is_accepted(requantise, capsys):
    exercises.check_requantise(requantise)
    assert capsys.readouterr().out.startswith("Right. ")


def test_the_right_zero_point_is_accepted_as_any_integer(capsys):
    for zero in (-90, np.int64(-90), torch.tensor(-90)):
        exercises.check_zero_point("add_4", zero)
        assert capsys.readouterr().out.startswith("Right. ")
