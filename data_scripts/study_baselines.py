"""Fit the simple baselines on the study's main data, with its seeds, splits and recipes.

Tiles and the bearings by block, as run_study.py has them: each baseline learns from the training
part, the validation part chooses its candidate, and the test part is read once a seed. A program
that was stopped resumes where it was.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from _data import bearings_case, presets, tiles_case
from _study import TILES_PER_CLASS, cells, write_table
from typer import Option

from hfld_lite.evaluation.baselines import USUAL, fit_baselines

TILES, BEARINGS = "tiles", "bearings block"
STORED = Path("hfld_lite/results/study_baselines.csv")
PREFERRED = "preferred by validation"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(folder: Path, tiles: int, data: str, seed: int) -> list[dict]:
    """The baselines of one data set and seed; a row each, and one for that which is preferred."""
    recipes = dict(zip((TILES, BEARINGS), presets(None), strict=True))
    if data == TILES:
        case = tiles_case("", seed, recipes[data], tiles)
    else:
        case = bearings_case("block", seed, recipes[data], folder)
    found = fit_baselines(case.recordings, case.parts, case.recipe, USUAL)
    table = found.table.assign(data=data, seed=seed)
    title = table["baseline"] + " on " + table["input"]
    best = table[title == found.best.title].assign(baseline=PREFERRED, input="")
    return pd.concat([table, best]).to_dict("records")


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each data set and baseline; accuracies in %, mean and deviation over seeds."""
    names = ["validation_accuracy", "accuracy", "macro_recall"]
    rows = rows.assign(**{name: 100 * rows[name] for name in names})
    table = rows.groupby(["data", "baseline", "input"], sort=False, dropna=False).agg(
        seeds=("seed", "size"),
        validation_accuracy=("validation_accuracy", "mean"),
        test_accuracy=("accuracy", "mean"),
        deviation=("accuracy", "std"),
        balanced_accuracy=("macro_recall", "mean"),
        seconds=("seconds", "mean"),
    )
    return table.round(2).reset_index()


@app.command(help=__doc__, epilog="Example: python data_scripts/study_baselines.py data/bearings")
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")] = Path(
        "data/bearings"
    ),
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 10,
    tiles: Annotated[int, Option(min=4, help="Tiles a class.")] = TILES_PER_CLASS,
    data: Annotated[list[str], Option(help=f'Data sets, "{TILES}" or "{BEARINGS}".')] = (
        TILES,
        BEARINGS,
    ),
    out: Annotated[Path, Option(help="The CSV file to write.")] = STORED,
    work: Annotated[Path, Option(help="Where finished cells are kept.")] = Path("runs/baselines"),
    jobs: Annotated[int, Option(help="Cells at a time, one core each.")] = 1,
) -> None:
    """Run what is missing, and write the table."""
    if unknown := sorted(set(data) - {TILES, BEARINGS}):
        raise typer.BadParameter(f"--data is {unknown[0]!r}; choose {TILES} or {BEARINGS!r}.")
    todo = [(name, seed) for name in data for seed in range(seeds)]
    rows = cells(partial(run, folder, tiles), todo, work / str(tiles), jobs)
    table = summarise(rows)
    print(table.to_string(index=False))
    write_table(
        out,
        table,
        f"Simple baselines on the study's data, seeds 0 to {seeds - 1}: TEST accuracy in %, mean "
        "and deviation over seeds. The networks' view is that of the study's recipes.",
        f"{PREFERRED}: of each seed, the baseline of the best validation accuracy. seconds: of one "
        "training with all its candidates, on one core.",
        f"tiles: simulated, six classes, {tiles} tiles a class; {BEARINGS}: known bearings, 11 "
        "classes, in noise, tested on blocks that are the same for every seed.",
        "command: python data_scripts/study_baselines.py data/bearings"
        + f" --seeds {seeds}" * (seeds != 10)
        + f" --tiles {tiles}" * (tiles != TILES_PER_CLASS),
    )


if __name__ == "__main__":
    app()
