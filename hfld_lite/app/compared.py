"""A run's networks beside simple baselines: fitted after the test, kept in ``baselines.csv``."""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from hfld_lite.app.runs import Run
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import ArgumentError, HfldError, look_up
from hfld_lite.evaluation.baselines import BASELINES, USUAL, Baselines, compare, fit_baselines
from hfld_lite.evaluation.detector import TestResult
from hfld_lite.hierarchy import Chain
from hfld_lite.storage.files import write_whole

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
    def load(cls, folder: Path) -> "Comparison | None":
        """That of a run; None, with a note if it is damaged, where there is none."""
        try:
            sentence, _, table = (folder / FILE).read_text(encoding="utf-8").partition("\n")
            found = cls(pd.read_csv(StringIO(table)), sentence.removeprefix("# "))
            if not {"baseline", "input", "accuracy", "low", "high"} <= set(found.table):
                raise ValueError("columns are missing")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            warnings.warn(f"{folder / FILE} cannot be read ({error}).", stacklevel=2)
            return None
        return found


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
    chain: Chain, result: TestResult, names: Iterable[str], say: Callable[[str], None] = print
) -> Comparison | None:
    """Fit baselines on a trained chain's split and compare; None for no names.

    A failure costs the training nothing: it is a note, and None is returned.

    Args:
        chain: trained.
        result: of its test.
        names: of the baselines.
        say: takes a line of progress.
    """
    names = tuple(names)
    if not names:
        return None

    def fit() -> Comparison:
        began = time.perf_counter()
        found = fit_baselines(chain.examples, chain.split, chain.recipe, names)
        say(
            f"baselines: {', '.join(names)}, on the same split, {time.perf_counter() - began:.1f} s"
        )
        return _comparison(found, result)

    return _or_note(fit)


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
        return _comparison(found.test(recordings), result)

    return _or_note(fit)


def _comparison(baselines: Baselines, result: TestResult) -> Comparison:
    role = "student" if "student" in result.predictions else result.table["role"].iloc[-1]
    return Comparison(baselines.table, compare(result.predictions, baselines, role))


def _or_note(fit: Callable[[], Comparison]) -> Comparison | None:
    try:
        return fit()
    except Exception as error:  # whatever another package raises: a finished training is not lost
        said = str(error) if isinstance(error, HfldError) else f"{type(error).__name__}: {error}"
        warnings.warn(
            f"The baselines are left out; the networks' figures stand. {said}", stacklevel=3
        )
        return None
