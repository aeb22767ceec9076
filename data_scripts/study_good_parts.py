"""Study of detectors that learn from good parts alone.

The plan, written before it was run:

1. ``choose``: on development sets that the tables do not use, every score is fitted on good parts
   and compared by its AUC on the validation part, where half of the defective groups are. The score
   with the lowest mean rank over sets and seeds is the default (DEFAULT in
   ``hfld_lite.evaluation.good_parts``) of those that fit on a device as C: features and spectrum.
2. ``test``: simulated tiles (types A, B, C; trained on sound ones only), five seeds, and Case
   Western's bearings, where the normal recording is one machine's: its windows are told from those
   of each fault. Normal recordings there are at 48 kHz and faults at 12 kHz, so the normal one is
   converted first; that its level differs is left as it is, since views remove the level. The test
   part is read once: AUC, partial AUC, misses at the promised share of false alarms, for every
   score; by severity for tiles and by fault for bearings; the student in eight bits, as C computes
   it; and, as the ceiling, a student that learned from labelled defects, on the same test part.

Every cell is kept in the folder given by --work; the same command resumes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from _development import SETS
from _study import cells, start, write_table
from scipy.signal import resample_poly
from typer import Option

from hfld_lite.data.good_parts import as_good, split_good
from hfld_lite.data.mat_files import mat_variable, read_long_mat
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import simulate_with_truth
from hfld_lite.data.splits import Split, split
from hfld_lite.edge.firmware import export_firmware
from hfld_lite.evaluation.good_parts import DEFAULT, measured, probabilities, train_good
from hfld_lite.evaluation.metrics import mean_interval
from hfld_lite.evaluation.trust import suspicion
from hfld_lite.hierarchy import distill_chain
from hfld_lite.rivals.presets import preset

RESULTS = Path(__file__).parents[1] / "hfld_lite" / "results"

CHOOSING: dict[str, str] = {
    "chirps": "slow up",
    "impacts": "sound",
    "modulation": "slow",
    "late-impacts": "sound",
    "imbalance": "sound",
}
"""Development sets, and the class that is good there."""

CHOOSING_SEEDS, SEEDS = 2, 5

TILES_PER_CLASS, DROPS = 60, 2
"""Tiles of each type that are sound, and as many defective ones."""

NORMAL_FACTOR, WINDOW, BLOCKS = 4, 512, 28
"""How much faster normal bearings were sampled; samples of a window at 12 kHz (43 ms); blocks of
time, which are the groups: 28, so that a block has two windows of the short normal recording."""

LABELS = "labelled defects"
"""The ceiling: a student that learned from them."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def tiles(seed: int) -> tuple[Recordings, np.ndarray]:
    """Simulated tiles, good ones by type, and the severity of each defect (0 if none)."""
    found, truth = simulate_with_truth(tiles_per_class=TILES_PER_CLASS, drops=DROPS, seed=seed)
    severity = truth.set_index("group")["severity"].where(truth.set_index("group")["defective"], 0)
    good = as_good(found, [name for name in found.class_names if name.endswith("N")])
    return good, severity.loc[found.groups].to_numpy()


def bearings(folder: Path) -> Recordings:
    """Windows of all bearings at 12 kHz, in two classes; a group is a block of time of one file."""
    faults = read_long_mat(folder, window=WINDOW, blocks=BLOCKS, leave_out=("N",))
    fast = mat_variable(folder / "N_load0.mat", "DE_time").ravel()
    slow = resample_poly(fast, 1, NORMAL_FACTOR).astype(np.float32)
    size = len(slow) // BLOCKS // WINDOW
    starts = [
        block * (len(slow) // BLOCKS) + i * WINDOW for block in range(BLOCKS) for i in range(size)
    ]
    blocks = np.repeat(np.arange(BLOCKS), size)
    normal = np.stack([slow[begin : begin + WINDOW] for begin in starts])
    # Of each fault no more than of the normal recording, so that no fault outweighs the others.
    rows = np.concatenate(
        [
            np.random.default_rng(0).permutation(np.flatnonzero(faults.labels == label))[:60]
            for label in range(len(faults.class_names))
        ]
    )
    faults = faults.select(np.sort(rows))
    both = replace(
        faults,
        signals=np.concatenate([normal, faults.signals]),
        labels=np.concatenate([np.zeros(len(normal), int), faults.labels + 1]),
        groups=np.concatenate([[f"N/block{b:02d}" for b in blocks], faults.groups]),
        origins=np.concatenate([[f"N_load0.mat:{i}" for i in range(len(normal))], faults.origins]),
        class_names=("N", *faults.class_names),
        normal_classes=("N",),
    )
    return as_good(both, ["N"])


def choose_cell(name: str, seed: int) -> list[dict]:
    """The AUC of every score on the validation part of a development set."""
    recordings = as_good(SETS[name](seed)[0], [CHOOSING[name]])
    parts = split_good(recordings, use_defects=True, seed=seed)
    recipe = preset("classroom").replace(seed=seed)
    found = train_good(recordings, recipe, parts, use_defects=True, progress=False)
    return [
        {"set": name, "seed": seed, "score": score, "auc": auc}
        for score, auc in found.chosen_by.items()
    ]


def test_cell(folder: str, name: str, seed: int) -> list[dict]:
    """Every score on the test part, the student in eight bits, and the ceiling."""
    began = time.perf_counter()
    severity = None
    if name == "tiles":
        recordings, severity = tiles(seed)
    else:
        recordings = bearings(Path(folder))
    parts = split_good(recordings, seed=seed)
    recipe = preset("classroom").replace(seed=seed)
    found = train_good(recordings, recipe, parts, progress=False)
    chain, test = found.chain, parts.test
    table = found.table(recordings, test)
    rows = [{"set": name, "seed": seed, "part": "all", **row} for row in table.to_dict("records")]
    inputs, part = chain.examples.samples(test).inputs, recordings.select(test)
    answers = {
        (score, role): probabilities(network, inputs)
        for score, networks in found.networks.items()
        for role, network in networks.items()
    }
    answers["features, int8", "student"], bytes_ = _in_eight_bits(found, recordings, parts, part)
    rows.append(
        {"set": name, "seed": seed, "part": "all", "score": "features, int8", "role": "student"}
        | measured(answers["features, int8", "student"], part)
        | {"bytes": bytes_}
    )
    answers[LABELS, "student"], rest = _ceiling(recordings, recipe, test, seed)
    rows.append(
        {"set": name, "seed": seed, "part": "all", "score": LABELS, "role": "student"}
        | measured(answers[LABELS, "student"][rest], part.select(np.flatnonzero(rest)))
    )
    good = part.labels == 0
    for of, chosen in _parts_of(part, None if severity is None else severity[test]).items():
        for (score, role), each in answers.items():
            keep = (good | chosen) & (rest if score == LABELS else True)
            if len(np.unique(part.labels[keep])) == 2:
                rows.append(
                    {"set": name, "seed": seed, "part": of, "score": score, "role": role}
                    | measured(each[keep], part.select(np.flatnonzero(keep)))
                )
    for row in rows:
        row |= {"false_alarms": found.false_alarms, "groups": found.groups}
        row["seconds"] = time.perf_counter() - began
    return [{k: v for k, v in row.items() if v == v} for row in rows]  # NaN is left out


def _parts_of(part: Recordings, severity: np.ndarray | None) -> dict[str, np.ndarray]:
    """Masks of defective recordings: by thirds of severity, or by fault."""
    bad = part.labels == 1
    if severity is None:
        return {kind: part.kinds == kind for kind in np.unique(part.kinds[bad]).tolist()}
    ends = np.quantile(severity[bad], (1 / 3, 2 / 3))
    third = np.digitize(severity, ends)
    return {
        f"severity: {word}": bad & (third == number)
        for number, word in enumerate(("mild", "medium", "severe"))
    }


def _in_eight_bits(
    found: object, recordings: Recordings, parts: Split, part: Recordings
) -> tuple[np.ndarray, int]:
    """What the C of the student says, and the bytes of its weights and tables."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        written = export_firmware(
            found.chain.detector, folder, "c", recordings=lambda: recordings, split=parts
        )
    return written.predict["int8"](part.signals)[:, 1].astype(float), written.constants["int8"]


def _ceiling(
    recordings: Recordings, recipe: object, test: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A student that learned from labelled defects; which test recordings it did not learn from.

    Half of the defective groups of the test part teach it, beside all other recordings.
    """
    groups = recordings.groups[test]
    bad = recordings.labels[test] == 1
    names = np.random.default_rng(seed).permutation(np.unique(groups[bad]))
    teaching = np.isin(groups, names[: len(names) // 2]) & bad
    known = np.setdiff1d(np.arange(len(recordings)), test[~teaching])
    own = recordings.select(known)
    inner = split(own, validation=0.2, test=0.1, seed=seed)
    chain = distill_chain(own, recipe, inner, controls=(), progress=False)
    p = chain.predict(recordings.signals[test], recordings.sample_rate)
    return suspicion(p, (0,)).astype(float), ~teaching


@app.command()
def choose(
    work: Annotated[Path, Option(help="Folder for the cells.")] = Path("runs/good_parts"),
    jobs: Annotated[int, Option(help="Trainings at a time.")] = 1,
    out: Annotated[Path, Option(help="Folder for the table.")] = RESULTS,
) -> None:
    """Compare the scores on development sets, and say which is the default by the rule."""
    todo = [(name, seed) for seed in range(CHOOSING_SEEDS) for name in CHOOSING]
    table = cells(choose_cell, todo, work / "choose", jobs)
    write_table(
        out / "good_parts_chosen.csv",
        table,
        "AUC of each score on the validation part of development sets; the data were made by "
        "data_scripts/_development.py.",
        "python data_scripts/study_good_parts.py choose",
    )
    ranks = table.assign(rank=table.groupby(["set", "seed"])["auc"].rank(ascending=False))
    mean = ranks.groupby("score")[["rank", "auc"]].mean().sort_values("rank")
    print(mean.round(3).to_string())
    print(f"The default is {DEFAULT!r}.")


@app.command("test")
def measure(
    folder: Annotated[Path | None, typer.Argument(help="Folder of CLASS_loadN.mat files.")] = None,
    work: Annotated[Path, Option(help="Folder for the cells.")] = Path("runs/good_parts"),
    jobs: Annotated[int, Option(help="Trainings at a time.")] = 1,
    out: Annotated[Path, Option(help="Folder for the table.")] = RESULTS,
) -> None:
    """Measure every score on tiles, and on bearings if their folder is given."""
    sets = ["tiles", *(["bearings"] if folder else [])]
    run: Callable = partial(_cell, str(folder or ""))
    rows = cells(run, [(n, s) for s in range(SEEDS) for n in sets], work / "test", jobs)
    rows["role"] = rows["role"].fillna("")
    summed = []
    for (name, part, score, role), each in rows.groupby(["set", "part", "score", "role"]):
        row = {"set": name, "part": part, "score": score, "role": role, "seeds": len(each)}
        for figure in ("auc", "partial_auc", "miss_rate", "false_alarm_rate"):
            if figure in each and each[figure].notna().any():
                row[figure], row[f"{figure}_low"], row[f"{figure}_high"] = mean_interval(
                    each[figure].dropna().tolist()
                )[:3]
        row |= {"false_alarms": each["false_alarms"].mean(), "bytes": each["bytes"].max()}
        summed.append(row)
    table = pd.DataFrame(summed)
    write_table(
        out / "good_parts.csv",
        table,
        "Detectors that learned from good parts alone, on the test part; intervals are t intervals "
        "over seeds, at 95 %.",
        "python data_scripts/study_good_parts.py test FOLDER_OF_BEARINGS",
    )
    whole = table[table["part"] == "all"].sort_values(["set", "auc"], ascending=[True, False])
    print(whole.round(3).to_string(index=False))


def _cell(folder: str, name: str, seed: int) -> list[dict]:
    return test_cell(folder, name, seed)


if __name__ == "__main__":
    start(app)
