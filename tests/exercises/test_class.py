"""The way of a class with the real nbgrader: release, collect, grade, feedback."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from hfld_lite.course import grading
from hfld_lite.course.grading import Collector

ROOT = Path(__file__).parent.parent.parent
NAME = "03_logit_separation"
HANDED_IN = (  # in both of Moodle's forms, and with a name that has an underscore
    f"moodle/Given Family_1234567_assignsubmission_file_/{NAME}.ipynb",
    f"moodle/Ana Díaz_1234568_assignsubmission_file_{NAME}.ipynb",
    f"the_cheat_{NAME}.ipynb",
)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    program = ROOT / "data_scripts" / "make_course.py"
    subprocess.run([sys.executable, program, folder, "03"], check=True, capture_output=True)
    nbgrader(folder, "generate_assignment", NAME, "--create")
    released = folder / "release" / NAME / f"{NAME}.ipynb"
    right = solutions()
    # The broken one: a cell that is no Python, a wrong answer, and a check that was taken out.
    broken = {
        "soften": right["soften"],
        "by_hand": "tckd = = 3",
        "distil_loss": right["distil_loss"].replace("* temperature**2", ""),
        "check_distil_step": "print('Right. Trust me.')",
    }
    # It passes everything in its own kernel, and answers one exercise.
    cheat = {
        "soften": "def check_soften(*answers): print('Right. Trust me.')\nsoften = 0",
        "by_hand": "import sys\nfor name in ('', '.e03_logit_separation', '.answers'):\n"
        "    module = sys.modules[f'hfld_lite.course.exercises{name}']\n"
        "    module.check_by_hand = module.expect = module.compare = print\ntckd = nckd = 1",
        "distil_loss": right["distil_loss"],
        "separate": "get_ipython().showtraceback = lambda *a, **k: None",
    }
    archive = folder / "downloaded" / NAME / "archive"
    for place, answers in zip(HANDED_IN, (right, broken, cheat), strict=True):
        submit(released, archive / place, answers)
    shutil.make_archive(archive / "moodle", "zip", archive / "moodle")
    shutil.rmtree(archive / "moodle")
    nbgrader(folder, "zip_collect", NAME)
    nbgrader(folder, "autograde", NAME, "--create")
    nbgrader(folder, "generate_feedback", NAME)
    nbgrader(folder, "export")
    return folder


@pytest.mark.slow
def test_the_scores_are_as_expected_and_a_cheat_gets_none(course):
    with (course / "grades.csv").open(encoding="utf-8") as file:
        points, *rows = csv.DictReader(file)
    assert points["03 soften"] == "1.0"
    assert points["total"] == "16.0"
    found = {row["learner"]: row for row in rows}
    totals = {learner: float(row["total"]) for learner, row in found.items()}
    assert totals == {"Given_Family": 16, "Ana_Díaz": 1, "the_cheat": 3}
    assert float(found["Ana_Díaz"]["03 soften"]) == 1
    assert [k.removeprefix("03 ") for k, v in found["the_cheat"].items() if v == "3.0"] == [
        "distil_loss",
        "total",
    ]


@pytest.mark.slow
def test_the_released_notebook_is_the_one_in_the_repository(course):
    released = nbformat.read(course / "release" / NAME / f"{NAME}.ipynb", 4)
    ours = nbformat.read(ROOT / "notebooks" / "exercises" / f"{NAME}.ipynb", 4)
    assert [(c.id, c.source, c.metadata) for c in released.cells] == [
        (c.id, c.source, c.metadata) for c in ours.cells
    ]


@pytest.mark.slow
def test_feedback_names_the_exercise_and_the_mistake(course):
    pages = {
        path.parent.parent.name: path.read_text() for path in course.glob("feedback/*/*/*.html")
    }
    assert len(pages) == 3
    lost = "<td>Exercise 4: The loss of distillation</td>\n<td>{} of 3</td>\n<td>{}"
    assert lost.format(0, "T² is forgotten") in pages["Ana_Díaz"]
    assert "Exercise 4: The loss of distillation: not yet. T² is forgotten" in pages["Ana_Díaz"]
    assert lost.format(3, "right") in pages["the_cheat"]
    assert "The answer defines check_soften anew" in pages["the_cheat"]
    assert "is not answered yet" in pages["Ana_Díaz"]
    assert "not yet." not in pages["Given_Family"].lower()


def collect(places):
    """What the collecting command takes each file for: learner and notebook, or nothing."""
    collector = Collector()
    found = (collector.collect(f"/course/downloaded/03/extracted/{place}") for place in places)
    return [each and (each["student_id"], each["file_id"]) for each in found]


def test_the_collecting_command_knows_moodles_forms_and_underscores():
    moodle = "Given Family_123_assignsubmission_file_"
    mine = ("Given_Family", NAME)
    for place, expected in {
        f"{moodle}/{NAME}.ipynb": mine,
        f"Course-03-99/{moodle}/{NAME}.ipynb": mine,
        f"{moodle}/my work/{NAME}.ipynb": mine,
        f"{moodle}{NAME}.ipynb": mine,
        f"{moodle}/{NAME} (1).ipynb": mine,
        f"{moodle}/{NAME}-Copy1.ipynb": mine,
        f"anna_maria_2_{NAME}.ipynb": ("anna_maria_2", NAME),
        f"s_12_{NAME}.ipynb": ("s_12", NAME),
        f"O'Neil-Ångström_{NAME}.ipynb": ("O'Neil-Ångström", NAME),
        f"{moodle}/.ipynb_checkpoints/{NAME}-checkpoint.ipynb": None,
        f"__MACOSX/{moodle}/._{NAME}.ipynb": None,
        f"{moodle}/onlinetext.html": None,
        f"{NAME}.ipynb": None,
        f"{moodle}/my answers.ipynb": None,
    }.items():
        assert collect([place]) == [expected], place


def test_a_second_copy_is_left_out_and_namesakes_are_refused():
    moodle = "Given Family_{}_assignsubmission_file_/" + NAME
    copies = [f"{moodle.format(1)}.ipynb", f"{moodle.format(1)} (1).ipynb"]
    assert collect(copies) == [("Given_Family", NAME), None]
    with pytest.raises(SystemExit, match="Two learners are called 'Given_Family'"):
        collect([f"{moodle.format(1)}.ipynb", f"{moodle.format(2)}.ipynb"])


def test_a_file_of_the_package_that_a_submission_wrote_to_is_put_back(tmp_path, monkeypatch):
    for name in ("kept.py", "changed.py", "removed.py"):
        (tmp_path / name).write_bytes(b"as it was")
    monkeypatch.setattr(grading, "PACKAGE", tmp_path)
    monkeypatch.setattr(grading, "AT_START", {p: b"as it was" for p in tmp_path.iterdir()})
    (tmp_path / "changed.py").write_text("def check(*answers): pass")
    (tmp_path / "removed.py").unlink()
    submission = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("print('Right.')")
    marks = {"grade": True, "solution": False, "locked": True, "grade_id": "check_it", "points": 1}
    cell.metadata["nbgrader"] = marks | {"schema_version": 3, "task": False}
    submission.cells = [nbformat.v4.new_markdown_cell("## Exercise 1: It"), cell]
    monkeypatch.setattr(grading, "judge", lambda cells, *_: {each.name: "" for each in cells})
    graded, _ = grading.SecondOpinion().preprocess(submission, {})
    (output,) = graded.cells[1].outputs
    assert output.traceback[0].startswith("Exercise 1: It: not yet. The submission changes ")
    assert "changed.py, a part" in output.evalue or "removed.py, a part" in output.evalue
    assert {p.read_bytes() for p in tmp_path.iterdir()} == {b"as it was"}
    assert grading.put_back() == []
