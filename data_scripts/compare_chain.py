"""Compare student alone, direct, densely guided and by the hierarchy, on the test part, read once.

For each data set and seed the whole chain is trained with its controls: all students begin with the
same weights, see the same batches in the same order and take the same number of steps. The interval
is a paired bootstrap over seeds and, within them, over tiles (or blocks of time).
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from _study import BEARINGS_SNR, TILES_PER_CLASS, bearings, cells, tiles, write_table
from typer import Option

from hfld_lite.detector import ALONE
from hfld_lite.hierarchy import distill_chain
from hfld_lite.metrics import paired_interval
from hfld_lite.recipes import Recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(data: str, seed: int, folder: str) -> list[dict]:
    """The rows of one data set and seed, with every test recording's outcome."""
    recordings, recipe = tiles(seed) if data == "tiles" else bearings(Path(folder), seed)
    controls = ("alone", "direct", "dense")
    chain = distill_chain(recordings, recipe, controls=controls, progress=False)
    test = chain.detector.test(recordings.select(chain.split.test), costs=False)
    known = test.predictions
    return [
        {
            "data": data,
            "seed": seed,
            "method": row.role,
            "accuracy": row.accuracy,
            "miss_rate": row.miss_rate,
            "false_alarm_rate": row.false_alarm_rate,
            "seconds": chain.stages[row.role].fit.seconds,
            "right": (known[row.role] == known["class"]).tolist(),
            "groups": known["group"].tolist(),
        }
        for row in test.table.itertuples()
    ]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over seeds, and the paired difference from the student alone."""
    rng, rows = np.random.default_rng(0), []
    for (data, method), part in table.groupby(["data", "method"], sort=False):
        alone = table[(table["data"] == data) & (table["method"] == ALONE)]
        pairs = part.merge(alone, on="seed", suffixes=("", "_alone"))
        runs = [(r.right, r.right_alone, r.groups) for r in pairs.itertuples()]
        difference, low, high, _ = paired_interval(runs, rng)
        rows.append(
            {
                "data": data,
                "method": method,
                "seeds": len(part),
                "accuracy": part["accuracy"].mean(),
                "deviation": part["accuracy"].std(),
                "against_alone": difference,
                "low": low,
                "high": high,
                "miss_rate": part["miss_rate"].mean(),
                "false_alarm_rate": part["false_alarm_rate"].mean(),
                "seconds": part["seconds"].mean(),
            }
        )
    return pd.DataFrame(rows).round(4)


@app.command(help=__doc__, epilog="Example: python data_scripts/compare_chain.py data/bearings")
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")],
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 5,
    out: Annotated[Path, Option(help="The CSV file to write.")] = Path(
        "notebooks/results/chain_against_controls.csv"
    ),
    work: Annotated[Path, Option(help="Where finished cells are kept.")] = Path("runs/chain"),
    jobs: Annotated[int, Option(help="Cells at a time, one core each.")] = 2,
    data: Annotated[list[str], Option(help="Data sets.")] = ("tiles", "bearings"),
) -> None:
    """Run what is missing, and write the table."""
    repeats = Recipe().repeats(seeds)
    todo = [(name, repeat.seed, str(folder)) for name in data for repeat in repeats]
    table = summarise(cells(run, todo, work, jobs))
    print(table.to_string(index=False))
    write_table(
        out,
        table,
        "TEST accuracy, mean and deviation over seeds, and the paired difference from the student "
        "alone with a 95 % bootstrap interval over seeds and tiles (or blocks of time).",
        f"tiles: simulated, six classes, {TILES_PER_CLASS} tiles a class, preset demo; bearings: "
        f"known bearings, 11 classes, white noise at {BEARINGS_SNR:g} dB, preset classroom.",
        f"command: python data_scripts/compare_chain.py data/bearings --seeds {seeds}",
    )


if __name__ == "__main__":
    app()
