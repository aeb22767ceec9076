"""The same training with several seeds: mean, deviation, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.metrics import mean_interval
from hfld_lite.evaluation.together import KNOWN_CONTROLS, chains_together
from hfld_lite.hierarchy import distill_chain
from hfld_lite.recipes import Recipe

if TYPE_CHECKING:
    import pandas as pd

STUDENT = "student"
"""The method that all others are taken from."""


class Repeats(NamedTuple):
    """What several seeds gave.

    ``runs`` has a row for each seed and method: seed, method, accuracy, macro_recall. ``table`` is
    :func:`summary` of it.
    """

    runs: pd.DataFrame
    table: pd.DataFrame


def over_seeds(
    data: Recordings | Dataset, recipe: Recipe, seeds: int | Iterable[int] = 5, **options: Any
) -> Repeats:
    """Train and test the chain once for each seed, each with its own split and initial weights.

    The networks of one role are trained together where that is possible (see `evaluation.together`,
    which also says how their results may differ in rounding from those of `distill_chain`): in
    about half the time, with the data and activations of all seeds in memory at once.

    Args:
        data, recipe: see :class:`hfld_lite.hierarchy.Trainer`.
        seeds: how many, from the recipe's seed on, or the seeds themselves.
        options: of :func:`hfld_lite.hierarchy.distill_chain`, such as ``auto`` and ``progress``; in
            ``folder`` every seed gets a folder of its own, with a checkpoint of each finished
            stage. With ``auto`` or a control of your own, the seeds are trained one by one.

    Raises:
        ArgumentError: if there is no seed, or one is given twice.
    """
    import pandas as pd

    chosen = [*(range(recipe.seed, recipe.seed + seeds) if isinstance(seeds, int) else seeds)]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ArgumentError(
            f"seeds is {seeds!r}; give a number of 1 or more, or seeds that differ."
        )
    folder, recipes = options.pop("folder", None), [recipe.replace(seed=seed) for seed in chosen]
    folders = [folder and Path(folder) / f"seed_{seed}" for seed in chosen]
    if options.get("auto") or {*options.get("controls", ())} - {*KNOWN_CONTROLS}:
        each = zip(recipes, folders, strict=True)
        chains = (distill_chain(data, own, **options, folder=place) for own, place in each)
    else:
        options.pop("auto", None)
        chains = chains_together(data, recipes, folders=folders, **options)
    tests = zip(chosen, chains, strict=True)
    runs = [scores(chain.test(data).table, seed) for seed, chain in tests]
    rows = pd.concat(runs, ignore_index=True)
    return Repeats(rows, summary(rows))


def scores(table: pd.DataFrame, seed: int, method: str = "role") -> pd.DataFrame:
    """Rows of :class:`Repeats` from a test's table; ``method`` is the column with the names."""
    import pandas as pd

    return pd.DataFrame(
        {
            "seed": seed,
            "method": table[method],
            "accuracy": table["accuracy"],
            "macro_recall": table["macro_recall"],
        }
    )


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of every method, and how much better the student is.

    Args:
        runs: as :class:`Repeats` has them.

    Returns:
        A row for each method, in their order: method, seeds, accuracy and macro_recall (means),
        deviation (sample standard deviation of the accuracy over seeds; NaN for one seed), and of
        the accuracy's paired difference, student minus method, over the seeds that have both, the
        mean ``student_minus`` and its 95 % t interval over seeds, ``low`` and ``high`` (NaN for
        the student itself; the interval also for one seed and for equal differences).
    """
    import pandas as pd

    wide = runs.pivot(index="seed", columns="method", values="accuracy")
    table = []
    for method, part in runs.groupby("method", sort=False):
        row = {"method": method, "seeds": len(part), "accuracy": part["accuracy"].mean()}
        row |= {"deviation": part["accuracy"].std(ddof=1)}
        row |= {"macro_recall": part["macro_recall"].mean()}
        row |= dict.fromkeys(("student_minus", "low", "high"), np.nan)
        if method != STUDENT and STUDENT in wide:
            pairs = wide[[STUDENT, method]].dropna().to_numpy()
            if len(pairs):
                found = mean_interval(pairs[:, 0] - pairs[:, 1])
                row |= {"student_minus": found.difference, "low": found.low, "high": found.high}
        table.append(row)
    return pd.DataFrame(table)
