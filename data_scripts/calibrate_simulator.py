"""Calibrate the simulator's difficulty on networks trained alone, and write the table.

For each seed: simulate, train the demo's teacher and the student's network from labels alone, and
measure both on tiles that neither training nor validation saw. A classifier that is given the true
modal parameters instead of the sound shows the ceiling; the best threshold on one true frequency
shows that tolerance hides the defect from so simple a rule. No distilled network is looked at here:
the bench's defaults are chosen so that the teacher reaches 96 to 99 % and the student's network
stays at least 2 points below it.

The seeds of these data start at 1000, so that the demo's data (seed 0) took no part in it.
"""

import platform
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated

import joblib
import numpy as np
import pandas as pd
import torch
import typer
from _study import DEMO_BEFORE
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hfld_lite.data.simulator.simulate import simulate_with_truth
from hfld_lite.data.simulator.tiles import Bench
from hfld_lite.data.splits import split
from hfld_lite.data.views import network_inputs
from hfld_lite.distillation import Supervised
from hfld_lite.evaluation.metrics import evaluate
from hfld_lite.networks import count_parameters, resnet1d
from hfld_lite.storage.files import write_whole
from hfld_lite.storage.randomness import seeded
from hfld_lite.training import Samples, fit, predict_logits
from hfld_lite.version import __version__

FIRST_SEED = 1000
FRESH_TILES, FRESH_DROPS = 200, 2
"""Tiles a class and drops of the fresh set that accuracies are measured on."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def true_parameters(truth: pd.DataFrame, groups: np.ndarray) -> np.ndarray:
    """Logarithms of the true frequencies and loss factors of each recording's tile."""
    columns = [name for name in truth if name[0] == "f" or name.startswith("loss")]
    return np.log(truth.set_index("group").loc[groups, columns].to_numpy())


def ceiling(recordings, truth, parts, fresh, fresh_truth) -> float:
    """Accuracy with the true parameters, of whichever of two classifiers validation prefers."""
    known = true_parameters(truth, recordings.groups)
    unseen = true_parameters(fresh_truth, fresh.groups)
    best = (-1.0, 0.0)
    for model in (
        make_pipeline(StandardScaler(), SVC(C=30)),
        HistGradientBoostingClassifier(random_state=0),
    ):
        model.fit(known[parts.train], recordings.labels[parts.train])
        chosen = model.score(known[parts.validation], recordings.labels[parts.validation])
        best = max(best, (chosen, model.score(unseen, fresh.labels)))
    return best[1]


def threshold(truth: pd.DataFrame, fresh_truth: pd.DataFrame) -> float:
    """Share of fresh tiles that the best threshold on one true frequency tells N from D.

    It is told the tile's type, the noiseless frequency, and may choose the mode for each type on
    the other data's tiles; yet tolerance blurs it.
    """
    right = []
    for kind, tiles in truth.groupby("type"):
        fresh = fresh_truth[fresh_truth["type"] == kind]
        best = (-1.0, "", 0.0)
        for mode in [name for name in truth if name[0] == "f"]:
            for cut in np.quantile(tiles[mode], np.linspace(0, 1, 201)):
                share = ((tiles[mode] < cut) == tiles["defective"]).mean()
                best = max(best, (share, mode, cut))
        right.append((fresh[best[1]] < best[2]) == fresh["defective"])
    return float(np.concatenate(right).mean())


def run(seed: int, bench: Bench) -> list[dict]:
    """The rows of one seed: ceiling, teacher, student's network alone."""
    torch.set_num_threads(1)  # two seeds at a time; more threads would only wait for each other
    recordings, truth = simulate_with_truth(seed=FIRST_SEED + seed, bench=bench)
    fresh, fresh_truth = simulate_with_truth(
        seed=2 * FIRST_SEED + seed, bench=bench, tiles_per_class=FRESH_TILES, drops=FRESH_DROPS
    )
    recipe = DEMO_BEFORE.replace(seed=seed)
    parts = split(recordings, validation=recipe.validation, test=recipe.test, seed=seed)
    rows = [{"seed": seed, "network": "true modal parameters (ceiling)"}]
    rows[0]["accuracy"] = ceiling(recordings, truth, parts, fresh, fresh_truth)
    rows.append({"seed": seed, "network": "one true frequency and a threshold, N or D"})
    rows[1]["accuracy"] = threshold(truth, fresh_truth)
    inputs, unseen = (network_inputs(r.signals, recipe, r.sample_rate) for r in (recordings, fresh))
    labels = torch.from_numpy(recordings.labels)
    train, validation = (Samples(inputs[p], labels[p]) for p in (parts.train, parts.validation))
    for role in ("teacher", "student"):
        spec = recipe.chain[role]
        with seeded(seed):
            network = resnet1d(
                spec.depth, len(recordings.class_names), spec.width, spec.head, spec.dropout
            )
        result = fit(
            Supervised(network), train, validation, recipe, spec.epochs, seed=seed, progress=False
        )
        found = evaluate(
            predict_logits(network, unseen).argmax(1).numpy(),
            fresh.labels,
            fresh.groups,
            fresh.class_names,
            fresh.normal_classes,
        )
        rows.append(
            {
                "seed": seed,
                "network": f"{role}, alone",
                "parameters": count_parameters(network),
                "accuracy": found.accuracy,
                "validation_accuracy": result.history["validation_accuracy"].max(),
                "miss_rate": found.miss_rate,
                "false_alarm_rate": found.false_alarm_rate,
            }
        )
    return rows


@app.command(
    help=__doc__,
    epilog="Example: python data_scripts/calibrate_simulator.py --seeds 3 "
    "--out hfld_lite/results/simulator_calibration.csv",
)
def main(
    out: Annotated[Path | None, typer.Option(help="The CSV file to write.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A bench value to try, as in snr=12; may be repeated."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Seeds at a time, one core each.")] = 2,
) -> None:
    """Train, print the table and, with --out, write it with the bench's values above it."""
    bench = Bench()
    for entry in change or ():
        name, _, value = entry.partition("=")
        if name not in asdict(bench) or not value:
            raise typer.BadParameter(f"{entry!r} is no bench value; give name=value.")
        bench = replace(bench, **{name: float(value)})
    rows = joblib.Parallel(jobs)(joblib.delayed(run)(seed, bench) for seed in range(seeds))
    table = pd.DataFrame([row for seed in rows for row in seed])
    summary = table.groupby("network", sort=False)["accuracy"].agg(["mean", "std"])
    print(table.round(4).to_string(index=False))
    print(summary.round(4).to_string())
    gap = summary["mean"]["teacher, alone"] - summary["mean"]["student, alone"]
    print(f"teacher − student, both alone: {100 * gap:.2f} points")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        notes = [
            "Simulated tiles, six classes; networks trained alone; accuracy on fresh tiles.",
            f"command: python data_scripts/calibrate_simulator.py --seeds {seeds} --out {out}",
            f"hfld_lite {__version__}, torch {torch.__version__}, {platform.machine()}, "
            f"{date.today()}",
            f"bench: {asdict(bench)}",
        ]
        text = "".join(f"# {note}\n" for note in notes) + table.round(4).to_csv(index=False)
        write_whole(out, text)


if __name__ == "__main__":
    app()
