"""Sweep the weights of the loss's terms: which of them does the student need, and how much of each?

L = α L_feature + μ L_tckd + ν L_nckd + L_ce, every combination of a few values, on simulated tiles:
*validation* accuracy, for notebook 07. With all three at 0 the student learns from labels alone.
All students of a seed begin with the same weights, see the same batches and have the same teachers.
"""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from _study import TILES_PER_CLASS, cells, start, tiles, write_table
from typer import Option

from hfld_lite.app.many import Scheduler
from hfld_lite.evaluation.together import train_together
from hfld_lite.hierarchy import Stage, Trainer

VALUES = (0.0, 0.3, 1.0)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def teachers(work: Path, seed: int) -> Trainer:
    """A trainer with teacher and secondary teacher, whose weights stay in the folder."""
    recordings, recipe = tiles(seed)
    folder = work / f"teachers {seed}"
    trainer = Trainer(recordings, recipe, progress=False, folder=folder, resume=True)
    trainer.supervise("teacher")
    trainer.distil("secondary_teacher", "teacher")
    return trainer


def learn(work: Path, seed: int, alpha: float) -> list[dict]:
    """The students of one seed with one weight of feature matching, trained together."""
    trainer = teachers(work, seed)
    trained = {role: stage.fit for role, stage in trainer.stages.items()}
    pairs = list(product(VALUES, VALUES))

    def student(trainer: Trainer, mu: float, nu: float) -> Stage:
        recipe = trainer.recipe.replace(alpha=alpha, mu=mu, nu=nu)
        name = f"student {alpha:g} {mu:g} {nu:g}"
        return trainer.distil("student", "secondary_teacher", recipe, name)

    jobs = [(trainer, partial(student, mu=mu, nu=nu)) for mu, nu in pairs]
    stages = train_together(jobs, progress=False)
    teacher = {f"{role}_accuracy": _best(fit)["accuracy"] for role, fit in trained.items()}
    return [
        {"seed": seed, "alpha": alpha, "mu": mu, "nu": nu, **_best(stage.fit), **teacher}
        for (mu, nu), stage in zip(pairs, stages, strict=True)
    ]


def _best(fit) -> dict:
    return {"accuracy": float(fit.history["validation_accuracy"].max()), "epoch": fit.best_epoch}


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over seeds, and the mean difference from labels alone."""
    alone = rows[(rows["alpha"] == 0) & (rows["mu"] == 0) & (rows["nu"] == 0)]
    against = alone.set_index("seed")["accuracy"]
    rows = rows.assign(against_alone=rows["accuracy"] - rows["seed"].map(against))
    table = rows.groupby(["alpha", "mu", "nu"]).agg(
        seeds=("seed", "nunique"),
        validation_accuracy=("accuracy", "mean"),
        deviation=("accuracy", "std"),
        against_alone=("against_alone", "mean"),
        lowest=("against_alone", "min"),
        highest=("against_alone", "max"),
        teacher=("teacher_accuracy", "mean"),
        secondary_teacher=("secondary_teacher_accuracy", "mean"),
    )
    return table.reset_index().round(4)


@app.command(help=__doc__, epilog="Example: python data_scripts/sweep_weights.py --jobs 2")
def main(
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 3,
    out: Annotated[Path, Option(help="The CSV file to write.")] = Path(
        "hfld_lite/results/weights_sweep.csv"
    ),
    work: Annotated[Path, Option(help="Where finished cells are kept.")] = Path("runs/weights"),
    jobs: Annotated[int, Option(help="Cells at a time, one core each.")] = 2,
    scheduler: Scheduler = None,
) -> None:
    """Run what is missing, and write the table."""
    drawn, work = list(range(seeds)), work.absolute()

    def teach(_: str, seed: int) -> list[dict]:
        teachers(work, seed)
        return []

    cells(teach, [("teach", seed) for seed in drawn], work, jobs, scheduler=scheduler)
    todo = [("learn", seed, alpha) for seed in drawn for alpha in VALUES]
    rows = cells(lambda _, *job: learn(work, *job), todo, work, jobs, scheduler=scheduler)
    table = summarise(rows)
    print(table.to_string(index=False))
    write_table(
        out,
        table,
        "VALIDATION accuracy of the student over the weights of its loss, mean and deviation over "
        "seeds; difference from labels alone (all weights 0): mean, lowest and highest seed.",
        f"Simulated tiles, six classes, {TILES_PER_CLASS} tiles a class, preset demo.",
        f"command: python data_scripts/sweep_weights.py --seeds {seeds}",
    )


if __name__ == "__main__":
    start(app)
