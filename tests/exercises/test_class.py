"""The way of a class with the real nbgrader: release, collect, grade, feedback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

ROOT = Path(__file__).parent.parent.parent
NAME = "03_logit_separation"
HALF = ("soften", "by_hand", "distil_loss")  # what the half-right submission answers: 1 + 2 + 3
# nbgrader calls alembic by name, as it finds it in an environment that is active.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def nbgrader(folder, *words):
    # One thread, a Jupyter of its own: nothing of the user's settings takes part.
    home = {"JUPYTER_CONFIG_DIR": str(folder / "jupyter"), "OMP_NUM_THREADS": "1", "PATH": PATH}
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words],
        cwd=folder,
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def solutions():
    notebook = nbformat.read(ROOT / "notebooks" / "solutions" / f"{NAME}.ipynb", 4)
    return {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }


def submit(released, path, answers):
    """A learner's notebook: what was released, with some cells filled in."""
    notebook = nbformat.read(released, 4)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers.get(name, cell.source)
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    program = ROOT / "data_scripts" / "make_course.py"
    subprocess.run([sys.executable, program, folder, "03"], check=True, capture_output=True)
    nbgrader(folder, "generate_assignment", NAME, "--create")
    released = folder / "release" / NAME / f"{NAME}.ipynb"
    right = solutions()
    half = {name: right[name] for name in HALF}
    # The broken one: a cell that is no Python, a wrong answer, and a check that was taken out.
    broken = {
        "soften": right["soften"],
        "by_hand": "tckd = = 3",
        "distil_loss": right["distil_loss"].replace("* temperature**2", ""),
        "check_distil_step": "print('Right. Trust me.')",
    }
    for student, answers in {"right": right, "half": half, "broken": broken}.items():
        handed_in = folder / "inbox" / f"{student}_{NAME}.ipynb"
        submit(released, folder / "work" / student / f"{NAME}.ipynb", answers)
        handed_in.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "work" / student / f"{NAME}.ipynb", handed_in)
    # Collected as README_teachers.md says: from a folder of files named by learner.
    archive = folder / "downloaded" / NAME / "archive"
    archive.mkdir(parents=True)
    for handed_in in (folder / "inbox").iterdir():
        shutil.copyfile(handed_in, archive / handed_in.name)
    nbgrader(folder, "zip_collect", NAME)
    nbgrader(folder, "autograde", NAME, "--create")
    nbgrader(folder, "generate_feedback", NAME)
    return folder


@pytest.mark.slow
def test_the_gradebook_has_the_expected_scores(course, monkeypatch):
    monkeypatch.setenv("PATH", PATH)
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        found = {s.student.id: s for s in book.assignment_submissions(NAME)}
        assert {s: each.max_score for s, each in found.items()} == dict.fromkeys(found, 16)
        assert {s: each.score for s, each in found.items()} == {"right": 16, "half": 6, "broken": 1}
        (broken,) = found["broken"].notebooks
        scores = {grade.cell.name: grade.score for grade in broken.grades}
        assert scores["check_soften"] == 1
        assert sum(scores.values()) == 1


@pytest.mark.slow
def test_the_released_notebook_is_the_one_in_the_repository(course):
    released = nbformat.read(course / "release" / NAME / f"{NAME}.ipynb", 4)
    ours = nbformat.read(ROOT / "notebooks" / "exercises" / f"{NAME}.ipynb", 4)
    assert [(c.id, c.source, c.metadata) for c in released.cells] == [
        (c.id, c.source, c.metadata) for c in ours.cells
    ]


@pytest.mark.slow
def test_feedback_names_the_mistake(course):
    pages = {
        path.parent.parent.name: path.read_text() for path in course.glob("feedback/*/*/*.html")
    }
    assert set(pages) == {"right", "half", "broken"}
    assert "T² is forgotten" in pages["broken"]
    assert "is not answered yet" in pages["half"]
    assert "Not yet." not in pages["right"]
