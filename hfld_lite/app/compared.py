"""A run's networks beside simple baselines: fitted after the test, kept in ``baselines.csv``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfld_lite.app.runs import Run, or_note
from hfld_lite.app.tables import read_baselines, roles_in
from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import ArgumentError, RecipeError, look_up
from hfld_lite.evaluation.baselines import BASELINES, USUAL, Baselines, compare, fit_baselines
from hfld_lite.evaluation.detector import TestResult
from hfld_lite.storage.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

FILE = "baselines.csv"
"""In a run's folder: the table, and above it, behind #, the sentence."""

NONE = "none"


@dataclass(frozen=True)
class Comparison:
    """The baselines' table, see `Baselines`, and whether the student beats the best of them."""

    table: pd.DataFrame
    sentence: str

    def save(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_whole(folder / FILE, f"# {self.sentence}\n{self.table.to_csv(index=False)}")

    @classmethod
    def load(cls, folder: Path) -> Comparison | None:
        """That of a run; None, with a note if it is damaged, where there is none."""
        try:
            return cls(*read_baselines(folder))
        except FileNotFoundError:
            return None
        except RecipeError as error:
            warnings.warn(str(error), stacklevel=2)
            return None


def wanted_baselines(given: Iterable[str] | None) -> tuple[str, ...]:
    """The baselines' names: the usual ones and those given, or none of them for "none".

    Raises:
        ArgumentError: if a name is unknown, "none" is not alone, or a package is missing.
    """
    given = list(given or ())
    if NONE in given:
        if len(given) > 1:
            raise ArgumentError("--baselines is none and others; give none alone, or leave it out.")
        return ()
    names = tuple(dict.fromkeys((*USUAL, *given)))
    for name in names:
        look_up({**BASELINES, NONE: None}, name, "Baseline")(None, 0)
    return names


def compared(
    run: Run,
    data: Recordings | Examples,
    predictions: pd.DataFrame,
    names: Iterable[str],
    say: Callable[[str], None] = print,
) -> Comparison | None:
    """Fit baselines on a finished run's split and compare; a note and None if that fails.

    Args:
        run: whose split and recipe these are.
        data: that it was trained on.
        predictions: of its test, see `TestResult`.
        names: of the baselines.
        say: takes a line of progress.
    """

    def fit() -> Comparison:
        began = time.perf_counter()
        found = fit_baselines(data, run.split, run.detector.recipe, tuple(names))
        took = time.perf_counter() - began
        say(f"baselines: {', '.join(names)}, on the same split, {took:.1f} s")
        return _comparison(found, predictions)

    return or_note(_LEFT_OUT, fit)


def compared_on(
    run: Run, recordings: Recordings, result: TestResult, names: Iterable[str]
) -> Comparison | None:
    """Fit baselines on a run's own training part and compare on other recordings.

    Where that fails (the run's recordings are gone or have changed, say), it is a note and None.

    Args:
        run: of the networks.
        recordings: that the networks were measured on.
        result: of that.
        names: of the baselines.
    """

    def fit() -> Comparison:
        found = fit_baselines(run.recordings(), run.split, run.detector.recipe, names)
        return _comparison(found.test(recordings), result.predictions)

    return or_note(_LEFT_OUT, fit)


_LEFT_OUT = "The baselines are left out; the networks' figures stand."


def _comparison(baselines: Baselines, predictions: pd.DataFrame) -> Comparison:
    roles = roles_in(predictions)
    role = "student" if "student" in roles else roles[-1]
    return Comparison(baselines.table, compare(predictions, baselines, role))
