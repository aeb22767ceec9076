"""The page for teachers says of exercises, points, minutes and commands what is so."""

import re
from pathlib import Path

from hfld_lite.course.exercises.hints import catalogue

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "notebooks" / "README_teachers.md").read_text(encoding="utf-8")
EXERCISES = catalogue()


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


def test_the_commands_are_those_that_the_class_test_runs():
    tried = (Path(__file__).parent / "test_class.py").read_text()
    for command in ("generate_assignment", "zip_collect", "autograde", "generate_feedback"):
        assert f"nbgrader {command} 03_logit_separation" in PAGE
        assert f'"{command}"' in tried
    assert (ROOT / "data_scripts" / "make_course.py").exists()
