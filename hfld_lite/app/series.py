"""Runs of several seeds in one folder: ``seed_0``, ``seed_1``, …, and what they say together.

Each is trained by itself, not by `evaluation.together` as `over_seeds` does: each run resumes from
its last epoch, and has the bits that the same seed gives alone. Bits depend on the number of
threads, so all runs of a series have the same, whether they are trained one after the other,
several at once, or on a cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hfld_lite.app.many import finish_all
from hfld_lite.app.runs import FACTS, read_object, unfinished
from hfld_lite.app.tables import read_baselines, read_results
from hfld_lite.app.unfinished import BEGUN, begin_run
from hfld_lite.errors import HfldError, RecipeError
from hfld_lite.evaluation.repeats import scores, summary
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import write_whole
from hfld_lite.storage.locks import lock_beside, unlock_beside

if TYPE_CHECKING:
    import pandas as pd

TABLE, PAGE = "seeds.csv", "seeds.html"

NOTE = (
    "Each seed has its own split and initial weights. The deviation is that of a single run, over "
    "seeds; the interval, at 95 %, is that of the mean difference, paired by seed (t interval over "
    "seeds; none for one seed or where all have the same difference). Test parts of several seeds "
    "share recordings."
)

_SEED = re.compile(r"seed_(\d+)(\.unfinished)?")


def runs_of(out: Path) -> list[Path]:
    """The run folders of a series, finished or not, in order; none if it is not a series."""
    found = [_SEED.fullmatch(path.name) for path in out.iterdir()] if out.is_dir() else []
    numbers = {int(match[1]) for match in found if match}
    return [out / f"seed_{number}" for number in sorted(numbers)]


def whole(run: Path) -> Path:
    """The folder to resume: the series that a run belongs to, or the run itself."""
    return run.parent if _SEED.fullmatch(run.name) and len(runs_of(run.parent)) > 1 else run


def series_place(out: Path, count: int, fresh: bool) -> Path:
    """Check the place of a new series, and give the folder of its first run.

    Raises:
        RecipeError: if the count is below 1, or the place is taken.
    """
    if count < 1:
        raise RecipeError(f"--seeds is {count}; expected 1 or more.")
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    runs = runs_of(out)
    others = {name for name in there if not _SEED.fullmatch(name) and ".lock" not in name}
    if out.is_file() or others - {TABLE, PAGE} or unfinished(out).exists():
        raise RecipeError(f"{out} holds other files or a run; choose a new folder for the seeds.")
    if runs and not fresh:
        raise RecipeError(
            f"{out} holds runs of several seeds already; finish them with `hfld train --resume "
            f"{out}`, add --fresh to replace them, or choose another folder."
        )
    for run in runs:
        for folder, mark in ((run, FACTS), (unfinished(run), BEGUN)):
            if folder.exists() and not (folder / mark).exists():
                raise RecipeError(f"{folder} holds other files; choose a new folder.")
    return out / "seed_0"


def begin_all(first: Path, count: int, recipe: Recipe, **given: Any) -> None:
    """Begin all runs, with the arguments of :func:`begin_others`, and train none.

    Raises:
        RecipeError: if another process is training one of those that are there.
    """
    for part in map(unfinished, runs_of(first.parent)):
        if part.exists():
            unlock_beside(lock_beside(part), part)
    shutil.rmtree(unfinished(first), ignore_errors=True)
    unfinished(first).mkdir(parents=True)
    begin_others(first, count, recipe, **given)
    begin_run(unfinished(first), recipe, **given)


def begin_others(first: Path, count: int, recipe: Recipe, *begun: Any, **given: Any) -> None:
    """Begin all runs but the first, so that resuming finds them whenever the command is stopped.

    The runs of an earlier series stay until new ones replace them; those beyond the count go.

    Args:
        first: folder of the first run.
        count: of all.
        recipe: of the first; each further one has the next seed.
        begun, given: further arguments of :func:`hfld_lite.app.runs.begin_run`.
    """
    out = first.parent
    for run in runs_of(out):
        if run != first:
            shutil.rmtree(unfinished(run), ignore_errors=True)
        if int(run.name.removeprefix("seed_")) >= count:
            shutil.rmtree(run, ignore_errors=True)
    for name in (TABLE, PAGE):
        (out / name).unlink(missing_ok=True)
    for number in range(1, count):
        part = unfinished(out / f"seed_{number}")
        part.mkdir()
        begin_run(part, recipe.replace(seed=recipe.seed + number), *begun, **given)


def withdraw(first: Path) -> None:
    """Remove what :func:`begin_others` began, after a refusal before any training."""
    for run in runs_of(first.parent):
        if run != first:
            shutil.rmtree(unfinished(run), ignore_errors=True)


def missing(out: Path) -> list[Path]:
    """The runs of a series that are not finished.

    Raises:
        RecipeError: if one is gone, or none is unfinished and the table is there.
    """
    runs = runs_of(out)
    gone = [f"seed_{number}" for number in range(len(runs)) if out / f"seed_{number}" not in runs]
    if gone:
        raise RecipeError(f"{out}: {gone[0]} is missing; start the seeds again with --fresh.")
    left = [r for r in runs if unfinished(r).exists() or not (r / FACTS).exists()]
    if not left and (out / TABLE).exists():
        raise RecipeError(f"{out} is finished; see {out / PAGE}.")
    return left


def series_threads() -> int:
    """Threads of each training of a series: one, or what the user's OMP_NUM_THREADS says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else 1


def train_runs(
    out: Path,
    runs: Sequence[Path],
    train: Callable[[Path], bool],
    at_once: int,
    scheduler: str | None,
    quiet: bool,
) -> bool:
    """Train unfinished runs of a series in processes of this machine, or on a Dask cluster.

    The process that trains a run writes it into the run's folder, which the workers must see.

    Args:
        out: folder of the series.
        runs: their folders.
        train: trains one of them, and gives whether its report was made.
        at_once, scheduler: see :func:`hfld_lite.app.many.finish_all`.
        quiet: show no progress.

    Returns:
        Whether all reports were made.

    Raises:
        typer.Exit: with 2 if some failed, with 130 after Ctrl-C; how to resume is printed.
    """
    told: dict[str, bool] = {}
    data = {read_object(unfinished(run) / BEGUN)["data"].get("folder") for run in runs}
    try:
        finish_all(
            train,
            [(run.name, (run.absolute(),)) for run in runs],
            len(runs),
            lambda name, made, _: told.update({name: made}),
            at_once,
            scheduler,
            folders=[out, *(Path(folder) for folder in data if folder)],
            threads=series_threads(),
            progress=not quiet,
            what="seeds",
            again="",
        )
    except (HfldError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        where = f"--scheduler {scheduler}" if scheduler else f"--jobs {at_once}"
        said = "Stopped." if stopped else str(error)
        print(f"hfld: {said} Resume with: hfld train --resume {out} {where}", file=sys.stderr)
        raise typer.Exit(130 if stopped else 2) from error
    for name in (name for name, made in told.items() if not made):
        said = f"hfld: {out / name} has no report; make it with: hfld report {out / name}"
        print(said, file=sys.stderr)
    return all(told.values())


def write_series(out: Path, command: str) -> pd.DataFrame:
    """Write ``seeds.csv`` and ``seeds.html`` of the finished runs; give the table to be shown.

    Raises:
        RecipeError: if a run's results cannot be read.
    """
    import pandas as pd

    from hfld_lite.app.report import render  # it loads matplotlib

    runs = pd.concat([_scores(run) for run in runs_of(out)], ignore_index=True)
    table = summary(runs)
    write_whole(out / TABLE, table.to_csv(index=False))
    cells = shown(table)
    count = runs["seed"].nunique()
    page = render(
        "seeds.html",
        title=f"{count} seeds",
        lead=f"The same training with the seeds {', '.join(map(str, runs['seed'].unique()))}.",
        columns=list(cells.columns),
        rows=cells.to_numpy().tolist(),
        note=NOTE,
        runs=[
            (run.name, f"{run.name}/report.html" if (run / "report.html").exists() else "")
            for run in runs_of(out)
        ],
        command=command,
    )
    write_whole(out / PAGE, page)
    return cells


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`hfld_lite.evaluation.repeats.summary` in percent and points."""
    import pandas as pd

    def points(row: Any) -> str:
        if pd.isna(row.student_minus):
            return ""
        if pd.isna(row.low):
            return f"{100 * row.student_minus:+.1f} (no interval)"
        low, high = (f"{100 * end:+.1f}" for end in (row.low, row.high))
        return f"{100 * row.student_minus:+.1f} ({low} to {high})"

    return pd.DataFrame(
        {
            "network or baseline": table["method"].str.replace("_", " "),
            "test accuracy ± deviation, %": [
                f"{100 * row.accuracy:.1f}"
                + ("" if pd.isna(row.deviation) else f" ± {100 * row.deviation:.1f}")
                for row in table.itertuples()
            ],
            "student minus it, points": [points(row) for row in table.itertuples()],
        }
    )


def _scores(run: Path) -> pd.DataFrame:
    """A finished run's networks and baselines, if it has any."""
    import pandas as pd

    seed = Recipe.load(run / "recipe.json").seed
    found = [scores(read_results(run), seed)]
    with suppress(FileNotFoundError):
        baselines, _ = read_baselines(run)
        names = baselines["baseline"] + ", " + baselines["input"]
        found.append(scores(baselines.assign(role=names), seed))
    return pd.concat(found, ignore_index=True)
