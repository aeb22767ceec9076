"""Make an nbgrader course folder with the exercises, one assignment for each notebook.

FOLDER/source/NN_*/NN_*.ipynb are copies of notebooks/solutions/, and FOLDER/nbgrader_config.py says
how solutions are taken out. notebooks/README_teachers.md tells what to do next. A folder that is a
course already keeps its gradebook, submissions and configuration; only source/ is renewed. The
examination, 20, is copied only if its number is given.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from make_exercises import ROOT, SOLUTIONS, STUB
from typer import Argument

from hfld_lite.storage.files import write_whole

EXAMINATION = ROOT / "notebooks" / "examination"

CONFIG = f"""# nbgrader's settings for the course; notebooks/README_teachers.md says what they do.
from nbgrader.converters import Autograde, GenerateFeedback
from nbgrader.preprocessors import Execute, GetGrades

from hfld_lite.course.grading import Collector, ScoresByExercise, SecondOpinion, Summary

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "hfld"
# As in notebooks/exercises/: nbgrader's own stub raises an error before the check can speak.
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
# LEARNER_NN_notebook.ipynb and what Moodle gives; notebooks of other names are left out.
c.ZipCollectApp.collector_plugin = Collector
c.ZipCollectApp.strict = True
# Longer than any exercise takes, so that a submission that never ends is stopped.
c.ExecutePreprocessor.timeout = 120
# After a submission was executed, its checks run once more where it cannot reach them.
steps = list(Autograde.autograde_preprocessors.default())
steps.insert(steps.index(Execute) + 1, SecondOpinion)
c.Autograde.autograde_preprocessors = steps
pages = list(GenerateFeedback.preprocessors.default())
pages.insert(pages.index(GetGrades) + 1, Summary)
c.GenerateFeedback.preprocessors = pages
c.ExportApp.plugin_class = ScoresByExercise
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, epilog="Example: python data_scripts/make_course.py ../course 03 04")
def main(
    folder: Annotated[Path, Argument(help="The course folder; made if it is not there.")],
    numbers: Annotated[
        list[str] | None, Argument(help="Which, by number; all exercises by default.")
    ] = None,
) -> None:
    """Write the folder."""
    exercises = sorted(SOLUTIONS.glob("*.ipynb"))
    known = [*exercises, *sorted(EXAMINATION.glob("*.ipynb"))]
    if unknown := {n for n in numbers or () if not any(p.name.startswith(n) for p in known)}:
        raise typer.BadParameter(
            f"there is no notebook {sorted(unknown)[0]!r} in solutions/ or examination/"
        )
    config = folder / "nbgrader_config.py"
    for source in known:
        if source.name.startswith(tuple(numbers)) if numbers else source in exercises:
            assignment = folder / "source" / source.stem
            assignment.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, assignment / source.name)
            print(f"assignment {source.stem}")
    if not config.exists():
        write_whole(config, CONFIG)


if __name__ == "__main__":
    app()
