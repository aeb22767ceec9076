"""``python -m hfld_lite``: all commands of ``hfld``, and the tasks of a clone of the repository.

They are the same on every system and need no make; the targets of the Makefile call them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from hfld_lite.app.cli import app, main
from hfld_lite.errors import ArgumentError

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest")
HIDDEN = ("solutions", "examination", "__pycache__", "*.py[co]", "*~")
"""What JupyterLab does not list: files for teachers, and what it hides by itself."""
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300")


def demo(
    fresh: Annotated[bool, Option("--fresh", help="Discard an earlier demo.")] = False,
) -> None:
    """Train the chain on simulated tiles, about 3 minutes."""
    run = Path("runs") / "demo"
    if (run / "run.json").exists() and not fresh:
        app(["info", str(run)], standalone_mode=False)
        print(f"This run exists already, with its page {run / 'report.html'}; redo it with --fresh")
    elif run.with_name("demo.unfinished").exists() and not fresh:
        print("resuming the demo that was stopped; start over with --fresh")
        app(["train", "--resume", str(run)])
    else:
        app(["train", "--preset", "demo", "--out", str(run), *(["--fresh"] if fresh else [])])


def test() -> None:
    """Check the style, run all tests and all notebooks."""
    _run(PYTHON, "-m", "ruff", "check", ".")
    _run(PYTHON, "-m", "ruff", "format", "--check", ".")
    _run(*PYTEST, "tests", "-m", "timed", "-rP")  # what measures time runs by itself
    _run(*PYTEST, "tests", "notebooks", "-m", "not timed", *NBVAL,
         "--ignore=notebooks/exercises", "-n", "2", "--dist", "loadscope")  # fmt: skip


def soak() -> None:
    """Kill 20 trainings and a watch, damage 2,000 files, and print the outcome."""
    _run(PYTHON, "tests/soak.py", "--kills", "20")
    _run(PYTHON, "tests/soak.py", "--burst", "5000")
    _run(*PYTEST, "tests/test_fuzz.py", "-s", HFLD_FUZZ_CASES="2000")


def notebooks() -> None:
    """Execute all notebooks anew and store their outputs."""
    _run(PYTHON, "data_scripts/execute_notebooks.py")
    _run(PYTHON, "data_scripts/execute_notebooks.py", "--solutions")


def exercises() -> None:
    """Make the learners' notebooks and hints from notebooks/solutions/."""
    _run(PYTHON, "data_scripts/make_exercises.py")


def book() -> None:
    """Make the course as pages that need no Python: build/book/index.html."""
    _run(PYTHON, "data_scripts/make_book.py")


def slides() -> None:
    """Make slides of the notebooks that need no network: build/slides/index.html."""
    _run(PYTHON, "data_scripts/make_slides.py")


def lab() -> None:
    """Open JupyterLab on the first notebook."""
    # Its root is the clone, so that links from notebooks to README.md work.
    first = "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"
    # Learners do not need to see the solutions beside the exercises; all files are still served.
    hidden = [f"--ContentsManager.hide_globs={name}" for name in HIDDEN]
    _run(PYTHON, "-m", "jupyter", "lab", "--ServerApp.root_dir=.", first, *hidden)


def bench() -> None:
    """Print the benchmarks' ratios."""
    _in_clone()
    missed = []
    for program in sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py")):
        try:
            _run(PYTHON, program)
        except Exit:
            missed.append(program.name)
    if missed:
        print("A target was missed, or the program failed:", *missed)
        raise Exit(1)


TASKS = (demo, test, soak, notebooks, exercises, book, slides, lab, bench)


def _in_clone() -> None:
    if not (ROOT / "data_scripts").exists():
        raise ArgumentError(
            f"{ROOT} has no data_scripts/, so it is not a clone of the repository: clone it, and "
            "install it there with pip install -c constraints.txt -e .[dev]"
        )


def _run(*command: str | Path, **environment: str) -> None:
    """Run a program in the clone; end with its status if it fails."""
    _in_clone()
    signal.signal(signal.SIGINT, lambda *_: None)  # what Ctrl-C does, the program decides
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment)
    if done.returncode:
        raise Exit(done.returncode)


if __name__ == "__main__":
    for task in TASKS:
        app.command(rich_help_panel="In a clone of the repository")(task)
    main()
