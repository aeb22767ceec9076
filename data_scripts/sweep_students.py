"""Sweep the student's depth, width, head and input bins: what it costs, what it hears.

For each number of bins and each seed a teacher and a secondary teacher are trained once, after the
preset demo, on six classes of simulated tiles. Each student is then trained alone and distilled
from the secondary teacher: same initial weights, same batches, same number of steps. The students
are compared on validation data. One of them is chosen there (see `choose`), and it alone, with its
teacher, is measured on the test part, in float32 and in eight bits.

A stopped program resumes where it was; finished cells are not computed again.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from _study import TILES_PER_CLASS, cells, start, tiles, write_table
from safetensors.torch import load_file, save_file
from typer import Option

from hfld_lite.app.many import Scheduler
from hfld_lite.app.style import png
from hfld_lite.course.figures import front as front_figure
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.views import network_inputs
from hfld_lite.edge.analysis import count_macs, latency, stored_bytes
from hfld_lite.edge.export import INPUT, quantise, session, to_onnx
from hfld_lite.errors import HfldError
from hfld_lite.evaluation.metrics import evaluate
from hfld_lite.evaluation.together import train_together
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.networks import count_parameters, resnet1d
from hfld_lite.recipes import Network, Recipe
from hfld_lite.storage.files import write_whole
from hfld_lite.storage.history import Fit

DEPTHS, WIDTHS, BINS = (10, 18), (1 / 16, 1 / 8, 1 / 4), (875, 1750, 3500)
PUBLISHED_HEAD = (10, 1 / 16)
"""The one student that is also tried with the published head: it costs a million parameters."""

CALIBRATION = 200
"""Training recordings that tell the ranges of the activations."""

BUDGET_BYTES, BUDGET_MACS = 20_000, 30_000_000
"""The goal's bytes in INT8, and the operations of the DCASE low-complexity budget."""

ROLES = ("teacher", "secondary_teacher")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def students() -> list[tuple[int, float, str]]:
    """Depth, width and head of every student."""
    plain = [(depth, width, "small") for depth, width in itertools.product(DEPTHS, WIDTHS)]
    return [*plain, (*PUBLISHED_HEAD, "published")]


def setting(bins: int, seed: int, student: Network | None = None) -> tuple[Recordings, Recipe]:
    """The recordings of a seed, and the recipe with other bins and another student."""
    recordings, recipe = tiles(seed)
    recipe = recipe.replace(bins=bins, bins_by="cutting")
    return recordings, recipe.replace(student=student) if student else recipe


def _accuracy(stage: Stage) -> float:
    history = stage.fit.history.set_index("epoch")
    return float(history.loc[stage.fit.best_epoch, "validation_accuracy"])


def _keep(stage: Stage, work: Path, *name: object) -> None:
    weights = stage.network.state_dict()
    write_whole(_weights(work, *name), lambda part: save_file(weights, part))


def _weights(work: Path, *name: object) -> Path:
    return work / ("-".join(str(part).replace("/", "_") for part in name) + ".safetensors")


def teach(work: Path, _kind: str, bins: int, seed: int) -> list[dict]:
    """Train the two teachers of some bins and a seed, keep their weights."""
    trainer = Trainer(*setting(bins, seed), progress=False)
    stages = [trainer.supervise("teacher"), trainer.distil("secondary_teacher", "teacher")]
    rows = []
    for stage in stages:
        _keep(stage, work, stage.role, bins, seed)
        seconds = stage.fit.seconds
        rows.append({"bins": bins, "seed": seed, "method": stage.role, "seconds": seconds})
        rows[-1]["validation_accuracy"] = _accuracy(stage)
    return rows


def learn(work: Path, bins: int, seed: int, depth: int, width: float, head: str) -> list[dict]:
    """Train one student alone and distilled, both at once: they read the same batches."""
    recordings, recipe = setting(bins, seed)
    epochs = recipe.student.epochs
    recipe = recipe.replace(student=Network(depth, width, head, epochs=epochs))
    trainer = Trainer(recordings, recipe, progress=False)
    for role in ROLES:
        spec = recipe.chain[role]
        network = resnet1d(spec.depth, len(recordings.class_names), spec.width, spec.head)
        network.load_state_dict(load_file(_weights(work, role, bins, seed)))
        fit = Fit([], 0, 0.0)
        trainer.stages[role] = Stage(role, network.eval(), "kept weights", fit)
    ways = {
        "alone": lambda t: t.supervise("student_alone"),
        "distilled": lambda t: t.distil("student", "secondary_teacher"),
    }
    stages = train_together([(trainer, way) for way in ways.values()], progress=False)
    rows = []
    for method, stage in zip(ways, stages, strict=True):
        _keep(stage, work, method, bins, seed, depth, width, head)
        rows.append(
            {
                "bins": bins,
                "seed": seed,
                "depth": depth,
                "width": width,
                "head": head,
                "method": method,
                "validation_accuracy": _accuracy(stage),
                "seconds": stage.fit.seconds,
            }
        )
    return rows


def costs(bins: int, depth: int, width: float, head: str) -> dict[str, float]:
    """Costs of a student; its weights' values do not matter to them."""
    torch.manual_seed(0)
    network = resnet1d(depth, 6, width, head).eval()
    inputs = torch.rand(CALIBRATION, bins).numpy()
    exact = to_onnx(network, bins)
    found: dict[str, float] = {
        "parameters": count_parameters(network),
        "int8_bytes": stored_bytes(network, "int8"),
        "macs": count_macs(network, bins),
    }
    for name, model in (("fp32", exact), ("int8", quantise(exact, inputs))):
        runner = session(model)
        found[f"{name}_ms"] = latency(lambda r=runner: r.run(None, {INPUT: inputs[:1]})).p50
    return found


def front(table: pd.DataFrame, cost: str, method: str = "distilled") -> pd.Series:
    """Whether no other student of the method is as accurate at a lower cost, or better at the same.

    Args:
        table: of this program.
        cost: a column of it.
        method: the rows that compete.
    """
    mine = table[table["method"] == method]
    accuracy, price = mine["validation_accuracy"].to_numpy(), mine[cost].to_numpy()
    as_good = (accuracy[:, None] >= accuracy) & (price[:, None] <= price)
    better = (accuracy[:, None] > accuracy) | (price[:, None] < price)
    beaten = pd.Series((as_good & better).any(0), mine.index)
    return ~beaten.reindex(table.index, fill_value=True)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of the validation accuracy over seeds, and what each student costs."""
    students_ = rows.dropna(subset=["depth"])
    keys = ["bins", "depth", "width", "head"]
    table = (
        students_.groupby([*keys, "method"], sort=False)
        .agg(
            seeds=("seed", "size"),
            validation_accuracy=("validation_accuracy", "mean"),
            deviation=("validation_accuracy", "std"),
        )
        .reset_index()
    )
    table["depth"] = table["depth"].astype(int)
    each = {key: costs(*key) for key in dict.fromkeys(zip(*(table[k] for k in keys), strict=True))}
    found = pd.DataFrame([each[key] for key in zip(*(table[k] for k in keys), strict=True)])
    table = pd.concat([table, found], axis=1)
    teacher = rows[rows["method"] == "teacher"].groupby("bins")["validation_accuracy"].mean()
    table["teacher_validation_accuracy"] = table["bins"].map(teacher)
    for cost in ("int8_bytes", "macs", "int8_ms"):
        table[f"front_{cost}"] = front(table, cost)
    return table


def choose(table: pd.DataFrame) -> pd.Series:
    """The distilled student of the best mean validation accuracy within both budgets."""
    fitting = table[
        (table["method"] == "distilled")
        & (table["int8_bytes"] <= BUDGET_BYTES)
        & (table["macs"] <= BUDGET_MACS)
    ]
    if fitting.empty:
        raise HfldError("No student fits the budgets; sweep smaller ones.")
    order = fitting.sort_values(["validation_accuracy", "int8_bytes"], ascending=[False, True])
    return order.iloc[0]


def test(
    work: Path, _kind: str, bins: int, seed: int, depth: int, width: float, head: str
) -> list[dict]:
    """Measure the chosen student and its teacher on the test part, read once."""
    recordings, recipe = setting(bins, seed)
    trainer = Trainer(recordings, recipe, progress=False)
    part = recordings.select(trainer.parts.test)
    inputs = network_inputs(part.signals, recipe, part.sample_rate).numpy()
    spec = recipe.teacher
    networks = {
        "teacher": (
            resnet1d(spec.depth, len(part.class_names), spec.width, spec.head),
            _weights(work, "teacher", bins, seed),
        )
    }
    for method in ("alone", "distilled"):
        student = resnet1d(depth, len(part.class_names), width, head, 0.0)
        networks[method] = student, _weights(work, method, bins, seed, depth, width, head)
    rng = np.random.default_rng(seed)
    learned = trainer.train.inputs.numpy()
    calibration = learned[rng.choice(len(learned), CALIBRATION, replace=False)]
    rows = []
    for method, (network, path) in networks.items():
        network.load_state_dict(load_file(path))
        exact = to_onnx(network.eval(), bins)
        models = {"fp32": exact}
        if method != "teacher":
            models["int8"] = quantise(exact, calibration)
        for precision, model in models.items():
            predicted = session(model).run(None, {INPUT: inputs})[0].argmax(1)
            found = evaluate(
                predicted, part.labels, part.groups, part.class_names, part.normal_classes
            )
            rows.append(
                {
                    "seed": seed,
                    "method": method,
                    "precision": precision,
                    "test_accuracy": found.accuracy,
                    "low": found.low,
                    "high": found.high,
                    "miss_rate": found.miss_rate,
                    "false_alarm_rate": found.false_alarm_rate,
                    "recordings": found.count,
                }
            )
    return rows


@app.command(help=__doc__, epilog="Example: python data_scripts/sweep_students.py")
def main(
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 3,
    out: Annotated[Path, Option(help="Folder of the CSV files to write.")] = Path(
        "hfld_lite/results"
    ),
    jobs: Annotated[int, Option(help="Cells at a time, one core each; -1 for all cores.")] = -1,
    scheduler: Scheduler = None,
    work: Annotated[Path, Option(help="Where finished cells and weights are kept.")] = Path(
        "runs/sweep"
    ),
) -> None:
    """Run what is missing, and write the tables."""
    repeats, work = list(range(seeds)), work.absolute()

    def run(call: Callable[..., list[dict]], todo: list[tuple]) -> pd.DataFrame:
        return cells(partial(call, work), todo, work, jobs, scheduler=scheduler)

    places = list(itertools.product(BINS, repeats))
    teachers = run(teach, [("teachers", *place) for place in places])
    todo = [(*place, *student) for student in students() for place in places]
    rows = pd.concat([teachers, run(learn, todo)])
    table = summarise(rows)
    command = f"command: python data_scripts/sweep_students.py --seeds {seeds}"
    data = f"Simulated tiles, six classes, {TILES_PER_CLASS} tiles a class, preset demo"
    write_table(
        out / "edge_sweep.csv",
        table.round(5),
        "Students by depth, width, head and input bins, alone and distilled: VALIDATION accuracy, "
        "mean and deviation over seeds.",
        "int8_bytes: weights, biases and scales; macs: FlopCounterMode / 2; fp32_ms and int8_ms: "
        "median of 500 runs in ONNX Runtime, one thread, without preprocessing. front_…: no other "
        "distilled student is as accurate for less.",
        f"{data}; seeds {', '.join(map(str, repeats))}.",
        command,
    )
    budgets = {"int8_bytes": BUDGET_BYTES, "macs": BUDGET_MACS}
    write_whole(out / "edge_front.png", png(front_figure(table, budgets=budgets)))
    best = choose(table)
    chosen = (int(best.bins), int(best.depth), float(best.width), str(best["head"]))
    tested = run(test, [("test", chosen[0], seed, *chosen[1:]) for seed in repeats])
    write_table(
        out / "edge_chosen.csv",
        tested.round(4),
        f"TEST accuracy of the student that validation chose within {BUDGET_BYTES} bytes in INT8 "
        f"and {BUDGET_MACS} MACs: depth {chosen[1]}, width {chosen[2]:g}, {chosen[3]} head, "
        f"{chosen[0]} bins, {int(best.int8_bytes)} bytes, {int(best.macs)} MACs; and its teacher.",
        f"{data}; the interval is Wilson's on the effective number of recordings of one seed.",
        command,
    )
    print(table.drop(columns=["seeds"]).to_string(index=False))
    print(tested.groupby(["method", "precision"])["test_accuracy"].agg(["mean", "std"]))


if __name__ == "__main__":
    start(app)
