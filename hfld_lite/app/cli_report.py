"""The command `hfld report`, and how `hfld train` makes the report of a finished run."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from hfld_lite.app.console import RunFolder, console, print_comparison
from hfld_lite.app.runs import load_run
from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import HfldError


def report(
    run: RunFolder,
    data: Annotated[
        Path | None, Option(help="Where the run's recordings are now, if they were moved.")
    ] = None,
) -> None:
    """Make the figures and report.html of a finished run again, and baselines that it lacks.

    Without the recordings the picture of what the networks read is left out.
    """
    try:
        recordings = load_run(run).recordings(folder=data)
    except HfldError as error:
        load_run(run)  # a damaged run is an error; recordings that are gone are a note
        warnings.warn(f"The picture of what the networks read is left out. {error}", stacklevel=1)
        recordings = None
    if not reported(run, recordings):
        raise typer.Exit(2)


def reported(
    run: Path, recordings: Recordings | None = None, examples: Examples | None = None
) -> bool:
    """Make a finished run's report; where that fails, say how to repeat it, and return False.

    Args:
        run: folder of the run.
        recordings, examples: see :func:`hfld_lite.app.report.report_run`.
    """
    try:
        from hfld_lite.app.report import report_run  # it loads matplotlib

        print_comparison(report_run(run, recordings, examples, console.print))
        console.print(f"see {run / 'report.html'}")
        return True
    except (Exception, KeyboardInterrupt) as error:  # whatever figures, fonts and disks raise
        said = "it was stopped" if isinstance(error, KeyboardInterrupt) else _first_line(error)
        print(
            f"hfld: {run}: the report failed ({said}); the run is finished and safe; make the "
            f"report again with: hfld report {run}",
            file=sys.stderr,
        )
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from error
        return False


def _first_line(error: Exception) -> str:
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return said if isinstance(error, HfldError) else f"{type(error).__name__}: {said}"
