"""Choose the defaults of recipes on development sets, and measure them once on the test parts.

The protocol, written before it was run:

1. The data are the sets of ``_development.py``. Nothing else is looked at.
2. A candidate changes one thing of the rule so far. Each trains, for each set and seed, on the
   training part without a fifth of its groups; this fifth chooses the epoch; the validation part
   gives the score, balanced accuracy. So a candidate with more, or noisier, epochs has no
   advantage. The test parts are not touched.
3. What networks read and how they learn is decided by the student trained ALONE; only the weights
   of the terms by distilled students. So distillation cannot look better than it is by a handicap
   of what it is compared with.
4. The rule: the candidate with the lowest mean rank over the sets becomes the default; candidates
   within half a rank of it are a tie, and of those the simplest wins, the first in the list.
5. Then ``test`` trains the defaults and the baselines as a user would, and reads the test parts
   once for each version, with new seeds.

Every run is kept in ``runs/defaults``; the same command resumes. ``hfld_lite/results/`` gets
``defaults_tried.csv`` from all questions that were run, and ``defaults_tested.csv`` from ``test``.
"""

import json
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from _development import SETS
from _study import BEFORE, cells, write_table
from torch import Tensor, nn

from hfld_lite.data import views
from hfld_lite.data.examples import Examples
from hfld_lite.data.splits import Split
from hfld_lite.errors import ArgumentError, HfldError
from hfld_lite.evaluation.baselines import fit_baselines
from hfld_lite.evaluation.metrics import paired_interval
from hfld_lite.hierarchy import Trainer, distill_chain
from hfld_lite.recipes import ALONE, Recipe
from hfld_lite.training import predict_logits

RESULTS = Path(__file__).parents[1] / "hfld_lite" / "results"
CELLS = Path("runs") / "defaults"
INNER = 0.2
"""Share of the training part that chooses the epoch while candidates are compared."""

EASY = ("tiles-2808", "bearings-block-clean", "imbalance")
"""Sets that are only tested: large, without errors, or for the drawing of rare classes."""

VERSIONS = ("0.2.0", "0.3.0", "now")
"""Whose defaults were tested. Those of 0.3.0 had another log-mel, the first of MEL."""

SLOW = "tiles-2808"
"""Not trained with the defaults of 0.2.0: their 1,040 steps on 3,500 bins take ten minutes."""

NEEDS_TIME_OR_LEVEL = ("modulation", "level")
"""Sets that only some views can tell apart; they count for the choice of the view alone."""

START = Recipe(steps=400, learning_rate=0.01, weight_decay=0.01)
DECAYED = START.replace(weight_decay=0.1)
SPECTRUM = START.replace(view="log-spectrum")
WAYS = {
    "base": {},
    "800 steps": {"steps": 800},
    "rate 0.003": {"learning_rate": 0.003},
    "rate 0.03": {"learning_rate": 0.03},
    "batch 32": {"batch_size": 32},
    "weight decay 0.1": {"weight_decay": 0.1},
}
"""Of training, each against the base."""


class Mel(NamedTuple):
    """A candidate for the view "log-mel": a mean spectrum, then mel bands over time, in dB."""

    mean: int
    """Values of the spectrum averaged over all windows: mel bands, or below 0 linear ones; or 0."""
    frames: int
    """Most of them after it; one of few windows has at least 5."""
    bands: int = 64
    by_band: bool = False
    """Not a frame's bands after each other, but a band's frames."""
    longest: int = 1
    """A window is this part of a recording at most."""

    def __call__(self, signals: np.ndarray, recipe: Recipe, rate: int) -> Tensor:
        """Values ``(n, length)`` as the networks read them."""
        samples = signals.shape[1]
        size = max(4, min(round(views.FRAME * rate), samples // self.longest) // 2 * 2)
        points = 1 << (max(size, 2 * views.LEAST_BINS, rate // views.WIDEST_BIN) - 1).bit_length()
        points *= 4 if self.mean > 0 else 1  # its lowest bands are narrow

        fine, coarse = (
            torch.from_numpy(views.mel_weights(points, rate, max(count, 1)))
            for count in (self.mean, self.bands)
        )

        def read(x: Tensor) -> Tensor:
            windows = (x - x.mean(1, keepdim=True)).unfold(1, size, size // 2)
            found = torch.fft.rfft(windows * torch.hann_window(size), points)
            power = (found.real.square() + found.imag.square()) * (2 / size) ** 2
            parts = []
            if self.mean > 0:
                parts.append(power.mean(1) @ fine)
            elif self.mean:
                by = views.neighbours(points // 2, -self.mean)
                parts.append(power.mean(1)[:, : points // 2].unflatten(1, (-1, by)).mean(2))
            if self.frames:
                rows = power @ coarse
                count = rows.shape[1]
                by = -(-count // self.frames)
                by = max(1, count // 5) if -(-count // by) < 5 else by
                rows = torch.stack([rows[:, i : i + by].mean(1) for i in range(0, count, by)], 1)
                parts.append((rows.transpose(1, 2) if self.by_band else rows).flatten(1))
            values = 10 * torch.log10(torch.cat(parts, 1))
            return values.clamp_min(values.amax(1, keepdim=True) - views.FLOOR) / views.FLOOR

        chunks = torch.as_tensor(signals, dtype=torch.float32).split(64)
        return torch.cat([read(chunk) for chunk in chunks])


LOG_MEL = views.VIEWS["log-mel"]

MEL = {
    "16 frames of 64 bands": Mel(0, 16, longest=4),
    "the same, band by band": Mel(0, 16, by_band=True, longest=4),
    "8 frames": Mel(0, 8, longest=4),
    "8 frames, band by band": Mel(0, 8, by_band=True, longest=4),
    "5 frames": Mel(0, 5, longest=4),
    "5 frames, band by band": Mel(0, 5, by_band=True, longest=4),
    "mean of 320 bands": Mel(320, 0),
    "mean, linear, and 16 frames of 16 bands": Mel(-600, 16, 16),
    "mean of 192 bands, and 16 frames of 16": Mel(192, 16, 16),
    "mean of 320 bands, and 16 frames of 16": Mel(320, 16, 16),
    "mean of 320 bands, and 5 frames of 64": Mel(320, 5),
    "log-mel of the library now": None,
}
"""The view "log-mel" of hfld_lite 0.3.0 was the first; the last is the linear one, whose windows
are a quarter of a recording at most."""

BATCHES = {"view": 20, "training": 20, "training again": 20}
"""Questions that were asked while a batch was this part of the training part; a tenth after."""

CANDIDATES: dict[str, dict[str, Recipe]] = {
    "view": {
        "spectrum 600": START.replace(view="spectrum"),
        "spectrum 300": START.replace(view="spectrum", bins=300),
        "log-spectrum 600": SPECTRUM.replace(level="removed"),
        "log-spectrum 300": SPECTRUM.replace(level="removed", bins=300),
        "log-spectrum 600 level": SPECTRUM,
        "log-mel": START.replace(level="removed"),
        "log-mel level": START,
    },
    "training": {name: START.replace(**changes) for name, changes in WAYS.items()},
    "training again": {
        "weight decay 0.1": DECAYED,
        "weight decay 0.3": START.replace(weight_decay=0.3),
        "weight decay 0.1, a tenth a batch": DECAYED,
        "weight decay 0.1, batch 32": DECAYED.replace(batch_size=32),
        "weight decay 0.1, 800 steps": DECAYED.replace(steps=800),
    },
    # Once more, with the training that was chosen.
    "view again": {
        "spectrum": Recipe(view="spectrum"),
        "log-spectrum level": Recipe(view="log-spectrum"),
        "log-mel level": Recipe(),
    },
    # What log-mel contains, as it lost to mel bands averaged over time where sounds are steady.
    "mel": dict.fromkeys(MEL, Recipe()),
    "terms": {
        "equal weights, T 5": Recipe(mu=1.0, nu=1.0),
        "T 2": Recipe(mu=1.0, nu=1.0, temperature=2.0),
        "logits 0.3, T 5": Recipe(mu=0.3, nu=0.3),
        "logits 0.3, T 2": Recipe(mu=0.3, nu=0.3, temperature=2.0),
        "all but labels 0.3, T 2": Recipe(alpha=0.3, mu=0.3, nu=0.3, temperature=2.0),
    },
}
"""By question: candidates from the simplest to the least simple."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Seeds = Annotated[int, typer.Option(help="Number of seeds.")]
First = Annotated[int, typer.Option(help="The first seed; use one that was not tested before.")]
Version = Annotated[str, typer.Option(help="now, or 0.2.0.")]
Jobs = Annotated[int, typer.Option(help="Runs at once, one processor core each.")]


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the classes' recalls."""
    return float(np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)]))


def chosen_by(
    data: str, seed: int, recipe: Recipe, part: int = 10
) -> tuple[Trainer, Examples, np.ndarray]:
    """A trainer without the validation part, which gives the score; the examples; that part.

    A batch is ``1 / part`` of the training part, 8 to 32, unless the recipe has a size.
    """
    recordings, parts = SETS[data](seed)
    recipe = recipe.replace(seed=seed)
    examples = Examples.of(recordings, recipe)
    rows, inner = examples.cut(parts.train, INNER, seed)
    size = recipe.batch_size or min(32, max(8, len(rows) // part))
    recipe = recipe.replace(batch_size=size)
    inside = Split(rows, inner, parts.validation)
    return Trainer(recordings, recipe, inside, progress=False), examples, parts.validation


def alone(question: str, candidate: str, data: str, seed: int) -> list[dict]:
    """Train the student alone by one candidate, and score it on the validation part."""
    if question == "mel" and MEL[candidate]:
        views.VIEWS["log-mel"] = MEL[candidate]
    part = 10 if "a tenth" in candidate else BATCHES.get(question, 10)
    trainer, examples, rows = chosen_by(data, seed, CANDIDATES[question][candidate], part)
    views.VIEWS["log-mel"] = LOG_MEL
    began = time.perf_counter()
    stage = trainer.supervise(ALONE)
    score = _score(stage.network, examples, rows)
    row = {"question": question, "candidate": candidate, "data": data, "seed": seed}
    epochs = {"best_epoch": stage.fit.best_epoch, "epochs": len(stage.fit.history)}
    return [row | {"score": score, **epochs, "seconds": time.perf_counter() - began}]


def distilled(question: str, data: str, seed: int) -> list[dict]:
    """Train a teacher, then secondary teacher and student by each candidate's weights."""
    candidates = CANDIDATES[question]
    trainer, examples, rows = chosen_by(data, seed, next(iter(candidates.values())))
    trainer.supervise("teacher")
    trainer.supervise(ALONE)
    found = []
    for name in (ALONE, "teacher", *candidates):
        began = time.perf_counter()
        if name in candidates:
            recipe = candidates[name].replace(seed=seed)
            between, last = f"secondary {name}", f"student {name}"
            trainer.distil("secondary_teacher", "teacher", recipe, between)
            trainer.distil("student", between, recipe, last)
        stage = trainer.stages[last if name in candidates else name]
        row = {"question": question, "candidate": name, "data": data, "seed": seed}
        row |= {"score": _score(stage.network, examples, rows), "best_epoch": stage.fit.best_epoch}
        row |= {"epochs": len(stage.fit.history), "seconds": time.perf_counter() - began}
        found.append(row)
    return found


def _score(network: nn.Module, examples: Examples, rows: np.ndarray) -> float:
    predicted = predict_logits(network, examples.samples(rows).inputs).argmax(1).numpy()
    return balanced_accuracy(predicted, examples.labels[rows])


def tested(version: str, data: str, seed: int) -> list[dict]:
    """Train a chain (and the baselines) as a user would, and read the test part."""
    recordings, parts = SETS[data](seed)
    recipe = {"0.2.0": BEFORE, "now": Recipe()}[version].replace(seed=seed)
    began = time.perf_counter()
    try:
        chain = distill_chain(recordings, recipe, parts, progress=False)
    except (ArgumentError, HfldError) as error:
        return [{"version": version, "data": data, "seed": seed, "refused": str(error)}]
    seconds = time.perf_counter() - began
    predictions = chain.test(recordings).predictions
    right = {role: predictions[role] == predictions["class"] for role in chain.stages}
    if version == "now":
        simple = fit_baselines(recordings, parts, chain.recipe)
        right |= {
            one.title: simple.predictions[one.title] == simple.predictions["class"]
            for one in simple.fitted
        }
    groups = np.unique(predictions["group"], return_inverse=True)[1].tolist()
    return [
        {
            "version": version,
            "data": data,
            "seed": seed,
            "name": name,
            "right": "".join("01"[int(value)] for value in values),
            "groups": groups,
            "seconds": seconds,
        }
        for name, values in right.items()
    ]


def write_tried() -> None:
    """The mean score of every candidate on every set, and its mean rank, from all kept runs."""
    tables = []
    for question, candidates in CANDIDATES.items():
        rows = [row for path in CELLS.glob(f"{question}-*.json") for row in _rows(path)]
        if not rows:
            continue
        table = pd.DataFrame(rows)
        means = table.pivot_table(index="data", columns="candidate", values="score")
        ranks = means[[c for c in candidates if c in means]].round(4).rank(axis=1, ascending=False)
        summary = table.groupby("candidate").agg(
            seeds=("seed", "nunique"), seconds=("seconds", "mean")
        )
        summary.insert(0, "mean_rank", ranks.mean().round(2))
        summary.insert(1, "mean", means.mean().round(4))
        wide = summary.join(means.T.round(4)).round({"seconds": 1})
        order = [c for c in (ALONE, "teacher", *candidates) if c in wide.index]
        tables.append(wide.loc[order].reset_index().assign(question=question))
    table = pd.concat(tables, ignore_index=True)
    front = ["question", "candidate", "seeds", "mean_rank", "mean", "seconds"]
    table = table[front + sorted(set(table) - set(front))]
    write_table(
        RESULTS / "defaults_tried.csv",
        table,
        "Candidates for the defaults: balanced accuracy on VALIDATION parts of development sets,",
        "see the protocol in data_scripts/choose_defaults.py. Students were trained alone; those "
        "of 'terms' are distilled, beside the teacher and the student alone.",
        "mean_rank: over the sets, 1 is best; seconds: of one candidate's training, on shared "
        "processor cores.",
        "Two or three seeds, where five were planned, and of 'terms' 12 of 20 trainings: time. "
        "A tenth and a twentieth a batch tie; the tenth was taken, as it helped on bearings.",
        "All questions but 'mel' were asked with the log-mel of 0.3.0, the first of 'mel'. There "
        "the lowest rank is a mean alone, at chance in modulation and digits, so the simplest "
        "of those with frames was taken.",
        "Tried as well and not in the library: a moving average of the weights (0.98), the last of "
        "seven; the epoch of the lowest loss; the level removed by the recording's mean in dB.",
    )


def write_tested() -> None:
    """Test accuracies before and now beside the baselines, with paired intervals over seeds."""
    rows = [row for path in CELLS.glob("tested-*.json") for row in _rows(path)]
    runs = {(r["version"], r["data"], r["seed"], r["name"]): r for r in rows if "name" in r}
    table = []
    for data in SETS:
        seeds = sorted({seed for version, d, seed, _ in runs if (version, d) == ("now", data)})
        if not seeds:
            continue
        names = list(dict.fromkeys(n for v, d, _, n in runs if (v, d) == ("now", data)))
        simple = [name for name in names if " on " in name]
        known = {
            (version, name): sorted(s for v, d, s, n in runs if (v, d, n) == (version, data, name))
            for version in VERSIONS
            for name in names
        }
        means = {
            (version, name): np.mean(
                [_right(runs[version, data, seed, name]).mean() for seed in had]
            )
            for (version, name), had in known.items()
            if had
        }
        best = max(simple, key=lambda name: means["now", name])
        row: dict[str, object] = {"data": data}
        for version in VERSIONS:
            row[f"seeds_{version}"] = len(known[version, "student"])
        for version in VERSIONS:
            for role in ("student", ALONE, "teacher"):
                row[f"{role}_{version}"] = means.get((version, role), float("nan"))
        row |= {"baseline": best, "baseline_accuracy": means["now", best]}
        for other, title in ((ALONE, "over_alone"), (best, "over_baseline")):
            paired = []
            for seed in seeds:
                ours, theirs = (runs["now", data, seed, name] for name in ("student", other))
                paired.append((_right(ours), _right(theirs), np.array(ours["groups"])))
            found = paired_interval(paired, np.random.default_rng(0))
            row |= {f"{title}": found.difference}
            row |= {f"{title}_low": found.low, f"{title}_high": found.high}
        for version in VERSIONS:
            row[f"seconds_{version}"] = np.mean(
                [runs[k]["seconds"] for k in runs if k[:2] == (version, data) and k[3] == "student"]
                or [float("nan")]
            )
        table.append(row)
    write_table(
        RESULTS / "defaults_tested.csv",
        pd.DataFrame(table).round(4),
        "Accuracy on the TEST parts of the development sets with the preset classroom of 0.2.0, of "
        "0.3.0 and of now: means over seeds, other ones now (five were planned; time). Read once "
        "for 0.3.0, and once more now, after its log-mel was mended on validation parts.",
        "baseline: of scikit-learn's, fitted by hfld_lite.evaluation.baselines, the one that is "
        "best on these test parts (a user does not know it; the strictest comparison).",
        "over_alone, over_baseline: student less the other, shares of 1, with a paired 95 % t "
        "interval over seeds (a percentile bootstrap over groups where all seeds have the same "
        "difference). seconds: of a whole chain, on shared cores.",
        f"Empty: the defaults of 0.2.0 refuse 64 samples (digits), and were not trained on {SLOW}.",
    )


def _right(run: dict) -> np.ndarray:
    return np.array([mark == "1" for mark in run["right"]])


def _rows(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))


@app.command()
def choose(question: str, seeds: Seeds = 2, jobs: Jobs = 1) -> None:
    """Train the candidates of one question, and write the table of all that were tried."""
    left_out = EASY if question in ("view", "mel") else EASY + NEEDS_TIME_OR_LEVEL
    sets = [(data, seed) for seed in range(seeds) for data in SETS if data not in left_out]
    if question == "terms":
        cells(distilled, [(question, *job) for job in sets], CELLS, jobs)
    else:
        names = CANDIDATES[question]
        cells(alone, [(question, name, *job) for job in sets for name in names], CELLS, jobs)
    write_tried()


@app.command("test")
def measure(seeds: Seeds = 3, jobs: Jobs = 1, first: First = 2, version: Version = "now") -> None:
    """Train a version's defaults, read the test parts once, and write the table."""
    every = [
        ("tested", version, data, seed)
        for seed in range(first, first + seeds)
        for data in SETS
        if (version, data) != ("0.2.0", SLOW)
    ]
    cells(lambda _, *job: tested(*job), every, CELLS, jobs)
    write_tested()


if __name__ == "__main__":
    app()
