"""Choose the defaults of recipes on development sets, and measure them once on the test parts.

The protocol, written before it was run:

1. The data are the sets of ``_development.py``. Nothing else is looked at.
2. A candidate changes one thing of the rule so far. Each trains, for each set and seed, on the
   training part without a fifth of its groups; this fifth chooses the epoch; the validation part
   gives the score, balanced accuracy. So a candidate with more, or noisier, epochs has no
   advantage. The test parts are not touched.
3. What networks read and how long they learn (``view`` and ``training``) is decided by the student
   trained ALONE, confirmed by the teacher; only the weights of the terms by distillation. So
   distillation cannot look better than it is by a handicap of what it is compared with.
4. The rule: the candidate with the lowest mean rank over the sets becomes the default; candidates
   within half a rank of it are a tie, and of those the simplest wins, the first in the list.
5. Then ``--test`` trains the defaults before and now, and the baselines, on training and validation
   as a user would, and reads the test parts once.

Every run is kept in ``runs/defaults``; the same command resumes. ``notebooks/results/`` gets
``defaults_tried.csv`` and ``defaults_tested.csv``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from _development import SETS
from _study import cells

from hfld_lite.data.examples import Examples
from hfld_lite.data.splits import Split
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import ALONE, Recipe
from hfld_lite.training import predict_logits

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"
CELLS = Path("runs") / "defaults"
INNER = 0.2
"""Share of the training part that chooses the epoch while candidates are compared."""

BASE = Recipe(view="log-spectrum", steps=600, learning_rate=0.01)

CANDIDATES: dict[str, dict[str, Recipe]] = {
    "view": {
        "spectrum 600": BASE.replace(view="spectrum"),
        "spectrum 300": BASE.replace(view="spectrum", bins=300),
        "spectrum 1200": BASE.replace(view="spectrum", bins=1200),
        "log-spectrum 600": BASE,
        "log-spectrum 300": BASE.replace(bins=300),
        "log-spectrum 600 level": BASE.replace(level="kept"),
        "log-mel": BASE.replace(view="log-mel"),
        "log-mel level": BASE.replace(view="log-mel", level="kept"),
    },
}
"""By question: candidates from the simplest to the least simple."""

ROLES = {"view": ALONE}


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the classes' recalls."""
    return float(np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)]))


def run(question: str, candidate: str, data: str, seed: int) -> list[dict]:
    """Train one candidate on one set and score it on the validation part."""
    recordings, parts = SETS[data](seed)
    recipe = CANDIDATES[question][candidate].replace(seed=seed)
    began = time.perf_counter()
    examples = Examples.of(recordings, recipe)
    rows, inner = examples.cut(parts.train, INNER, seed)
    trainer = Trainer(recordings, recipe, Split(rows, inner, parts.validation), progress=False)
    stage = trainer.supervise(ROLES[question])
    inputs = examples.samples(parts.validation).inputs
    predicted = predict_logits(stage.network, inputs).argmax(1).numpy()
    history = stage.fit.history
    return [
        {
            "question": question,
            "candidate": candidate,
            "data": data,
            "seed": seed,
            "score": balanced_accuracy(predicted, recordings.labels[parts.validation]),
            "best_epoch": stage.fit.best_epoch,
            "epochs": len(history),
            "seconds": time.perf_counter() - began,
        }
    ]


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=[*CANDIDATES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    names = given.only or CANDIDATES[given.question]
    jobs = [
        (given.question, name, data, seed)
        for seed in range(given.seeds)
        for data in SETS
        for name in names
    ]
    table = cells(run, jobs, CELLS, given.jobs)
    means = table.pivot_table(index="data", columns="candidate", values="score")[list(names)]
    print((100 * means).round(1).to_string())
    ranks = means.round(4).rank(axis=1, ascending=False)
    print("mean rank", ranks.mean().round(2).to_dict())
    print("mean", (100 * means.mean()).round(1).to_dict())


if __name__ == "__main__":
    main()
