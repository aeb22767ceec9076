"""The study: does hierarchical feature-logit distillation help, against whom, and where not?

All students begin with the same weights, see the same batches in the same order and take as many
steps. Hyper-parameters come from grids of equal size (`_methods`), chosen by validation accuracy on
other tiles, and on blocks of the bearings that are never tested. Each network is measured once on
its test part. Finished cells are kept in --work and never computed again: the same command goes on
where it was stopped, and --hours stops it in time.

Questions: a six classes of simulated tiles; b each type alone; c an unseen type; d noise; e few
labels; f the student's width; g bearings by block, load and fault size. a, and g by block, have all
methods and ablations; the others the student alone, KD, the best rival and HFLKD.
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from _data import Case, bearings_case, presets, tiles_case
from _methods import ABLATIONS, ASSISTANT, GRIDS, HFLKD, META_SHARE, SECONDARY, assist, train
from _study import cells, write_table
from safetensors.torch import load_file, save_file
from typer import Option

from hfld_lite.detector import network_inputs
from hfld_lite.metrics import calibration_error, evaluate, holm, paired_interval
from hfld_lite.networks import resnet1d
from hfld_lite.trainer import Stage, Trainer
from hfld_lite.training import Fit, predict_logits
from hfld_lite.trust import suspicion

MAIN = ("tiles", "bearings block")
HEADLINE = ("alone", "hierarchy")
RIVALS = ("kd", "fitnet", "attention", "dkd", "standardised", "matching", "assistant", "dense")
TUNING = 1000
"""The first seed of the tuning's data."""

CONDITIONS = {
    "a": ["tiles"],
    "b": ["tiles A", "tiles B", "tiles C"],
    "c": [f"tiles unseen {share}" for share in (0, 1, 5, 10)],
    "d": [f"tiles {snr} dB" for snr in (20, 10, 0, -10)],
    "e": [f"tiles {share} % labels" for share in (5, 10, 25, 50)],
    "f": [f"tiles width 1/{part}" for part in (2, 4, 8)],
    "g": [
        "bearings block",
        *("bearings block clean", "bearings load", "bearings load clean"),
        *("bearings size", "bearings size clean"),
    ],
}


class Scale(NamedTuple):
    """How large the study is."""

    tiles: int
    epochs: int | None
    seeds: int
    headline: int
    tuning: int


FULL, QUICK = Scale(130, None, 5, 10, 2), Scale(18, 1, 1, 2, 1)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Study:
    """The cells, in the order in which they are worth most."""

    def __init__(self, scale: Scale, folder: Path, work: Path, questions: str) -> None:
        self.scale, self.folder, self.work = scale, folder, work
        self.questions = questions
        self.recipes = presets(scale.epochs)

    def case(self, data: str, seed: int) -> Case:
        """Recordings, recipe and parts of a condition."""
        kind, _, condition = data.partition(" ")
        tiles, bearings = self.recipes
        if kind == "bearings":
            return bearings_case(condition, seed, bearings, self.folder)
        if not condition.startswith("width"):
            return tiles_case(condition, seed, tiles, self.scale.tiles)
        width = 1 / int(condition.rpartition("/")[2])
        case = tiles_case("", seed, tiles, self.scale.tiles)
        student = case.recipe.student
        wider = type(student)(student.depth, width, student.head, epochs=student.epochs)
        return case._replace(recipe=case.recipe.replace(student=wider))

    def teachers_of(self, data: str) -> str:
        """Whose teachers a condition's students learn from."""
        return "tiles" if data.endswith("labels") or "width" in data else data

    def plan(self) -> str:
        """How many cells there are, and how many are finished."""
        others = [data for data in self.conditions() if data not in MAIN]
        total = len(self.mains()) * self.scale.tuning + len(self.tuning())
        total += len(self.teaching(self.conditions())) + len(self.main_students())
        total += sum(5 * len(self.seeds(data)) for data in others)
        finished = len([p for p in self.work.glob("*-*.json")])
        return f"{finished} cells are finished, of about {total} for these questions."

    def conditions(self) -> list[str]:
        """All that was asked for."""
        return [data for question in self.questions for data in CONDITIONS[question]]

    def seeds(self, data: str) -> range:
        """Ten for the headline pair's data, five for the others."""
        return range(self.scale.headline if data in MAIN else self.scale.seeds)

    def tuned_on(self, data: str) -> str:
        """The main data whose hyper-parameters a condition takes."""
        return MAIN[data.startswith("bearings")]

    # --- what is trained, in order ---

    def mains(self) -> list[str]:
        """The main data, on each of which everything is tuned that the questions need."""
        return [m for m in MAIN if any(self.tuned_on(data) == m for data in self.conditions())]

    def tuning_seeds(self) -> range:
        """Seeds of the tuning's data."""
        return range(TUNING, TUNING + self.scale.tuning)

    def tuning(self) -> list[tuple]:
        """A cell for each candidate of each method."""
        return [
            ("tune", data, seed, method, number)
            for data in self.mains()
            for method, grid in GRIDS.items()
            for number in range(len(grid))
            for seed in self.tuning_seeds()
        ]

    def teaching(self, conditions: Iterable[str]) -> list[tuple]:
        """The teachers of some conditions."""
        wanted = dict.fromkeys(self.teachers_of(data) for data in conditions)
        return [("teach", data, seed) for data in wanted for seed in self.seeds(data)]

    def main_students(self) -> list[tuple]:
        """On the main data, if asked for: the headline pair, all methods, all ablations."""
        plan = (
            (HEADLINE, self.scale.headline),
            (GRIDS, self.scale.seeds),
            (ABLATIONS, self.scale.seeds),
        )
        todo = [
            ("learn", data, seed, method)
            for methods, count in plan
            for data in self.mains()
            if data in self.conditions()
            for seed in range(count)
            for method in methods
        ]
        return list(dict.fromkeys(todo))

    def other_students(self, data: str, chosen: dict[str, dict[str, dict]]) -> list[tuple]:
        """On other data: the student alone, KD, the best rival and HFLKD."""
        rival = chosen[self.tuned_on(data)]["best rival"]["method"]
        methods = dict.fromkeys(("alone", "kd", rival, "direct", "hierarchy"))
        return [("learn", data, seed, method) for seed in self.seeds(data) for method in methods]

    # --- how it is trained ---

    def kept(self, name: str) -> dict:
        """What was chosen by validation, under each main data."""
        return json.loads((self.work / f"{name}.json").read_text())

    def keep(self, name: str, chosen: dict) -> None:
        """Write what was chosen."""
        (self.work / f"{name}.json").write_text(json.dumps(chosen, indent=1))

    def weights(self, role: str, data: str, seed: int) -> Path:
        """Where a teacher's weights are kept."""
        return self.work / f"{role} {data.replace('/', '_')} {seed}.safetensors"

    def trainer(self, case: Case, data: str, seed: int, meta: bool = False) -> Trainer:
        """A trainer whose teachers are trained already."""
        recipe = case.recipe.replace(meta_share=META_SHARE) if meta else case.recipe
        trainer = Trainer(case.recordings, recipe, case.parts, progress=False)
        for role in ("teacher", SECONDARY, ASSISTANT):
            stored = role
            if role == SECONDARY and seed >= TUNING:
                stored = f"{role} {self.kept('secondary')[data]}"
            path = self.weights(stored, self.teachers_of(data), seed)
            if not path.exists():
                continue
            spec = recipe.chain[SECONDARY if role == ASSISTANT else role]
            network = resnet1d(spec.depth, len(case.recordings.class_names), spec.width, spec.head)
            network.load_state_dict(load_file(path))
            trainer.stages[role] = Stage(role, network.eval(), "kept", Fit(pd.DataFrame(), 0, 0.0))
        return trainer

    def run(self, kind: str, data: str, seed: int, *rest: Any) -> list[dict]:
        """One cell."""
        case = self.case(data, seed)
        return getattr(self, f"_{kind}")(case, data, seed, *rest)

    def _teach(self, case: Case, data: str, seed: int) -> list[dict]:
        trainer = Trainer(case.recordings, case.recipe, case.parts, progress=False)
        stages = [trainer.supervise("teacher")]
        if seed >= TUNING:  # every candidate, to choose one of
            for number, weights in enumerate(HFLKD):
                recipe = case.recipe.replace(**weights)
                name = f"{SECONDARY} {number}"
                stages.append(trainer.distil(SECONDARY, "teacher", recipe, name))
        else:
            weights = HFLKD[self.kept("secondary")[self.tuned_on(data)]]
            stages.append(trainer.distil(SECONDARY, "teacher", case.recipe.replace(**weights)))
        if data in MAIN:
            stages.append(assist(trainer))
        rows = []
        for stage in stages:
            path = self.weights(stage.role, data, seed)
            save_file(stage.network.state_dict(), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
            rows.append(self._row(case, data, seed, stage, tested=seed < TUNING))
        return rows

    def _tune(self, case: Case, data: str, seed: int, method: str, number: int) -> list[dict]:
        trainer = self.trainer(case, data, seed)
        stage = train(trainer, method, {method: GRIDS[method][number]})
        return [
            self._row(case, data, seed, stage, tested=False) | {"method": method, "number": number}
        ]

    def _learn(self, case: Case, data: str, seed: int, method: str) -> list[dict]:
        trainer = self.trainer(case, data, seed, meta=method == "weights meta")
        chosen = self.kept("chosen")[self.tuned_on(data)]
        stage = train(trainer, method, chosen)
        return [self._row(case, data, seed, stage, tested=True) | {"method": method}]

    def _row(self, case: Case, data: str, seed: int, stage: Stage, tested: bool) -> dict:
        best = stage.fit.history.set_index("epoch").loc[stage.fit.best_epoch]
        row = {
            "data": data,
            "seed": seed,
            "method": stage.role,
            "validation_accuracy": float(best["validation_accuracy"]),
            "seconds": stage.fit.seconds,
            "verdict": stage.fit.history.get("verdict", pd.Series([""])).iloc[-1],
        }
        if not tested:
            return row
        part = case.recordings.select(case.parts.test)
        inputs = network_inputs(part.signals, case.recipe)
        probabilities = torch.softmax(predict_logits(stage.network, inputs), 1).numpy()
        predicted = probabilities.argmax(1)
        found = evaluate(predicted, part.labels, part.groups, part.class_names, part.normal_classes)
        normal = tuple(part.class_names.index(name) for name in part.normal_classes)
        return row | {
            "accuracy": found.accuracy,
            "miss_rate": found.miss_rate,
            "false_alarm_rate": found.false_alarm_rate,
            "macro_recall": found.macro_recall,
            "calibration_error": calibration_error(probabilities, part.labels),
            "right": (predicted == part.labels).tolist(),
            "groups": part.groups.tolist(),
            "labels": part.labels.tolist(),
            "predicted": predicted.tolist(),
            "suspicion": suspicion(probabilities, normal).round(4).tolist() if normal else None,
        }


def choose_secondary(taught: pd.DataFrame) -> dict[str, int]:
    """The candidate of the secondary teacher with the best mean validation accuracy."""
    mine = taught[taught["method"].str.startswith(SECONDARY)]
    means = mine.groupby(["data", "method"])["validation_accuracy"].mean()
    return {data: int(part.idxmax()[1].rpartition(" ")[2]) for data, part in means.groupby("data")}


def choose(tuned: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """The candidate of each method with the best mean validation accuracy, the first of equals.

    Under "best rival" stands the rival whose chosen candidate was the best.
    """
    chosen: dict[str, dict[str, dict]] = {}
    means = tuned.groupby(["data", "method", "number"], sort=False)["validation_accuracy"].mean()
    for data, part in means.groupby("data", sort=False):
        by_method = part.droplevel("data").unstack("number")
        chosen[data] = {
            method: GRIDS[method][int(row.to_numpy().argmax())]
            for method, row in by_method.iterrows()
        }
        best = by_method.max(axis=1)[list(RIVALS)]
        chosen[data]["best rival"] = {"method": str(best.idxmax())}
    return chosen


def compare(rows: pd.DataFrame, base: str, rng: np.random.Generator) -> dict[str, Any]:
    """Paired differences of each method from one, with Holm's correction for all of them."""
    found = {}
    at = rows[rows["method"] == base]
    for method, part in rows.groupby("method", sort=False):
        pairs = part.merge(at, on="seed", suffixes=("", "_base"))
        if method != base and len(pairs):
            runs = [(r.right, r.right_base, r.groups) for r in pairs.itertuples()]
            found[method] = paired_interval(runs, rng)
    adjusted = holm([paired.p for paired in found.values()])
    return {
        method: paired._asdict() | {"p_holm": p}
        for (method, paired), p in zip(found.items(), adjusted, strict=True)
    }


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of every method on every data, and its differences from two of them."""
    rng, table = np.random.default_rng(0), []
    for data, part in rows.groupby("data", sort=False):
        against = {base: compare(part, base, rng) for base in ("alone", "kd")}
        for method, mine in part.groupby("method", sort=False):
            row = {"data": data, "method": method, "seeds": len(mine)}
            row |= {"accuracy": mine["accuracy"].mean(), "deviation": mine["accuracy"].std()}
            for base, found in against.items():
                for name, value in found.get(method, {}).items():
                    row[f"against_{base}" if name == "difference" else f"{name}_{base}"] = value
            for name in ("miss_rate", "false_alarm_rate", "macro_recall", "calibration_error"):
                row[name] = mine[name].astype(float).mean()
            row["seconds"] = mine["seconds"].mean()
            table.append(row)
    return pd.DataFrame(table)


def gap_closed(table: pd.DataFrame) -> Iterator[str]:
    """How much of the gap from the student alone to the teacher each data's hierarchy closes."""
    for data, part in table.groupby("data", sort=False):
        means = part.set_index("method")["accuracy"]
        if {"alone", "teacher", "hierarchy"} <= set(means.index):
            gap = means["teacher"] - means["alone"]
            share = (means["hierarchy"] - means["alone"]) / gap if gap > 0 else float("nan")
            yield (
                f"{data}: student alone {means['alone']:.1%}, hierarchy {means['hierarchy']:.1%}, "
                f"teacher {means['teacher']:.1%}; share of the gap closed {share:.2f}"
            )


@app.command(
    help=__doc__, epilog="Example: python data_scripts/run_study.py data/bearings --jobs 2"
)
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")] = Path(
        "data/bearings"
    ),
    question: Annotated[str, Option(help="Questions to answer, letters from a to g.")] = "abcdefg",
    quick: Annotated[bool, Option("--quick", help="Tiny data, one epoch: to try it.")] = False,
    jobs: Annotated[int, Option(help="Cells at a time, one core each; -1 for all cores.")] = -1,
    hours: Annotated[float | None, Option(help="Begin no cell after so many hours.")] = None,
    out: Annotated[Path | None, Option(help="Folder of the tables.")] = None,
    work: Annotated[Path | None, Option(help="Where finished cells are kept.")] = None,
    plan: Annotated[bool, Option("--plan", help="Only say what is left to do.")] = False,
) -> None:
    """Run what is missing; write the tables when nothing is."""
    if unknown := set(question) - set(CONDITIONS):
        raise typer.BadParameter(f"question {sorted(unknown)[0]!r} is unknown; choose of abcdefg")
    scale = QUICK if quick else FULL
    out = out or Path("runs/quick/results" if quick else "notebooks/results")
    work = work or Path("runs/quick/study" if quick else "runs/study")
    work.mkdir(parents=True, exist_ok=True)
    study = Study(scale, folder, work, "".join(sorted(set(question))))
    if plan:
        print(study.plan())
        return
    until = None if hours is None else time.time() + 3600 * hours
    try:
        _run(study, out, jobs, until)
    except _OutOfTime:
        print(f"Stopped after {hours:g} hours; the same command goes on. {study.plan()}")


class _OutOfTime(Exception):
    pass


def _run(study: Study, out: Path, jobs: int, until: float | None) -> None:
    def step(todo: list[tuple]) -> pd.DataFrame:
        rows = cells(study.run, todo, study.work, jobs, until)
        if until is not None and time.time() > until:
            raise _OutOfTime
        return rows

    teachers = [("teach", data, seed) for data in study.mains() for seed in study.tuning_seeds()]
    study.keep("secondary", choose_secondary(step(teachers)))
    tuned = step(study.tuning())
    chosen = choose(tuned)
    study.keep("chosen", chosen)
    mains = [data for data in study.mains() if data in study.conditions()]
    found = [step(study.teaching(mains)), step(study.main_students())]
    for data in study.conditions():
        if data not in MAIN:
            taught = step(study.teaching([data]))
            if study.teachers_of(data) == data:
                found.append(taught)
            found.append(step(study.other_students(data, chosen)))
    write(study, out, tuned, pd.concat(found))


def write(study: Study, out: Path, tuned: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write the tables, and print the headlines."""
    scale, table = study.scale, summarise(rows)
    notes = (
        f"Seeds 0 to {scale.seeds - 1}, the headline pair 0 to {scale.headline - 1}; tiles: "
        f"simulated, {scale.tiles} a class; bearings: real, in noise unless called clean.",
        f"command: python data_scripts/run_study.py --question {study.questions}",
    )
    write_table(
        out / "study.csv",
        table.round(5),
        "TEST accuracy of every method on every data, mean and deviation over seeds, and paired "
        "differences from the student alone and from KD: 95 % bootstrap intervals over seeds and "
        "groups, two-sided p, and p by Holm's correction within the data.",
        *notes,
    )
    write_table(
        out / "study_tuning.csv",
        tuned.groupby(["data", "method", "number"], sort=False)["validation_accuracy"]
        .agg(["mean", "std"])
        .reset_index()
        .assign(
            candidate=lambda t: [str(GRIDS[m][n]) for m, n in zip(t.method, t.number, strict=True)]
        )
        .round(5),
        "VALIDATION accuracy of every candidate, on data that no test part holds.",
        *notes,
    )
    print(table[["data", "method", "seeds", "accuracy", "against_alone"]].to_string(index=False))
    for line in gap_closed(table):
        print(line)


if __name__ == "__main__":
    app()
