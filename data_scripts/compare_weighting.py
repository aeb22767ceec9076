"""Compare the ways to balance the four terms, on validation data, at equal budget.

For each data set and seed, a teacher and a secondary teacher are trained once (equal fixed
weights); then the same student, from the same initial weights and for the same number of steps,
learns from the secondary teacher with each strategy. Random search gets the same steps in all:
four draws of fixed weights (uniform on the simplex) for an eighth each, and the best of them, by
validation, for the remaining half. All give up the same tenth of the training part, from which
"meta" draws its meta batches. The test part is not read.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from _study import BEARINGS_SNR, TILES_PER_CLASS, bearings, cells, start, tiles, write_table
from typer import Option

from hfld_lite.app.many import Scheduler
from hfld_lite.evaluation.metrics import mean_interval
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.recipes import Recipe
from hfld_lite.storage.randomness import derive_seed
from hfld_lite.weighting import TERMS

STRATEGIES = ("fixed", "published", "naive", "uncertainty", "meta")
DRAWS = 4
META_SHARE = 0.1
META_EVERY = 10
NAMES = ("alpha", "mu", "nu", "beta")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def search(trainer: Trainer, recipe: Recipe) -> tuple[Stage, float]:
    """Random search over fixed weights within the budget of one training; its stage and seconds."""
    rng = np.random.default_rng(derive_seed(recipe.seed, "random search"))
    epochs = recipe.student.epochs
    tried = []
    for draw in range(DRAWS):
        weights = dict(zip(NAMES, (4 * rng.dirichlet(np.ones(4))).tolist(), strict=True))
        stage = trainer.distil(
            "student",
            "secondary_teacher",
            recipe.replace(**weights),
            f"draw {draw}",
            epochs=max(1, epochs // (2 * DRAWS)),
        )
        tried.append((stage.fit.history["validation_accuracy"].max(), draw, weights, stage))
    best = max(tried, key=lambda entry: entry[:2])
    stage = trainer.distil(
        "student", "secondary_teacher", recipe.replace(**best[2]), "search", epochs=epochs // 2
    )
    return stage, stage.fit.seconds + sum(entry[3].fit.seconds for entry in tried)


def run(data: str, seed: int, folder: str, beside: Path = Path()) -> list[dict]:
    """The rows of one data set and seed; the bearings' folder is relative to ``beside``."""
    recordings, recipe = tiles(seed) if data == "tiles" else bearings(beside / folder, seed)
    recipe = recipe.replace(meta_share=META_SHARE, meta_every=META_EVERY)
    trainer = Trainer(recordings, recipe, progress=False)
    trainer.supervise("teacher")
    trainer.distil("secondary_teacher", "teacher")
    trained = {"alone": trainer.supervise("student_alone")}
    for strategy in STRATEGIES:
        chosen = recipe.replace(weighting=strategy)
        trained[strategy] = trainer.distil("student", "secondary_teacher", chosen, strategy)
    seconds = {name: stage.fit.seconds for name, stage in trained.items()}
    trained["random search"], seconds["random search"] = search(trainer, recipe)
    trained |= {name: trainer.stages[name] for name in ("teacher", "secondary_teacher")}
    rows = []
    for name, stage in trained.items():
        history = stage.fit.history
        best = history.set_index("epoch").loc[stage.fit.best_epoch]
        rows.append(
            {
                "data": data,
                "seed": seed,
                "strategy": name,
                "validation_accuracy": float(best["validation_accuracy"]),
                **{
                    t: float(history[f"weight_{t}"].iloc[-1])
                    for t in TERMS
                    if f"weight_{t}" in history
                },
                "seconds": float(seconds.get(name, stage.fit.seconds)),
                "verdict": history["verdict"].iloc[-1],
            }
        )
    return rows


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over seeds, and the paired difference from fixed weights.

    The interval is a t interval over seeds; "fixed" has none against itself.
    """
    rows = []
    for data, part in table.groupby("data", sort=False):
        wide = part.pivot(index="seed", columns="strategy", values="validation_accuracy")
        for strategy in part["strategy"].unique():
            found = mean_interval(wide[strategy] - wide["fixed"])
            mine = part[part["strategy"] == strategy]
            rows.append(
                {
                    "data": data,
                    "strategy": strategy,
                    "seeds": len(mine),
                    "validation_accuracy": wide[strategy].mean(),
                    "deviation": wide[strategy].std(),
                    "against_fixed": found.difference,
                    "low": found.low,
                    "high": found.high,
                    **{term: mine[term].mean() for term in TERMS},
                    "seconds": mine["seconds"].mean(),
                    "collapsed": int((mine["verdict"] != "").sum()),
                }
            )
    return pd.DataFrame(rows).round(4)


@app.command(help=__doc__, epilog="Example: python data_scripts/compare_weighting.py data/bearings")
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")],
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 5,
    out: Annotated[Path, Option(help="The CSV file to write.")] = Path(
        "hfld_lite/results/weighting_strategies.csv"
    ),
    work: Annotated[Path, Option(help="Where finished cells are kept.")] = Path("runs/weighting"),
    jobs: Annotated[int, Option(help="Cells at a time, one core each.")] = 2,
    scheduler: Scheduler = None,
    data: Annotated[list[str], Option(help="Data sets.")] = ("tiles", "bearings"),
) -> None:
    """Run what is missing, and write the table."""
    todo = [(name, seed, str(folder)) for name in data for seed in range(seeds)]
    here, there = partial(run, beside=Path.cwd()), [folder] if "bearings" in data else []
    rows = cells(here, todo, work.absolute(), jobs, None, scheduler, there)
    table = summarise(rows)
    print(table.to_string(index=False))
    write_table(
        out,
        table,
        "The student's VALIDATION accuracy by the way to balance the terms; mean and deviation "
        "over seeds, and the paired difference from equal fixed weights with a 95 % t "
        "interval over seeds. Weights are those of the last epoch; collapsed counts seeds. meta "
        f"updates its weights at every {META_EVERY}th step.",
        f"tiles: simulated, six classes, {TILES_PER_CLASS} tiles a class, preset demo; bearings: "
        f"known bearings, 11 classes, white noise at {BEARINGS_SNR:g} dB, preset classroom.",
        f"command: python data_scripts/compare_weighting.py data/bearings --seeds {seeds}",
    )


if __name__ == "__main__":
    start(app)
