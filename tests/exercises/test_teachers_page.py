"""The page for teachers says of exercises, points, minutes and commands what is so."""

import re
from pathlib import Path

from test_examination import SOURCE
from test_guard import CHEATS

from hfld_lite.course.exercises.hints import catalogue
from hfld_lite.course.grading import Collector

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "notebooks" / "README_teachers.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
EXERCISES = catalogue()
WORDS = {16: "sixteen", 17: "seventeen", 18: "eighteen", 19: "nineteen", 20: "twenty"}


def test_there_are_thirty_exercises_and_more_and_the_page_has_each():
    rows = re.findall(r"^\| (\d\d) \| `(\w+)` \| .+ \| (\d+) \| (\d+) \|$", PAGE, re.M)
    assert rows == [
        (each["notebook"][:2], name, str(each["points"]), str(each["minutes"]))
        for name, each in EXERCISES.items()
    ]
    assert len(rows) >= 30
    points, minutes = (
        sum(each[key] for each in EXERCISES.values()) for key in ("points", "minutes")
    )
    assert f"{len(rows)} exercises, {points} points, {minutes} minutes of work." in PAGE


def test_the_timetables_fit():
    for title, whole in (("Two hours", 120), ("One day", 480)):
        (table,) = re.findall(rf"### {title}\n\n(.+?)\n\n", PAGE, re.S)
        slots = re.findall(r"^\| (\d+) \| (\w+) \| (.*)\|$", table, re.M)
        assert sum(int(minutes) for minutes, *_ in slots) == whole, title
        for minutes, notebook, exercises in slots:
            names = re.findall(r"`(\w+)`", exercises)
            assert all(EXERCISES[name]["notebook"].startswith(notebook) for name in names)
            assert sum(EXERCISES[name]["minutes"] for name in names) <= int(minutes), notebook


def test_the_semester_has_each_exercise_once_and_an_hour_of_homework_a_week():
    (table,) = re.findall(r"### A semester of twelve weeks\n.+?\n(\|.+?)\n\n", PAGE, re.S)
    rows = re.findall(r"^\| (\d+) \| (\d\d) \| (.+) \| (.+) \|$", table, re.M)
    assert [int(week) for week, *_ in rows] == list(range(1, 13))
    assert {number for _, number, *_ in rows} | {"10"} >= {path.name[:2] for path in NOTEBOOKS}
    found = [(row[1], name) for row in rows for name in re.findall(r"`(\w+)`", row[3])]
    assert sorted(name for _, name in found) == sorted(EXERCISES)
    for _, number, _, homework in rows:
        names = re.findall(r"`(\w+)`", homework)
        assert sum(EXERCISES[name]["minutes"] for name in names) <= 60, number
        if names != ["smallest"]:  # the challenge comes last
            assert all(EXERCISES[name]["notebook"].startswith(number) for name in names)


def test_the_answers_for_discussion_reach_every_notebook():
    text = (ROOT / "notebooks" / "README_discussion.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (\d\d) .+?\n(.+?)(?=^## |\Z)", text, re.S | re.M))
    for path in NOTEBOOKS:
        assert "**Discuss: " in parts[path.name[:2]], path.name
        if "**Predict" in path.read_text(encoding="utf-8"):
            assert "**Predict: " in parts[path.name[:2]], path.name


def test_what_the_page_says_of_cheats_and_of_the_examination_is_so():
    assert f"tries {WORDS[len(CHEATS)]} of them" in " ".join(PAGE.split())
    first = SOURCE.cells[0].source
    assert "**90 minutes, 45 points.**" in first
    assert "45 points, 90 minutes" in PAGE
    assert "make_course.py ../course 20" in PAGE
    for form in re.findall(r"\| `(.+)\.ipynb` \|$", PAGE, re.M):
        assert Collector().collect(f"/downloaded/03/extracted/{form}.ipynb")


def test_the_commands_are_those_that_the_class_test_runs():
    tried = (Path(__file__).parent / "test_class.py").read_text()
    for command in ("generate_assignment", "zip_collect", "autograde", "generate_feedback"):
        assert f"nbgrader {command} 03_logit_separation" in PAGE
        assert f'"{command}"' in tried
    assert (ROOT / "data_scripts" / "make_course.py").exists()
