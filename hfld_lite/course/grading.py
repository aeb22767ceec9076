"""What a class adds to nbgrader: collecting, a second opinion on each check, feedback and scores.

``data_scripts/make_course.py`` names these plugins in a course's ``nbgrader_config.py``;
``notebooks/README_teachers.md`` tells how to use them. nbgrader is in the extra ``teach``.
"""

import csv
import html
import re
from pathlib import Path
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin, FileNameCollectorPlugin
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets import Integer

import hfld_lite
from hfld_lite.course.guard import Cell, judge

TITLE = re.compile(r"^## (?:Exercise|Question) \d+: .+", re.M)
NOTEBOOK = r"(?P<file_id>\d\d_[A-Za-z]\w*)"
MOODLE = r"(?P<student_id>[^/\\]+?)_(?P<number>\d+)_assignsubmission_file_?"
FORMS = (
    re.compile(rf"{MOODLE}/(?:.*/)?{NOTEBOOK}"),  # a folder for each learner
    re.compile(rf"(?:.*/)?{MOODLE}{NOTEBOOK}"),  # all files in one folder
    re.compile(rf"(?:.*/)?(?P<student_id>[^/]+)_{NOTEBOOK}"),  # LEARNER_NN_notebook.ipynb
)
COPIED = re.compile(r"(?: ?\(\d+\)|-Copy\d+)$")
"""What a browser and JupyterLab add to the name of a second copy."""


class Collector(FileNameCollectorPlugin):
    """Learner and notebook from a file's place: Moodle's forms, or ``LEARNER_NN_notebook.ipynb``.

    LEARNER may hold underscores; spaces become underscores. The number in Moodle's form differs
    from assignment to assignment, so it only tells learners of one name apart.
    """

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.seen: dict[tuple[str, str], str] = {}

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """``student_id`` and ``file_id``, or None for a file that is not a submission."""
        path = Path(submitted_file)
        parts = path.parts[path.parts.index("extracted") + 1 :]
        hidden = {"__MACOSX", ".ipynb_checkpoints"} & set(parts) or path.name.startswith("._")
        if hidden or path.suffix != ".ipynb":
            return None
        place = COPIED.sub("", "/".join(parts).removesuffix(".ipynb"))
        # A teacher may have put Moodle's whole archive there, which adds a folder above.
        found = next((match for form in FORMS for match in _tails(form, place)), None)
        if not found:
            return None
        learner = re.sub(r"\s+", "_", found["student_id"].strip())
        number, file = found.groupdict().get("number") or "", found["file_id"]
        before = self.seen.setdefault((learner, file), number)
        if before != number:
            raise SystemExit(
                f"Two learners are called {learner!r} in Moodle's archive, with the numbers "
                f"{before or 'none'} and {number or 'none'}: rename one of the two folders."
            )
        if self.seen.setdefault((learner, f"{file} from"), submitted_file) != submitted_file:
            self.log.warning("%s handed in %s twice; %s is left out", learner, file, path.name)
            return None
        return {"student_id": learner, "file_id": file}


def _tails(form: re.Pattern[str], place: str) -> list[re.Match[str]]:
    """Where a form matches a path's last parts to their end; the longest first."""
    parts = place.split("/")
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return [match for tail in tails if (match := form.fullmatch(tail))]


PACKAGE = Path(hfld_lite.__file__).parent
AT_START = {path: path.read_bytes() for path in PACKAGE.rglob("*.py")}
"""The package's programs when grading began: a submission could write to them."""


def put_back() -> list[str]:
    """Write back what differs from :data:`AT_START`; the names of these files in the package."""
    changed = []
    for path, content in AT_START.items():
        if not path.exists() or path.read_bytes() != content:
            changed.append(path.relative_to(PACKAGE.parent).as_posix())
            path.write_bytes(content)
    return changed


class SecondOpinion(NbGraderPreprocessor):
    """Take the points of a test cell that passed in the submission's own kernel only.

    It runs after nbgrader has executed a submission. Each graded cell whose check does not pass in
    :func:`hfld_lite.course.guard.judge` gets an error as its output, which scores 0 and names the
    exercise.
    """

    seconds = Integer(600, help="How long the second run of a submission may take.").tag(
        config=True
    )

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Replace outputs in place."""
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        checks = [cell for cell in code if is_grade(cell) and not is_solution(cell)]
        cells = [
            Cell(_name(c), _source(c), c in checks, is_locked(c) and c not in checks) for c in code
        ]
        folder = resources.get("metadata", {}).get("path") or "."
        changed = put_back()  # in the kernel, before the second run would read it
        said = judge(cells, self.seconds, folder)
        if changed := changed + put_back():
            said = dict.fromkeys(said, f"The submission changes {changed[0]}, a part of its check.")
        titles = exercise_titles(nb)
        for cell in checks:
            if sentence := said[_name(cell)]:
                where = titles.get(_name(cell), _name(cell))
                text = f"{where}: not yet. {sentence}"
                cell.outputs = [
                    new_output("error", ename="NotRight", evalue=sentence, traceback=[text])
                ]
        return nb, resources


def _name(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id") or cell.id


def _source(cell: NotebookNode) -> str:
    """The cell's code, without what nbgrader had to interrupt: it would not end here either."""
    hung = any(output.get("ename") == "CellTimeoutError" for output in cell.outputs)
    return "raise TimeoutError('This cell ran longer than it may.')" if hung else cell.source


def exercise_titles(notebook: NotebookNode) -> dict[str, str]:
    """What the text above each graded cell is headed, as in "Exercise 4: The loss", by its name."""
    titles, last = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := TITLE.search(cell.source)):
            last = found[0].removeprefix("## ").strip()
        elif is_grade(cell) and last:
            titles[_name(cell)] = last
    return titles


class Summary(NbGraderPreprocessor):
    """Begin a page of feedback with a table: exercise, score, what the check says.

    It runs after nbgrader's ``GetGrades``, which puts the scores into the cells.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Insert a text cell before all others."""
        titles = exercise_titles(nb)
        lines = ["| exercise | score | what the check says |", "|---|---|---|"]
        for cell in nb.cells:
            if is_grade(cell):
                marks = cell.metadata.nbgrader
                errors = [out.evalue for out in cell.get("outputs", []) if "evalue" in out]
                by_hand = "graded by a person" if is_solution(cell) else ""
                said = errors[0] if errors else by_hand or ("right" if marks.score else "")
                said = html.escape(" ".join(said.split())).replace("|", "&#124;")
                title = titles.get(marks.grade_id, marks.grade_id)
                lines.append(f"| {title} | {marks.score:g} of {marks.points:g} | {said} |")
        nb.cells.insert(0, new_markdown_cell("\n".join(lines)))
        return nb, resources


class ScoresByExercise(ExportPlugin):
    """``nbgrader export``: a CSV with a row for each learner, a column for each exercise.

    The first row holds the points that there are. What was not handed in is empty, and so is a text
    that a person has yet to grade.
    """

    def export(self, gradebook: Gradebook) -> None:
        """Write the table to ``--to``, ``grades.csv`` by default."""
        wanted = [
            a for a in gradebook.assignments if not self.assignment or a.name in self.assignment
        ]
        columns = [
            (assignment, cell)
            for assignment in sorted(wanted, key=lambda each: each.name)
            for notebook in assignment.notebooks
            for cell in notebook.grade_cells
        ]
        names = [
            f"{assignment.name[:2]} {cell.name.removeprefix('check_').removeprefix('test_')}"
            for assignment, cell in columns
        ]
        best = [cell.max_score for _, cell in columns]
        students = [s for s in gradebook.students if not self.student or s.id in self.student]
        with Path(self.to or "grades.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["learner", "last_name", "first_name", *names, "late_penalty", "total"])
            table.writerow(["(points)", "", "", *best, "", sum(best)])
            for student in sorted(students, key=lambda each: each.id):
                scores: list[float | str] = []
                for assignment, cell in columns:
                    try:
                        found = gradebook.find_grade(
                            cell.name, cell.notebook.name, assignment.name, student.id
                        )
                        waits = found.auto_score is None and found.manual_score is None
                        scores.append("" if waits else found.score)
                    except MissingEntry:
                        scores.append("")
                late = sum(_penalty(gradebook, each.name, student.id) for each in wanted)
                total = max(0.0, sum(score for score in scores if score != "") - late)
                row = [student.id, student.last_name or "", student.first_name or ""]
                table.writerow([*row, *scores, late, total])


def _penalty(gradebook: Gradebook, assignment: str, student: str) -> float:
    try:
        return gradebook.find_submission(assignment, student).late_submission_penalty
    except MissingEntry:
        return 0.0
