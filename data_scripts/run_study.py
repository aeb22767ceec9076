"""The study: does hierarchical feature-logit distillation help, against whom, and where not?

All students begin with the same weights, see the same batches in the same order and take as many
steps. Hyper-parameters come from grids of equal size (`_methods`), chosen by validation accuracy on
other tiles, and on blocks of the bearings that are never tested. Each network is measured once on
its test part. Finished cells are kept and never computed again: the same command resumes where it
was stopped, --hours stops it in time, and --hours 0 only writes the tables and figures of what is
finished. Beside the tables all finished cells stand in one file, from which a fresh clone resumes.

Questions: a six classes of simulated tiles; b each type alone; c an unseen type; d noise; e few
labels; f the student's width; g bearings by block, load and fault size; h is a once more, the final
run: all tiles new, ten times as many to test on. a, and g by block, have all methods and ablations;
h what the paper's claims hang on; the others the student alone, KD, the best rival and HFLKD.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from _data import TEST_BLOCKS_SEED, TILE_SEED, Case, bearings_case, presets, tiles_case
from _methods import ABLATIONS, ASSISTANT, GRIDS, HFLKD, META_SHARE, SECONDARY, assist, train
from _study import cells, forget_peak, pack, peak_mib, start, unpack
from _summary import (
    AGAIN,
    CLAIMS,
    MAIN,
    choose,
    choose_secondary,
    draw,
    gap_closed,
    said_share,
    write_page,
    write_tables,
)
from safetensors.torch import load_file, save_file
from sklearn.manifold import TSNE
from typer import Option

from hfld_lite.app.many import Scheduler
from hfld_lite.data.views import network_inputs
from hfld_lite.evaluation.metrics import calibration_error, evaluate
from hfld_lite.evaluation.trust import suspicion
from hfld_lite.hierarchy import Stage, Trainer
from hfld_lite.networks import resnet1d
from hfld_lite.storage.files import digest, write_whole
from hfld_lite.storage.history import Fit
from hfld_lite.training import predict_logits

HEADLINE = ("alone", "hierarchy")
TELLING = [name for _, *pair in CLAIMS for name in pair if name in ABLATIONS]
"""Ablations that the paper's claims hang on."""

TUNING = 1000
"""The first seed of the tuning's data."""

CONDITIONS = {
    "a": ["tiles"],
    "b": ["tiles A", "tiles B", "tiles C"],
    "c": [f"tiles unseen {share}" for share in (0, 1, 5, 10)],
    "d": [f"tiles {snr} dB" for snr in (20, 10, 0, -10)],
    "e": [f"tiles {share} % labels" for share in (5, 10, 25, 50)],
    "f": [
        *(f"tiles width 1/{part}" for part in (2, 4, 8)),
        *(f"bearings width 1/{part}" for part in (4, 8)),
    ],
    "g": [
        "bearings block",
        *("bearings block clean", "bearings load", "bearings load clean"),
        *("bearings size", "bearings size clean"),
    ],
    "h": [AGAIN],
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

    def made_with(self) -> str:
        """A digest of all that the cells depend on, but for the library itself."""
        facts = [*self.scale[:2], TILE_SEED, TEST_BLOCKS_SEED, META_SHARE, repr(GRIDS)]
        facts += [recipe.digest() for recipe in self.recipes]
        return digest(json.dumps(facts), {})[:12]

    def case(self, data: str, seed: int) -> Case:
        """Recordings, recipe and parts of a condition."""
        if "width" in data:
            width = 1 / int(data.rpartition("/")[2])
            case = self.case(self.tuned_on(data), seed)
            student = case.recipe.student
            wider = type(student)(student.depth, width, student.head, epochs=student.epochs)
            return case._replace(recipe=case.recipe.replace(student=wider))
        kind, _, condition = data.partition(" ")
        tiles, bearings = self.recipes
        if kind == "bearings":
            return bearings_case(condition, seed, bearings, self.folder)
        return tiles_case(condition, seed, tiles, self.scale.tiles)

    def teachers_of(self, data: str) -> str:
        """Whose teachers a condition's students learn from."""
        return self.tuned_on(data) if data.endswith("labels") or "width" in data else data

    def plan(self) -> str:
        """How many cells there are, and how many are finished."""
        total = len(self.mains()) * self.scale.tuning + len(self.tuning())
        total += len(self.teaching(self.conditions()))
        chosen = self.kept("chosen") if (self.work / "chosen.json").exists() else None
        total += len({job for batch in self.main_students(chosen) for job in batch})
        for data in self.others():
            rival = chosen[self.tuned_on(data)]["best rival"]["method"] if chosen else "dkd"
            total += len(self.others_methods(data, rival)) * len(self.seeds(data))
        finished = len([*self.work.glob("*-*.json")])
        about = "" if chosen else "about "  # an ablation that changes nothing is left out
        return f"{finished} cells are finished, of {about}{total} for these questions."

    def conditions(self) -> list[str]:
        """All that was asked for."""
        return [data for question in self.questions for data in CONDITIONS[question]]

    def others(self) -> list[str]:
        """What was asked for, less the main data."""
        return [data for data in self.conditions() if data not in MAIN]

    def seeds(self, data: str) -> range:
        """Ten for the headline pair's data and the final run, five for the others."""
        return range(self.scale.headline if data in (*MAIN, AGAIN) else self.scale.seeds)

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

    def teaching(self, conditions: Iterable[str], seed: int | None = None) -> list[tuple]:
        """The teachers of some conditions, of one seed or of all."""
        wanted = dict.fromkeys(self.teachers_of(data) for data in conditions)
        return [
            ("teach", data, each)
            for data in wanted
            for each in self.seeds(data)
            if seed in (None, each)
        ]

    def main_students(self, chosen: dict[str, dict[str, dict]] | None = None) -> list[list[tuple]]:
        """On the main data, if asked for, in the order in which they are worth most.

        All methods, what the paper's claims hang on, more seeds of the headline pair, the other
        ablations; one that changes nothing of what was chosen is left out.
        """
        plan = (
            (GRIDS, self.scale.seeds),
            (TELLING, self.scale.seeds),
            (HEADLINE, self.scale.headline),
            (ABLATIONS, self.scale.seeds),
        )
        return [
            [
                ("learn", data, seed, method)
                for data in self.mains()
                if data in self.conditions()
                for seed in range(count)
                for method in methods
                if not (chosen and _is_chosen(ABLATIONS.get(method), chosen[data]["hierarchy"]))
            ]
            for methods, count in plan
        ]

    def others_methods(self, data: str, rival: str) -> list[str]:
        """On other data: the student alone, KD, the best rival and HFLKD.

        The final run has all that the paper's claims hang on, too.
        """
        # Whether the hierarchy closes a gap is a question to the direct step as well.
        more = ["direct"] if "width" in data else []
        if data == AGAIN:
            more = [name for _, *pair in CLAIMS for name in pair]
        return list(dict.fromkeys(("alone", "kd", rival, *more, "hierarchy")))

    def other_students(self, seed: int, chosen: dict[str, dict[str, dict]]) -> list[tuple]:
        """The students of one seed on all other data."""
        return [
            ("learn", data, seed, method)
            for data in self.others()
            if seed in self.seeds(data)
            for method in self.others_methods(
                data, chosen[self.tuned_on(data)]["best rival"]["method"]
            )
        ]

    # --- how it is trained ---

    def kept(self, name: str) -> dict:
        """What was chosen by validation, under each main data."""
        return json.loads((self.work / f"{name}.json").read_text())

    def keep(self, name: str, chosen: dict) -> None:
        """Write what was chosen."""
        write_whole(self.work / f"{name}.json", json.dumps(chosen, indent=1))

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
            teachers = self.teachers_of(data)
            if role == ASSISTANT and teachers not in MAIN:
                continue
            path = self.weights(stored, teachers, seed)
            if not path.exists():  # the cell is another machine's, whose weights were not kept
                self.run("teach", teachers, seed)
            spec = recipe.chain[SECONDARY if role == ASSISTANT else role]
            network = resnet1d(spec.depth, len(case.recordings.class_names), spec.width, spec.head)
            network.load_state_dict(load_file(path))
            trainer.stages[role] = Stage(role, network.eval(), "kept", Fit([], 0, 0.0))
        return trainer

    def run(self, kind: str, data: str, seed: int, *rest: Any) -> list[dict]:
        """One cell."""
        forget_peak()
        case = self.case(data, seed)
        rows = getattr(self, f"_{kind}")(case, data, seed, *rest)
        return [row | {"peak_mib": peak_mib()} for row in rows]

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
            weights = stage.network.state_dict()
            write_whole(path, lambda part, weights=weights: save_file(weights, part))
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
        began = time.process_time()  # not the clock, which other programs make run
        stage = train(trainer, method, chosen)
        spent = {"cpu_seconds": time.process_time() - began}
        return [self._row(case, data, seed, stage, tested=True) | spent | {"method": method}]

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
        inputs = network_inputs(part.signals, case.recipe, part.sample_rate)
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
            "groups": np.unique(part.groups, return_inverse=True)[1].tolist(),
            "labels": part.labels.tolist(),
            "predicted": predicted.tolist(),
            "defective": (~np.isin(part.labels, normal)).tolist() if normal else None,
            "suspicion": suspicion(probabilities, normal).round(4).tolist() if normal else None,
            "places": _places(stage, inputs) if data == "tiles" and seed == 0 else None,
        }


def _is_chosen(change: dict[str, Any] | None, chosen: dict[str, Any]) -> bool:
    return change is not None and all(chosen.get(name) == change[name] for name in change)


def _places(stage: Stage, inputs: torch.Tensor) -> list | None:
    """Where t-SNE lays the features of the student, trained alone and distilled."""
    if stage.role not in ("student_alone", "hierarchy"):
        return None
    with torch.inference_mode():
        features = stage.network(inputs).features.flatten(1).numpy()
    laid = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(features)
    return laid.round(1).tolist()


@app.command(
    help=__doc__, epilog="Example: python data_scripts/run_study.py data/bearings --jobs 2"
)
def main(
    folder: Annotated[Path, typer.Argument(help="Bearings, from prepare_bearings.py.")] = Path(
        "data/bearings"
    ),
    question: Annotated[str, Option(help="Questions to answer, letters from a to h.")] = "abcdefgh",
    quick: Annotated[bool, Option("--quick", help="Tiny data, one epoch: to try it.")] = False,
    jobs: Annotated[int, Option(help="Cells at a time, one core each; -1 for all cores.")] = -1,
    scheduler: Scheduler = None,
    hours: Annotated[float | None, Option(help="Begin no cell after so many hours.")] = None,
    out: Annotated[Path | None, Option(help="Folder of the tables.")] = None,
    work: Annotated[Path | None, Option(help="Where finished cells are kept.")] = None,
    plan: Annotated[bool, Option("--plan", help="Only say what is left to do.")] = False,
) -> None:
    """Run what is missing; write the tables when nothing is."""
    if unknown := set(question) - set(CONDITIONS):
        raise typer.BadParameter(f"question {sorted(unknown)[0]!r} is unknown; choose of abcdefgh")
    scale = QUICK if quick else FULL
    out = out or Path("runs/quick/results" if quick else "hfld_lite/results")
    study = Study(scale, folder.absolute(), Path(), "".join(sorted(set(question))))
    kept = (work or Path("runs/quick" if quick else "runs")).absolute()
    study.work = kept / f"study-{study.made_with()}"
    study.work.mkdir(parents=True, exist_ok=True)
    packed = out / "study_cells.jsonl.xz"
    if laid := unpack(packed, study.work, study.made_with()):
        print(f"{laid} finished cells were in {packed}.")
    print(study.plan())
    if plan:
        return
    until = None if hours is None else time.time() + 3600 * hours
    found = _run(study, jobs, until, scheduler)
    pack(study.work, packed, study.made_with())
    if found is None:
        print("Too little is finished for a table; the same command resumes.")
        return
    notes = (
        f"{study.plan()} Seeds 0 to {scale.seeds - 1}, on the main data the student alone and "
        f"HFLKD with the hierarchy 0 to {scale.headline - 1}; tiles: simulated, {scale.tiles} a "
        f"class; {AGAIN}: all methods {scale.headline} seeds of new tiles, tested on "
        f"{2 * scale.tiles} more a class; bearings: real, known bearings, in noise unless called "
        "clean.",
        "command: python data_scripts/run_study.py data/bearings",
    )
    tuned, rows = found
    table = write_tables(out, tuned, rows, *notes)
    draw(out, table, rows, study.recipes[0])
    write_page(out, table, rows, *notes)
    print(table[["data", "method", "seeds", "accuracy", "against_alone"]].to_string(index=False))
    for data in dict.fromkeys(rows["data"]):
        print(f"{data}: share of the gap closed {said_share(*gap_closed(rows, data))}")


def _run(
    study: Study, jobs: int, until: float | None, scheduler: str | None
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Run what is missing and may begin; rows of tuning and of tests, or None without students."""
    there = [study.folder] if study.folder.is_dir() else []

    def step(todo: list[tuple]) -> pd.DataFrame:
        return cells(study.run, todo, study.work, jobs, until, scheduler, there)

    teachers = [("teach", data, seed) for data in study.mains() for seed in study.tuning_seeds()]
    taught = step(teachers)
    if len(taught) < len(teachers):
        return None
    study.keep("secondary", choose_secondary(taught))
    candidates = study.tuning()
    tuned = step(candidates)
    if len(tuned) < len(candidates):
        return None
    chosen = choose(tuned)
    study.keep("chosen", chosen)
    found = []
    for batch in study.main_students(chosen):
        taught_by = dict.fromkeys(("teach", data, seed) for _, data, seed, _ in batch)
        found += [step([*taught_by]), step(batch)]
    for seed in range(study.scale.headline):
        found.append(step(study.teaching(study.others(), seed)))
        found.append(step(study.other_students(seed, chosen)))
    rows = pd.concat(found, ignore_index=True)
    if rows.empty:
        return None
    taught = rows[rows["method"].isin(("teacher", SECONDARY))]
    for data in study.others():  # the teachers of several students stand with each
        if (teachers := study.teachers_of(data)) != data:
            mine = taught[(taught["data"] == teachers) & taught["seed"].isin(study.seeds(data))]
            rows = pd.concat([rows, mine.assign(data=data)], ignore_index=True)
    rows = rows.drop_duplicates(["data", "seed", "method"])  # some are in several batches
    # Means are over the same seeds: teachers whose students are not trained yet are left out.
    learned = rows[rows["method"] == "alone"].set_index(["data", "seed"]).index
    rows = rows[rows.set_index(["data", "seed"]).index.isin(learned)].copy()
    rows["right"] = [np.equal(row.labels, row.predicted).tolist() for row in rows.itertuples()]
    return tuned, rows


if __name__ == "__main__":
    start(app)
