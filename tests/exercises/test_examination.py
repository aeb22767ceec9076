"""The examination: solutions pass, empty forms and wrong answers fail, and nothing is told."""

import copy
import re

import nbformat
import pytest
from nbgrader.preprocessors import ClearHiddenTests
from test_exercises import ROOT, load, make_exercises, marks

from hfld_lite.course.exercises import hint
from hfld_lite.errors import ArgumentError

SOURCE = nbformat.read(ROOT / "notebooks" / "examination" / "20_examination.ipynb", 4)
WRONG = load(ROOT / "tests" / "exercises" / "wrong_examination.py").WRONG


def released():
    """What learners get: nbgrader's own steps, without solutions and hidden tests."""
    notebook = make_exercises.for_learners(SOURCE)
    return ClearHiddenTests().preprocess(notebook, {})[0]


def run(cells):
    """What each graded cell raised, by the question's name."""
    space, raised = {"__name__": "__main__"}, {}
    for cell in cells:
        if cell.cell_type == "code":
            try:
                exec(compile(cell.source, cell.id, "exec"), space)
                error = None
            except Exception as caught:
                error = caught
            if marks(cell).get("grade"):
                raised[marks(cell)["grade_id"].removeprefix("test_")] = error
    return raised


def test_every_solution_passes():
    assert run(SOURCE.cells) == dict.fromkeys(WRONG)


def test_every_stub_fails_with_and_without_the_hidden_tests():
    stubs = released().cells
    assert all(isinstance(error, AssertionError | TypeError) for error in run(stubs).values())
    graded = {cell.id: cell for cell in SOURCE.cells if marks(cell).get("grade")}
    restored = [graded.get(cell.id, cell) for cell in stubs]  # as nbgrader does when it grades
    assert all(isinstance(error, AssertionError | TypeError) for error in run(restored).values())


CASES = [(name, number) for name, answers in WRONG.items() for number in range(len(answers))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_wrong_answer_fails_with_its_sentence(name, number):
    answer, words = WRONG[name][number]
    cells = copy.deepcopy([c for c in SOURCE.cells if marks(c).get("grade_id") == "imports"])
    cells += copy.deepcopy(
        [c for c in SOURCE.cells if marks(c).get("grade_id") in (name, f"test_{name}")]
    )
    cells[-2].source = answer
    error = run(cells)[name]
    assert isinstance(error, AssertionError)
    assert words in str(error)


def test_learners_get_neither_solutions_nor_hidden_tests():
    text = nbformat.writes(released())
    for word in ("SOLUTION", "HIDDEN", "autograd.grad", "np.random", "Split by"):
        assert word not in text
    for name in WRONG:
        with pytest.raises(ArgumentError, match="There is no exercise"):
            hint(name, 3)


def test_points_and_minutes_are_what_the_text_says():
    texts = [c.source for c in SOURCE.cells if c.cell_type == "markdown"]
    said = [
        (int(found[1]), int(found[2]))
        for text in texts
        if (found := re.search(r"\*\*(\d+) points, about (\d+) minutes of work\.\*\*", text))
    ]
    points = [marks(c)["points"] for c in SOURCE.cells if marks(c).get("grade")]
    assert [each for each, _ in said] == points
    limit, whole = map(int, re.search(r"\*\*(\d+) minutes, (\d+) points\.\*\*", texts[0]).groups())
    assert sum(points) == whole
    assert sum(minutes for _, minutes in said) <= limit
    assert len([t for t in texts if re.match(r"## Question \d+: ", t)]) == len(points) == 10


def test_every_question_that_a_program_grades_has_two_wrong_answers():
    names = [marks(c)["grade_id"] for c in SOURCE.cells if marks(c).get("grade")]
    assert [name.removeprefix("test_") for name in names[:-1]] == list(WRONG)
    assert all(len({words for _, words in answers}) >= 2 for answers in WRONG.values())
