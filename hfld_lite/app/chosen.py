"""A run's automatic choice: made once, kept in ``auto.csv``, and read again when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfld_lite.app.tables import read_tried
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.evaluation.choice import choose_recipe, chosen_before
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

FILE = "auto.csv"


def chosen(
    folder: Path,
    recipe: Recipe,
    recordings: Recordings,
    parts: Split | None,
    budget: float | None,
    progress: bool = True,
) -> Recipe:
    """The recipe that validation chooses; the same one again where the folder has the table.

    Args:
        folder: of the unfinished run.
        recipe, recordings, parts: of the run, before the choice.
        budget: see :func:`hfld_lite.evaluation.choice.choose_recipe`; None for no choice.
        progress: show a bar.

    Raises:
        HfldError: as `choose_recipe`, or if the table is damaged.
    """
    if budget is None:
        return recipe
    known = tried(folder)
    if known is not None:
        return chosen_before(recipe, known)
    choice = choose_recipe(recordings, recipe, parts, budget=budget, progress=progress)
    write_whole(folder / FILE, choice.table.to_csv(index=False))
    return choice.recipe


def tried(folder: Path) -> pd.DataFrame | None:
    """The table of a run's choice, or None if it made none.

    Raises:
        RecipeError: if it cannot be read.
    """
    try:
        return read_tried(folder)
    except FileNotFoundError:
        return None


def display_tried(table: pd.DataFrame) -> pd.DataFrame:
    """The table in words and units, a string in every cell."""
    import pandas as pd

    return pd.DataFrame(
        {
            "candidate": table["candidate"],
            "chosen": table["chosen"].map({True: "chosen", False: ""}),
            "steps": table["steps"].map("{:,}".format),
            "balanced accuracy on validation (± standard error)": [
                f"{100 * row.score:.1f} % ± {100 * row.standard_error:.1f}"
                for row in table.itertuples()
            ],
            "seconds": table["seconds"].map("{:.1f}".format),
        }
    )
