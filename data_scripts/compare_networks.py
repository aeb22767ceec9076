"""Compare the networks that the released code compares with, all trained from labels alone.

For each data set and seed, AlexNet, VGG19, GoogLeNet and DenseNet-121 (all 1-D, narrowed) and the
recipe's teacher and student learn from the same training part, in the same order, with the
recipe's optimiser. The student trains for its own number of epochs, all others for the teacher's.
The epoch is chosen on the validation part; the test part is read once per training.

At full width these networks cannot be trained within minutes on two cores. Each has one reduced
width, at which one training takes about two minutes or less and which never exceeds the teacher's
number of parameters.

A program that was stopped resumes where it was; finished trainings are not repeated.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from _study import BEARINGS_SNR, TILES_PER_CLASS, bearings, cells, tiles, write_table
from torch import nn
from typer import Option

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import split
from hfld_lite.data.views import network_inputs
from hfld_lite.distillation import Supervised
from hfld_lite.evaluation.metrics import evaluate
from hfld_lite.networks import count_parameters, resnet1d
from hfld_lite.recipes import Network, Recipe
from hfld_lite.rivals.networks_1d import NETWORKS_1D
from hfld_lite.storage.randomness import derive_seed, seeded
from hfld_lite.training import Samples, fit, predict_logits

WIDTHS = {"alexnet": 1 / 8, "vgg19": 1 / 16, "googlenet": 1 / 16, "densenet121": 1 / 16}
ROLES = ("teacher", "student")
DATA = ("tiles", "bearings")
STORED = Path("hfld_lite/results/networks_compared.csv")

QUICK_WIDTH, QUICK_GROUPS, QUICK_EPOCHS = 1 / 16, 10, 1
"""With --quick: the width of the given networks, groups (tiles, blocks) a class, epochs."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def settings(data: str, seed: int, folder: Path, quick: bool) -> tuple[Recordings, Recipe]:
    """The recordings and the recipe of a data set and seed; with ``quick`` few recordings."""
    recordings, recipe = tiles(seed) if data == "tiles" else bearings(folder, seed)
    if quick:
        groups, labels = recordings.groups, recordings.labels
        kept = [np.unique(groups[labels == c])[:QUICK_GROUPS] for c in np.unique(labels)]
        recordings = recordings.select(np.flatnonzero(np.isin(groups, np.concatenate(kept))))
    return recordings, recipe


def role_of(name: str, recipe: Recipe) -> Network:
    """The recipe's entry that a network's epochs come from: the teacher's but for the student."""
    return recipe.student if name == "student" else recipe.teacher


def build(name: str, classes: int, recipe: Recipe, width: float | None = None) -> nn.Module:
    """A given network of a width, or the network of a role of the recipe."""
    if name in NETWORKS_1D:
        return NETWORKS_1D[name](classes, width)
    spec = role_of(name, recipe)
    return resnet1d(spec.depth, classes, spec.width, spec.head, spec.dropout)


def full_size(name: str, recipe: Recipe) -> int:
    """Parameters at full width and two classes, a ResNet with the published head."""
    with torch.device("meta"):
        given = NETWORKS_1D.get(name)
        return count_parameters(given(2) if given else resnet1d(role_of(name, recipe).depth, 2))


def run(folder: Path, quick: bool, data: str, name: str, seed: int) -> list[dict]:
    """Train one network on one data set with one seed; its row."""
    recordings, recipe = settings(data, seed, folder, quick)
    parts = split(recordings, validation=recipe.validation, test=recipe.test, seed=seed)
    inputs = network_inputs(recordings.signals, recipe, recordings.sample_rate)
    labels = torch.from_numpy(np.array(recordings.labels))
    train, validation = (
        Samples(inputs[part], labels[part]) for part in (parts.train, parts.validation)
    )
    spec = role_of(name, recipe)
    width = spec.width if name in ROLES else QUICK_WIDTH if quick else WIDTHS[name]
    with seeded(derive_seed(seed, f"{name} weights")):
        network = build(name, len(recordings.class_names), recipe, width)
    result = fit(
        Supervised(network),
        train,
        validation,
        recipe,
        QUICK_EPOCHS if quick else spec.epochs,
        seed=derive_seed(seed, "networks order"),
        progress=False,
    )
    predicted = predict_logits(network, inputs[parts.test]).argmax(1).cpu().numpy()
    tested = recordings.select(parts.test)
    found = evaluate(predicted, tested.labels, tested.groups, tested.class_names)
    best = result.history.set_index("epoch").loc[result.best_epoch]
    return [
        {
            "data": data,
            "network": name,
            "seed": seed,
            "width": width,
            "parameters": count_parameters(network),
            "parameters_full": full_size(name, recipe),
            "test_accuracy": found.accuracy,
            "validation_accuracy": float(best["validation_accuracy"]),
            "seconds": result.seconds,
        }
    ]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each data set and network; accuracies in %, mean and deviation over seeds."""
    rows = rows.assign(**{c: 100 * rows[c] for c in ("test_accuracy", "validation_accuracy")})
    keys = ["data", "network", "width", "parameters", "parameters_full"]
    table = rows.groupby(keys, sort=False).agg(
        seeds=("seed", "size"),
        test_accuracy=("test_accuracy", "mean"),
        deviation=("test_accuracy", "std"),
        validation_accuracy=("validation_accuracy", "mean"),
        seconds=("seconds", "mean"),
    )
    rounded = {"test_accuracy": 2, "deviation": 2, "validation_accuracy": 2, "seconds": 1}
    return table.round(rounded).reset_index()


@app.command(help=__doc__, epilog="Example: python data_scripts/compare_networks.py data/bearings")
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")] = Path(
        "data/bearings"
    ),
    seeds: Annotated[int, Option(min=1, help="How many seeds.")] = 3,
    out: Annotated[
        Path | None,
        Option(help=f"The CSV file to write: by default {STORED}, with --quick one in --work."),
    ] = None,
    work: Annotated[Path, Option(help="Where finished trainings are kept.")] = Path(
        "runs/networks"
    ),
    jobs: Annotated[int, Option(help="Trainings at a time, one core each.")] = 2,
    data: Annotated[list[str], Option(help="Data sets, tiles or bearings.")] = DATA,
    quick: Annotated[
        bool,
        Option("--quick", help="Few recordings, one epoch, smallest widths: to try the program."),
    ] = False,
) -> None:
    """Run what is missing, and write the table."""
    if unknown := sorted(set(data) - set(DATA)):
        raise typer.BadParameter(f"--data is {unknown[0]!r}; choose tiles or bearings.")
    if "bearings" in data and not folder.is_dir():  # now, not after the tiles' trainings
        raise typer.BadParameter(
            f"{folder} is not there; make it with data_scripts/prepare_bearings.py, or choose "
            "--data tiles."
        )
    if quick:  # a trial replaces neither the stored table nor finished trainings
        work = work / "quick"
    out = out or (work / STORED.name if quick else STORED)
    networks = [*NETWORKS_1D, *ROLES]
    numbers = list(range(seeds))
    todo = [(kind, name, seed) for kind in data for name in networks for seed in numbers]
    table = summarise(cells(partial(run, folder, quick), todo, work, jobs))
    print(table.to_string(index=False))
    widths = dict.fromkeys(NETWORKS_1D, QUICK_WIDTH) if quick else WIDTHS
    notes = [f"{name} {width:g}" for name, width in widths.items()]
    trial = ["A trial of the program (--quick): these figures say nothing of the networks."]
    write_table(
        out,
        table,
        *(trial if quick else []),
        "Networks trained from labels alone: TEST accuracy in %, mean and deviation over seeds. "
        "The epoch is chosen on validation data, and the test part is read once per training.",
        f"REDUCED WIDTHS: {', '.join(notes)}; teacher and student as in the recipe. parameters: at "
        "this width and the data's number of classes; parameters_full: at width 1 and two classes, "
        "a ResNet with the published head. seconds: of one training, on one core.",
        "All networks learn with the recipe's optimiser and learning rate, none is tuned; the "
        "student for its own number of epochs, all others for the teacher's. The given networks "
        "have their dropout of 0.5, teacher and student none.",
        f"tiles: simulated, six classes, {TILES_PER_CLASS} tiles a class, preset demo; bearings: "
        f"known bearings, 11 classes, white noise at {BEARINGS_SNR:g} dB, preset classroom.",
        f"command: python data_scripts/compare_networks.py data/bearings --seeds {seeds}"
        + " --quick" * quick,
    )


if __name__ == "__main__":
    app()
