"""The second study: when does a teacher help, and when should a student not trust it?

The first study (run_study.py) found no gain of HFLKD over plain KD where the student is level with
its teacher. Here the teacher knows more than the student is given (few labels), knows too little,
or is wrong; or the labels are. Students have the library's default recipe. All methods of a setting
begin with the same weights, take as many steps, and choose their epoch on the same validation part.
Finished cells are kept and never computed again: the same command resumes where it was stopped,
--hours stops it in time, and --hours 0 only writes the tables and figures of what is finished.

How it is judged was committed before it ran: see "The second study" in hfld_lite/results/README.md.
"""

import json
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import typer
from _data import Case
from _methods import SECONDARY
from _second import write_all
from _settings import (
    FEWER,
    GRIDS,
    SETTINGS,
    TEACHERS,
    TUNED,
    Setting,
    given,
    learn,
    made,
    recipe_of,
)
from _study import cells, pack, start, unpack
from safetensors.torch import load_file, save_file
from typer import Option

from hfld_lite.app.many import Scheduler
from hfld_lite.evaluation.metrics import evaluate
from hfld_lite.evaluation.together import train_together
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.networks import ResNet1d, resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.rivals.presets import preset
from hfld_lite.storage.files import digest, write_whole
from hfld_lite.storage.history import Fit
from hfld_lite.storage.randomness import seeded
from hfld_lite.training import predict_logits

DATA = ("tiles", "bearings block", "bearings load")
"""Six classes of simulated tiles, tested on ten times as many new ones; known bearings, in noise,
by blocks of time; and trained at three loads, tested at the fourth."""

BESIDE = "bearings load"
"""The data set of fewer settings, for time."""

TUNED_ON = {"tiles": "tiles", "bearings block": "bearings block", BESIDE: "bearings block"}
TUNING = 1000
"""The first seed of the tuning's data."""

LIFTS = ("second", "third", "born again")
"""Teachers that the settings "lifts" need besides: two with other first weights, and one that
learned from the teacher by plain KD."""


class Scale(NamedTuple):
    """How large it is: tiles a class, steps of a network, seeds, fewer seeds, those of the tuning.

    The fewer seeds are those of the settings "lifts" and of the data set beside the main ones.
    """

    tiles: int
    steps: int | None
    seeds: int
    fewer: int
    tuning: int


FULL, QUICK = Scale(130, None, 10, 5, 2), Scale(18, 4, 2, 1, 1)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Study:
    """The cells, in the order in which they are worth most."""

    def __init__(
        self, scale: Scale, folder: Path, work: Path, data: tuple[str, ...] = DATA
    ) -> None:
        self.scale, self.folder, self.work, self.data = scale, folder, work, data
        self.recipe = preset("classroom")
        if scale.steps:
            self.recipe = self.recipe.replace(steps=scale.steps)

    def made_with(self) -> str:
        """A digest of all that the cells depend on, but for the library itself."""
        facts = [self.scale[:2], repr(SETTINGS), repr(TEACHERS), repr(GRIDS), repr(TUNED)]
        return digest(json.dumps([*facts, self.recipe.choices()], default=str), {})[:12]

    # --- what is trained, in order ---

    def tuning(self) -> list[tuple]:
        """A cell for each seed and setting in which methods are tuned."""
        return [
            ("tune", data, setting, seed)
            for data in dict.fromkeys(TUNED_ON[data] for data in self.data)
            for seed in self.tuning_seeds
            for setting in TUNED
        ]

    def sound(self) -> list[tuple]:
        """The cells of the tuning's teachers."""
        tuned = dict.fromkeys(TUNED_ON[data] for data in self.data)
        return [("teach", data, seed) for data in tuned for seed in self.tuning_seeds]

    def settings(self, data: str, seed: int) -> list[str]:
        """The settings of a data set and seed."""
        fewer = seed < self.scale.fewer
        if data == BESIDE:
            return list(FEWER) if fewer else []
        return [name for name in SETTINGS if fewer or not name.startswith("lifts")]

    def final(self) -> list[tuple]:
        """The final cells, seed by seed; the teachers of a seed come before its students."""
        jobs = []
        for seed in range(self.scale.seeds):
            data = [data for data in self.data if self.settings(data, seed)]
            jobs += [("teach", name, seed) for name in data]
            jobs += [("learn", n, each, seed) for n in data for each in self.settings(n, seed)]
        return jobs

    def plan(self) -> str:
        """How many cells there are, and how many are finished."""
        total = [*self.sound(), *self.tuning(), *self.final()]
        finished = sum(_cell(self.work, job).exists() for job in total)
        return f"{finished} cells are finished, of {len(total)}."

    @property
    def tuning_seeds(self) -> range:
        """Seeds of the tuning's data."""
        return range(TUNING, TUNING + self.scale.tuning)

    # --- how it is trained ---

    def case(self, data: str, seed: int) -> Case:
        """Recordings, recipe and parts."""
        case = made(data, seed, self.scale.tiles, self.folder)
        return case._replace(recipe=self.recipe.replace(seed=case.recipe.seed))

    def weights(self, name: str, role: str, data: str, seed: int) -> Path:
        """Where a teacher's weights are kept."""
        return self.work / f"{name} {role} {data} {seed}.safetensors"

    def trainer(self, case: Case, data: str, seed: int, setting: Setting) -> Trainer:
        """A trainer whose teachers are trained already."""
        trainer = Trainer(case.recordings, case.recipe, case.parts, progress=False)
        wanted = {"teacher": (setting.teacher, "teacher"), SECONDARY: (setting.teacher, SECONDARY)}
        if "ensemble" in setting.methods:
            wanted |= {name: (name, "teacher") for name in LIFTS}
        for stage, (name, role) in wanted.items():
            path = self.weights(name, role, data, seed)
            if not path.exists():  # the cell is another machine's, whose weights were not kept
                self.run("teach", data, seed)
            network = _network(case, role)
            network.load_state_dict(load_file(path))
            network = trainer.fabric.to_device(network.eval())
            trainer.stages[stage] = Stage(stage, network, "kept", Fit([], 0, 0.0))
        return trainer

    def run(self, kind: str, data: str, *rest: str | int) -> list[dict]:
        """One cell."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Trained one by one", UserWarning)  # as planned
            return getattr(self, f"_{kind}")(data, *rest)

    def _teach(self, data: str, seed: int) -> list[dict]:
        """All teachers of a data set and seed, and what they taught their secondary teachers."""
        case = self.case(data, seed)
        names = ["sound"]
        if seed < TUNING:
            settings = self.settings(data, seed)
            names = [*dict.fromkeys(SETTINGS[n].teacher for n in settings)]
            names += [*LIFTS[:2]] if any(n.startswith("lifts") for n in settings) else []
        trainers = {}
        for name in names:
            mine = given(case, TEACHERS.get(name, TEACHERS["sound"]), wrong=name == "wrong")
            networks = {}
            if name in LIFTS:  # other first weights, the same recordings and order
                with seeded(LIFTS.index(name) + 1):
                    networks = {"teacher": _network(case, "teacher")}
            trainers[name] = Trainer(
                mine.recordings, mine.recipe, mine.parts, networks=networks, progress=False
            )
        rows = []
        for role, train in (
            ("teacher", lambda trainer: trainer.supervise("teacher")),
            (SECONDARY, lambda trainer: trainer.distil(SECONDARY, "teacher")),
        ):
            asked = [name for name in names if role == "teacher" or name in TEACHERS]
            jobs = [(trainers[name], train) for name in asked]
            if role == SECONDARY and LIFTS[0] in names:
                asked.append(LIFTS[2])
                jobs.append((trainers["sound"], _born_again))
            stages = train_together(jobs, progress=False)
            for name, stage in zip(asked, stages, strict=True):
                kind = SECONDARY if stage.role == SECONDARY else "teacher"
                path, weights = self.weights(name, kind, data, seed), stage.network.state_dict()
                write_whole(path, lambda part, weights=weights: save_file(weights, part))
                trainer = trainers.get(name, trainers["sound"])
                row = self._row(trainer, data, f"teacher {name}", seed, stage, seed < TUNING)
                rows.append(row | {"method": kind})
        return rows

    def _students(
        self, data: str, setting: str, seed: int, jobs: list[tuple[str, dict]], tested: bool
    ) -> list[dict]:
        """A row for each method with what was chosen for it, all trained together."""
        asked, case = SETTINGS[setting], given(self.case(data, seed), SETTINGS[setting])
        trainers, work = {}, []
        for method, chosen in jobs:
            changed = recipe_of(case, asked, method)
            key = changed.recipe.digest()
            if key not in trainers:
                trainers[key] = self.trainer(changed, data, seed, asked)
            work.append((trainers[key], partial(_learn_one, method, chosen, changed.recipe)))
        stages = train_together(work, progress=False)
        return [
            self._row(trainer, data, setting, seed, stage, tested) | {"method": method}
            for (trainer, _), stage, (method, _) in zip(work, stages, jobs, strict=True)
        ]

    def _tune(self, data: str, setting: str, seed: int) -> list[dict]:
        numbered = [(m, n) for m in TUNED[setting] for n in range(len(GRIDS[m]))]
        jobs = [(m, {"hierarchy": {}, m: GRIDS[m][n]}) for m, n in numbered]
        rows = self._students(data, setting, seed, jobs, tested=False)
        return [row | {"number": n} for row, (_, n) in zip(rows, numbered, strict=True)]

    def _learn(self, data: str, setting: str, seed: int) -> list[dict]:
        chosen = json.loads((self.work / "chosen.json").read_text())[TUNED_ON[data]]
        jobs = [(method, chosen) for method in SETTINGS[setting].methods]
        return self._students(data, setting, seed, jobs, tested=True)

    def _row(
        self, trainer: Trainer, data: str, setting: str, seed: int, stage: Stage, tested: bool
    ) -> dict:
        best = stage.fit.history.set_index("epoch").loc[stage.fit.best_epoch]
        row = {
            "data": data,
            "setting": setting,
            "seed": seed,
            "validation_accuracy": float(best["validation_accuracy"]),
            "seconds": stage.fit.seconds,
            "verdict": stage.fit.history["verdict"].iloc[-1],
        }
        row |= {name: float(best[name]) for name in best.index if name.startswith("weight_")}
        if not tested:
            return row
        rows, examples = trainer.parts.test, trainer.examples
        inputs, labels = examples.samples(rows).inputs, examples.labels[rows]
        predicted = predict_logits(stage.network, inputs).argmax(1).numpy()
        names = (examples.class_names, examples.normal_classes)
        found = evaluate(predicted, labels, examples.groups[rows], *names)
        return row | {"accuracy": found.accuracy, "macro_recall": found.macro_recall}


def _network(case: Case, role: str) -> ResNet1d:
    spec = case.recipe.chain[role]
    return resnet1d(spec.depth, len(case.recordings.class_names), spec.width, spec.head)


def _born_again(trainer: Trainer) -> Stage:
    recipe = trainer.recipe.replace(method="kd")
    return trainer.distil("teacher", "teacher", recipe, LIFTS[2])


def _learn_one(method: str, chosen: dict, recipe: Recipe, trainer: Trainer) -> Stage:
    """Train by a method, and undo what it changed of the trainer's recipe."""
    try:
        return learn(trainer, method, chosen)
    finally:
        trainer.recipe = recipe


def _cell(work: Path, job: tuple) -> Path:
    """The file of a cell, as `cells` names it."""
    return work / ("-".join(map(str, job)) + ".json")


def choose(tuned: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """The candidate of each method with the best mean validation accuracy, the first of equals."""
    chosen: dict[str, dict[str, dict]] = {}
    means = tuned.groupby(["data", "method", "number"], sort=False)["validation_accuracy"].mean()
    for data, part in means.groupby("data", sort=False):
        by_method = part.droplevel("data").unstack("number")
        chosen[data] = {
            method: GRIDS[method][int(np.nanargmax(row))] for method, row in by_method.iterrows()
        }
    return chosen


@app.command(help=__doc__, epilog="Example: python data_scripts/second_study.py data/bearings")
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")] = Path(
        "data/bearings"
    ),
    data: Annotated[list[str] | None, Option(help=f"Data sets, of {', '.join(DATA)}.")] = None,
    quick: Annotated[bool, Option("--quick", help="Tiny data, few steps: to try it.")] = False,
    jobs: Annotated[int, Option(help="Cells at a time, one core each; -1 for all cores.")] = -1,
    scheduler: Scheduler = None,
    hours: Annotated[float | None, Option(help="Begin no cell after so many hours.")] = None,
    out: Annotated[Path | None, Option(help="Folder of the tables.")] = None,
    work: Annotated[Path | None, Option(help="Where finished cells are kept.")] = None,
    plan: Annotated[bool, Option("--plan", help="Only say what is left to do.")] = False,
) -> None:
    """Run what is missing; write the tables of what is finished."""
    if unknown := set(data or ()) - set(DATA):
        raise typer.BadParameter(f"data set {sorted(unknown)[0]!r} is unknown; choose of {DATA}")
    study = Study(QUICK if quick else FULL, folder.absolute(), Path(), tuple(data or DATA))
    out = out or Path("runs/quick/results" if quick else "hfld_lite/results")
    kept = (work or Path("runs/quick" if quick else "runs")).absolute()
    study.work = kept / f"second-{study.made_with()}"
    study.work.mkdir(parents=True, exist_ok=True)
    packed = out / "second_cells.jsonl.xz"
    if laid := unpack(packed, study.work, study.made_with()):
        print(f"{laid} finished cells were in {packed}.")
    print(study.plan())
    if plan:
        return
    if (
        any(name.startswith("bearings") for name in study.data)
        and not folder.is_dir()
        and hours != 0
    ):
        raise typer.BadParameter(
            f"{folder} is not there; make it with data_scripts/prepare_bearings.py, or give "
            "--data tiles."
        )
    until = None if hours is None else time.time() + 3600 * hours
    found = _run(study, jobs, until, scheduler)
    pack(study.work, packed, study.made_with())
    if found is None:
        print("Too little is finished for a table; the same command resumes.")
        return
    write_all(out, *found, study.plan(), study.scale.seeds, study.scale.fewer)


def _run(
    study: Study, jobs: int, until: float | None, scheduler: str | None
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Run what is missing and may begin; rows of tuning and of tests, or None without students."""
    there = [study.folder] if study.folder.is_dir() else []

    def step(todo: list[tuple]) -> pd.DataFrame:
        return cells(study.run, todo, study.work, jobs, until, scheduler, there)

    sound, candidates = study.sound(), study.tuning()
    if not len(step(sound)):
        return None
    tuned = step(candidates)
    if not all(_cell(study.work, job).exists() for job in candidates):
        return None
    write_whole(study.work / "chosen.json", json.dumps(choose(tuned), indent=1))
    rows = step(study.final())
    if rows.empty or not (rows["method"] == "hierarchy").any():
        return None
    return tuned, rows


if __name__ == "__main__":
    start(app)
