"""A training on good parts alone, as `hfld train --good` asks for it, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfld_lite.app.console import console, print_rows
from hfld_lite.app.estimate import Estimate, estimate
from hfld_lite.app.runs import Run
from hfld_lite.app.tables import read_scores
from hfld_lite.app.unfinished import Wanted
from hfld_lite.data.good_parts import FALSE_ALARMS, said_of_conditions, split_good, told_apart
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.errors import RecipeError, look_up
from hfld_lite.evaluation.detector import Detector
from hfld_lite.evaluation.good_parts import (
    GoodParts,
    by_kind,
    count_of,
    measured,
    probabilities,
    promise,
    sound_rows,
    train_good,
)
from hfld_lite.evaluation.scores import FEATURES, SCORES, promised
from hfld_lite.recipes import ALONE, Recipe

if TYPE_CHECKING:
    import pandas as pd

SCORES_NOTE = (
    "AUC: the chance that a defective recording has a higher score than a good one. Partial AUC: "
    "the same up to 10 % false alarms, scaled so that 0.5 is chance. Misses and false alarms are "
    "those at the limit. Intervals are at 95 %, over groups. The score trust is the distance by "
    "which predict warns of unusual recordings."
)

NO_GOOD = "No good recording was there, so AUC and false alarms are unknown."

NO_DEFECTS = (
    "No defective recording was there, so AUC and misses are unknown: the figures only say how "
    "often good parts are called defective."
)


def check_good(given: Mapping[str, Any]) -> None:
    """Refuse options that a training on good parts has no use for.

    Args:
        given: values by option; None or False where not given.

    Raises:
        RecipeError: it names the first.
    """
    why = {
        "auto": "chooses by defects",
        "teacher": "knows other classes",
        "devices": "trains one chain in several processes, which is not built for good parts",
        "baselines": "learn from defects; the other scores stand in their place",
    }
    for name, value in given.items():
        if value:
            raise RecipeError(f"--{name} {why[name]}; leave it out of a training on good parts.")


def wanted_good(
    recipe: Recipe, false_alarms: float | None, score: str | None, use_defects: bool
) -> Wanted:
    """What is asked for, checked as far as that is possible without recordings.

    Raises:
        RecipeError: if the share or the recipe is impossible.
        ArgumentError: if the score is unknown.
    """
    if false_alarms is not None and not 0 < false_alarms < 0.5:
        raise RecipeError(f"--false-alarms is {false_alarms:g}; give a share above 0, below 0.5.")
    if score is not None:
        look_up(SCORES, score, "Score")
    if recipe.behaviour != "sound":
        raise RecipeError(
            "The recipe behaves as the released code does, which knows no training on good parts; "
            "choose another preset."
        )
    return Wanted(false_alarms=false_alarms, score=score, use_defects=use_defects)


def parts_of(recordings: Recordings, recipe: Recipe, wanted: Wanted) -> Split:
    """The split of a training on good parts; raises as :func:`split_good` does."""
    return split_good(
        recordings,
        test=recipe.test,
        false_alarms=wanted.false_alarms,
        use_defects=wanted.use_defects,
        seed=recipe.seed,
    )


def check_training_good(
    recordings: Recordings,
    recipe: Recipe,
    wanted: Wanted,
    conditions: Sequence[str] = (),
    seeds: int = 1,
) -> tuple[str, Estimate | None]:
    """Refuse what cannot be trained; say what the limit will promise, and how long it takes.

    Args:
        recordings, recipe, wanted: of the first run.
        conditions: expressions that find a condition in a file's name.
        seeds: how many runs there will be, each with the next seed.

    Raises:
        HfldError: as the training would.
    """
    for seed in range(recipe.seed + seeds - 1, recipe.seed - 1, -1):  # the first is kept
        parts = parts_of(recordings, recipe.replace(seed=seed), wanted)
    said = said_of_good(recordings, parts, wanted, conditions)
    pretext, inner = told_apart(recordings, parts, recipe.seed)
    return "\n".join(said), estimate(pretext, recipe, inner)


def said_of_good(
    recordings: Recordings, parts: Split, wanted: Wanted, conditions: Sequence[str] = ()
) -> list[str]:
    """What the limit will promise, what defective recordings are for, and what looks wrong.

    Args:
        recordings, wanted, conditions: as :func:`check_training_good` gets them.
        parts: of :func:`parts_of`.
    """
    calibration = sound_rows(recordings, parts.validation)
    groups = recordings.groups[calibration]
    rate = promised(groups, wanted.false_alarms, FALSE_ALARMS)
    said = [promise(rate, len(np.unique(groups)), count_of(recordings, calibration))]
    if wanted.false_alarms is None and rate > FALSE_ALARMS:
        said.append(
            f"A promise of {FALSE_ALARMS:.0%} needs {round(1 / FALSE_ALARMS) - 1} good groups in "
            "the validation part; record more good parts."
        )
    testing, choosing = (
        count_of(recordings, rows[recordings.labels[rows] == 1])
        for rows in (parts.test, parts.validation)
    )
    defects = f"{testing} defective recordings test it"
    if not testing:
        defects = NO_DEFECTS
    elif wanted.use_defects:
        what = "the limit of unsure" if wanted.score else "the score and the limit of unsure"
        defects = f"{choosing} defective recordings choose {what}, {defects}"
    said.append(defects.rstrip(".") + ".")
    said += [f"warning: {text}" for text in said_of_conditions(recordings, parts, conditions)]
    return said


def trained_good(
    recordings: Recordings, recipe: Recipe, wanted: Wanted, **options: Any
) -> GoodParts:
    """Train as asked for; ``options`` are those of :func:`train_good`."""
    parts = parts_of(recordings, recipe, wanted)
    return train_good(recordings, recipe, parts, **wanted.model_dump(), **options)


def scores_of(folder: Path) -> pd.DataFrame | None:
    """The table ``scores.csv`` of a run; None in a run with defects in its training."""
    try:
        return read_scores(folder)
    except FileNotFoundError:
        return None


def measured_scores(
    detector: Detector, recordings: Recordings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures of a run's networks on recordings with the classes good and defective.

    Returns:
        A row for each network, as in ``scores.csv``, and for the network that answers a row for
        each kind of part, see :func:`hfld_lite.evaluation.good_parts.by_kind`.
    """
    import pandas as pd

    inputs = detector.inputs(recordings.signals)
    suspicion = {role: probabilities(each, inputs) for role, each in detector.networks.items()}
    chain = (*detector.recipe.chain, ALONE)
    rows = [
        {"score": FEATURES if role in chain else role, "role": role} | measured(found, recordings)
        for role, found in suspicion.items()
    ]
    return pd.DataFrame(rows), by_kind(suspicion[detector.answering], recordings)


def print_scores(run: Run, table: pd.DataFrame | None = None) -> None:
    """Print the scores of a run on good parts, what they are, and what the limit promises.

    Args:
        run: also one that learned from defects, of which nothing is printed.
        table: of scores; by default the run's own.
    """
    table = scores_of(run.folder) if table is None else table
    if table is None:
        return
    shown = display_scores(table)
    print_rows(list(shown.columns), shown.to_numpy().tolist())
    for said in notes(run, table):
        console.print(said)


def notes(run: Run, table: pd.DataFrame) -> list[str]:
    """What is to be said below a run's table of scores."""
    unknown = {
        NO_DEFECTS: table["miss_rate"].isna().all(),
        NO_GOOD: table["false_alarm_rate"].isna().all(),
    }
    answers = f"The score {run.facts['good_parts']['score']} answers. {run.promise}"
    return [SCORES_NOTE, *(said for said, is_so in unknown.items() if is_so), answers]


def display_scores(table: pd.DataFrame) -> pd.DataFrame:
    """A table of scores in words and units, a string in every cell.

    Args:
        table: of :meth:`GoodParts.table`.
    """
    import pandas as pd

    def cell(row: Any, value: str, ends: str, percent: bool) -> str:
        names = (value, f"{ends}_low", f"{ends}_high")
        figures = [getattr(row, name) for name in names]
        if figures[0] is None or np.isnan(figures[0]):
            return "unknown"
        first, low, high = (100 * f if percent else f for f in figures)
        form = "{:.1f} % ({:.1f} to {:.1f})" if percent else "{:.3f} ({:.3f} to {:.3f})"
        return form.format(first, low, high)

    rows = list(table.itertuples())
    partial = [row.partial_auc for row in rows]
    return pd.DataFrame(
        {
            "score": [row.score for row in rows],
            "network": [_of(row).replace("_", " ") for row in rows],
            "AUC": [cell(row, "auc", "auc", False) for row in rows],
            "partial AUC": ["unknown" if p is None or np.isnan(p) else f"{p:.3f}" for p in partial],
            "misses at the limit": [cell(row, "miss_rate", "miss", True) for row in rows],
            "false alarms": [cell(row, "false_alarm_rate", "false", True) for row in rows],
        }
    )


def _of(row: Any) -> str:
    """The network of a row; a score without roles has its own name there."""
    return row.role if isinstance(row.role, str) and row.role not in ("", row.score) else "–"
