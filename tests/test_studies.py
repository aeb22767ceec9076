"""The programs behind the stored tables: what they compute, and that they never do it twice."""

import ast
import re
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hfld_lite import HfldError, Recipe, preset, resnet1d
from hfld_lite.data.simulator.simulate import simulate_with_truth
from hfld_lite.data.simulator.tiles import Bench
from hfld_lite.edge.analysis import Latency, stored_bytes
from hfld_lite.weighting import WEIGHTINGS

SCRIPTS = Path(__file__).parent.parent / "data_scripts"
RESULTS = SCRIPTS.parent / "hfld_lite" / "results"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _study

    return _study


@pytest.fixture
def weighting(monkeypatch, study, tiny_recordings, tiny_recipe):
    """The comparison of weightings on tiny data."""
    import compare_weighting

    monkeypatch.setattr(
        compare_weighting, "tiles", lambda seed: (tiny_recordings, tiny_recipe.replace(seed=seed))
    )
    monkeypatch.setattr(compare_weighting, "META_SHARE", 0.2)  # of so few tiles
    return compare_weighting


def test_every_strategy_gets_the_same_start_and_steps(weighting, tiny_recipe, monkeypatch):
    rows = pd.DataFrame(weighting.run("tiles", 0, "")).set_index("strategy")
    assert set(rows.index) == {
        *("alone", "fixed", "published", "naive", "uncertainty", "meta", "random search"),
        *("teacher", "secondary_teacher"),
    }
    assert rows["validation_accuracy"].between(0, 1).all()
    assert rows.loc["fixed", "feature"] == 1
    for name in ("uncertainty", "meta"):
        weights = rows.loc[name, list(weighting.TERMS)]
        assert weights.sum() == pytest.approx(4, rel=1e-3)
    assert rows.loc["alone", list(weighting.TERMS)].isna().all()


def test_weighting_summary_is_paired_against_fixed(weighting):
    rows = [
        {
            "data": "d",
            "seed": seed,
            "strategy": name,
            "validation_accuracy": 0.8 + 0.05 * seed + gain * (1 + (seed - 1) / 10),
            **dict.fromkeys(weighting.TERMS, 1.0),
            "seconds": 2.0,
            "verdict": "collapsed" if name == "naive" else "",
        }
        for seed in range(3)
        for name, gain in (("fixed", 0.0), ("meta", 0.02), ("naive", -0.01))
    ]
    table = weighting.summarise(pd.DataFrame(rows)).set_index("strategy")
    assert table.loc["meta", "against_fixed"] == pytest.approx(0.02)
    # 0.018, 0.020 and 0.022: t(0.975; 2) = 4.3027 times 0.002 / √3
    assert table.loc["meta", "low"] == pytest.approx(0.02 - 4.3027 * 0.002 / 3**0.5, abs=1e-4)
    assert table.loc["meta", "high"] == pytest.approx(0.02 + 4.3027 * 0.002 / 3**0.5, abs=1e-4)
    assert np.isnan(table.loc["fixed", "low"])
    assert table.loc["naive", "collapsed"] == 3
    assert table.loc["fixed", "validation_accuracy"] == pytest.approx(0.85)


@pytest.fixture
def sweep(monkeypatch, study, tiny_recordings, tiny_recipe):
    """The sweep on tiny data, with two students."""
    import sweep_students

    for name, value in {
        "tiles": lambda seed: (tiny_recordings, tiny_recipe.replace(seed=seed)),
        "DEPTHS": (10,),
        "WIDTHS": (1 / 16,),
        "BINS": (600,),
        "CALIBRATION": 40,
        "latency": lambda run: run() and Latency(1.0, 1.0, 1.0, 1, 1),
    }.items():
        monkeypatch.setattr(sweep_students, name, value)
    monkeypatch.setattr("hfld_lite.edge.export.CALIBRATION", 40)
    return sweep_students


def test_the_sweep_writes_its_tables_and_does_not_train_twice(sweep, tmp_path, monkeypatch):
    sweep.main(seeds=2, out=tmp_path / "out", jobs=1, work=tmp_path / "work")
    read = {
        name: pd.read_csv(tmp_path / "out" / f"{name}.csv", comment="#")
        for name in ("edge_sweep", "edge_chosen")
    }
    table, tested = read.values()
    assert list(table["head"]) == ["small", "small", "published", "published"]
    assert list(table["method"]) == ["alone", "distilled"] * 2
    assert (table["seeds"] == 2).all()
    student = resnet1d(10, 6, 1 / 16, "small")
    assert (table["int8_bytes"][:2] == stored_bytes(student, "int8")).all()
    assert set(tested["method"] + tested["precision"]) == {
        *("teacherfp32", "alonefp32", "aloneint8", "distilledfp32", "distilledint8")
    }
    assert (tmp_path / "out" / "edge_front.png").read_bytes().startswith(b"\x89PNG")
    for name in ("teach", "learn", "test"):
        monkeypatch.setattr(sweep, name, lambda *_: pytest.fail("computed again"))
    first = (tmp_path / "out" / "edge_sweep.csv").read_text()
    sweep.main(seeds=2, out=tmp_path / "out", jobs=1, work=tmp_path / "work")
    assert (tmp_path / "out" / "edge_sweep.csv").read_text() == first


def test_both_students_of_a_cell_start_alike_and_one_is_taught(sweep, tmp_path, monkeypatch):
    sweep.teach(tmp_path, "teachers", 600, 0)
    started = {}
    for name in ("supervise", "distil"):
        original = getattr(sweep.Trainer, name)

        def spy(self, role, *others, original=original):
            stage = original(self, role, *others)
            started[role] = others, stage.network
            return stage

        monkeypatch.setattr(sweep.Trainer, name, spy)
    rows = sweep.learn(tmp_path, 600, 0, 10, 1 / 16, "small")
    assert [row["method"] for row in rows] == ["alone", "distilled"]
    assert started["student_alone"][0] == ()
    assert started["student"][0] == ("secondary_teacher",)
    kept = load_file(tmp_path / "secondary_teacher-600-0.safetensors")
    assert kept.keys() == resnet1d(10, 4, 1 / 16, "small").state_dict().keys()


def test_the_front_holds_what_nothing_beats(sweep):
    rows = [
        # method, accuracy, cost; the third is beaten by the first, the fourth ties with it
        ("distilled", 0.90, 10),
        ("distilled", 0.95, 20),
        ("distilled", 0.89, 11),
        ("distilled", 0.90, 10),
        ("alone", 0.99, 1),
    ]
    table = pd.DataFrame(rows, columns=["method", "validation_accuracy", "int8_bytes"])
    assert sweep.front(table, "int8_bytes").tolist() == [True, True, False, True, False]


def test_the_chosen_student_is_the_best_within_both_budgets(sweep):
    table = pd.DataFrame(
        {
            "method": ["distilled"] * 4 + ["alone"],
            "validation_accuracy": [0.99, 0.98, 0.95, 0.95, 1.0],
            "int8_bytes": [20_001, 20_000, 15_000, 14_000, 10],
            "macs": [1, 30_000_001, 30_000_000, 30_000_000, 10],
        }
    )
    assert sweep.choose(table).name == 3
    with pytest.raises(HfldError, match="No student fits the budgets"):
        sweep.choose(table[:2])


def test_what_the_results_page_says_of_the_sweep_is_in_its_tables():
    table = pd.read_csv(RESULTS / "edge_sweep.csv", comment="#")
    assert (table["seeds"] >= 3).all()
    chosen = pd.read_csv(RESULTS / "edge_chosen.csv", comment="#")
    means = chosen.groupby(["method", "precision"])["test_accuracy"].mean()
    assert means["distilled", "int8"] >= means["teacher", "fp32"] - 0.01, "the goal"
    assert means["distilled", "int8"] > means["alone", "int8"]
    pairs = table.pivot(index=["bins", "depth", "width", "head"], columns="method")
    gain = pairs["validation_accuracy"]["distilled"] - pairs["validation_accuracy"]["alone"]
    assert len(gain) == 21
    assert (gain > 0).sum() == 17
    assert gain.groupby("width").mean().idxmax() == 1 / 16
    bins = pairs["validation_accuracy"]["distilled"].unstack("bins").idxmax(axis=1)
    assert (bins == 875).all()
    ratio = table["fp32_ms"] / table["int8_ms"]
    assert (ratio[table["width"] == 1 / 16][table["head"] == "small"] < 1).all()


@pytest.fixture
def compared(monkeypatch, study, tiny_recordings, tiny_recipe):
    """The comparison of networks on tiny data."""
    import compare_networks

    def tiny(*args):
        return tiny_recordings, tiny_recipe.replace(seed=args[-1])

    monkeypatch.setattr(compare_networks, "tiles", tiny)
    monkeypatch.setattr(compare_networks, "bearings", tiny)
    return compare_networks


def test_a_quick_comparison_of_networks_writes_a_table_of_its_own(compared, tmp_path, monkeypatch):
    def call(*options):
        words = [tmp_path, "--quick", "--jobs", 1, "--work", tmp_path / "work", *options]
        return CliRunner().invoke(compared.app, [str(word) for word in words])

    monkeypatch.setattr(compared, "QUICK_GROUPS", 8)
    monkeypatch.setattr(compared, "STORED", tmp_path / "stored.csv")
    done = call("--seeds", 2, "--data", "bearings")
    assert done.exit_code == 0, done.output
    path = tmp_path / "work" / "quick" / "stored.csv"
    assert not compared.STORED.exists()
    assert path.read_text().startswith("# A trial of the program")
    table = pd.read_csv(path, comment="#").set_index("network")
    assert list(table.index) == [*compared.NETWORKS_1D, "teacher", "student"]
    assert set(table["data"]) == {"bearings"}
    assert (table["seeds"] == 2).all()
    assert table["width"].tolist() == [1 / 16] * 4 + [1 / 8, 1 / 16]
    assert table.loc["vgg19", "parameters_full"] == 62_007_362
    assert table.loc["student", "parameters_full"] == 13_089_378
    student = resnet1d(10, 4, 1 / 16, "small")
    assert table.loc["student", "parameters"] == sum(p.numel() for p in student.parameters())
    assert table[["test_accuracy", "validation_accuracy"]].stack().between(0, 100).all()
    assert table["test_accuracy"].max() > 1, "in %"
    monkeypatch.setattr(compared, "fit", lambda *_: pytest.fail("trained again"))
    again = tmp_path / "again.csv"
    assert call("--seeds", 2, "--data", "bearings", "--out", again).exit_code == 0
    assert again.read_text() == path.read_text()


def test_all_compared_networks_learn_alike_and_the_test_part_is_read_once(
    compared, tmp_path, monkeypatch
):
    fits, tested = {}, []
    original = compared.fit, compared.predict_logits

    def fit(objective, train, validation, recipe, epochs, **options):
        result = original[0](objective, train, validation, recipe, epochs, **options)
        fits[name] = (train, validation, options["seed"], epochs), result
        return result

    def predict(network, inputs):
        tested.append(inputs)
        return original[1](network, inputs)

    monkeypatch.setattr(compared, "fit", fit)
    monkeypatch.setattr(compared, "predict_logits", predict)
    for name in ("alexnet", "teacher", "student"):
        monkeypatch.setitem(compared.WIDTHS, "alexnet", 1 / 16)
        (row,) = compared.run(tmp_path, False, "tiles", name, 0)
        result = fits[name][1]
        accuracies = result.history.set_index("epoch")["validation_accuracy"]
        assert row["validation_accuracy"] == accuracies[result.best_epoch] == accuracies.max()
    assert len(tested) == 3
    (train, validation, seed, epochs), _ = fits["alexnet"]
    for other, _ in fits.values():
        assert torch.equal(other[0].inputs, train.inputs)
        assert torch.equal(other[1].inputs, validation.inputs)
        assert other[2:] == (seed, epochs)
    rows = [set(map(tuple, part.tolist())) for part in (train.inputs, validation.inputs, tested[0])]
    assert not rows[0] & rows[1]
    assert not rows[2] & (rows[0] | rows[1])


def test_a_comparison_of_networks_refuses_what_is_not_there_before_it_trains(
    compared, tmp_path, monkeypatch
):
    monkeypatch.setattr(compared, "cells", lambda *_: pytest.fail("trained"))
    for options, found in (
        ([str(tmp_path / "nowhere")], "prepare_bearings.py"),
        ([str(tmp_path), "--data", "tile"], "--data is 'tile'"),
    ):
        done = CliRunner().invoke(compared.app, [*options, "--work", str(tmp_path / "work")])
        assert done.exit_code == 2
        assert found in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "work").exists()


def test_networks_are_summarised_in_percent_over_seeds(compared):
    rows = [
        {
            **{"data": "tiles", "network": name, "seed": seed, "width": 0.25},
            **{"parameters": 10, "parameters_full": 100, "seconds": 2.0 + seed},
            **{"test_accuracy": 0.8 + 0.1 * seed, "validation_accuracy": 0.9},
        }
        for name in ("vgg19", "alexnet")
        for seed in range(2)
    ]
    table = compared.summarise(pd.DataFrame(rows))
    assert list(table["network"]) == ["vgg19", "alexnet"], "in the order of the program"
    assert table.loc[0, "test_accuracy"] == 85
    assert table.loc[0, "deviation"] == pytest.approx(7.07)
    assert table.loc[0, "validation_accuracy"] == 90
    assert table.loc[0, "seconds"] == 2.5


def test_finished_cells_are_not_computed_again(study, tmp_path):
    calls = tmp_path / "calls"

    def run(name, seed):
        with calls.open("a") as file:
            file.write(f"{name}{seed} ")
        return [{"name": name, "seed": seed}]

    jobs = [("a/b", 0), ("a/b", 1)]
    first = study.cells(run, jobs, tmp_path / "cells", 1)
    again = study.cells(run, jobs, tmp_path / "cells", 1)
    assert calls.read_text().split() == ["a/b0", "a/b1"]
    pd.testing.assert_frame_equal(first, again)
    assert not list((tmp_path / "cells").glob("*.part"))


def test_tables_say_how_they_were_made(study, tmp_path):
    study.write_table(tmp_path / "new" / "t.csv", pd.DataFrame({"a": [1, 2]}), "what", "command: x")
    lines = (tmp_path / "new" / "t.csv").read_text().splitlines()
    assert lines[:2] == ["# what", "# command: x"]
    assert "torch" in lines[2]
    assert list(pd.read_csv(tmp_path / "new" / "t.csv", comment="#")["a"]) == [1, 2]


def test_missing_bearings_are_an_error_that_names_the_program(study, tmp_path):
    with pytest.raises(HfldError, match=r"prepare_bearings\.py"):
        study.bearings(tmp_path / "nowhere", 0)


def test_calibration_threshold_and_ceiling(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import calibrate_simulator as calibrate

    from hfld_lite.data.splits import split

    bench = Bench(severity_low=0.5, severity_high=0.6)
    data, truth = simulate_with_truth("AB", 40, 1, 1, bench)
    fresh, fresh_truth = simulate_with_truth("AB", 40, 1, 2, bench)
    assert calibrate.threshold(truth, fresh_truth) > 0.95, "such defects are plain to see"
    assert calibrate.ceiling(data, truth, split(data), fresh, fresh_truth) > 0.95
    coins = np.random.default_rng(0).random((2, len(truth))) < 0.5
    tossed = truth.assign(defective=coins[0]), fresh_truth.assign(defective=coins[1])
    assert calibrate.threshold(*tossed) < 0.7, "there is nothing to find"


def test_stored_tables_hold_to_the_simulator_and_its_targets():
    path = RESULTS / "simulator_calibration.csv"
    table = pd.read_csv(path, comment="#")
    (bench,) = (line for line in path.read_text().splitlines() if line.startswith("# bench: "))
    assert ast.literal_eval(bench.removeprefix("# bench: ")) == asdict(Bench()), "calibrate again"
    means = table.groupby("network")["accuracy"].mean()
    assert table.groupby("network")["seed"].nunique().min() >= 3
    assert 0.96 <= means["teacher, alone"] <= 0.99
    assert means["student, alone"] <= means["teacher, alone"] - 0.02
    assert means["one true frequency and a threshold, N or D"] < means["student, alone"]
    assert means["true modal parameters (ceiling)"] > means["teacher, alone"]


def test_the_default_weighting_is_the_one_that_validation_chose():
    table = pd.read_csv(RESULTS / "weighting_strategies.csv", comment="#")
    assert (table["seeds"] >= 5).all()
    assert set(table["data"]) == {"tiles", "bearings"}
    means = table[table["strategy"].isin(list(WEIGHTINGS))].groupby("strategy")[
        "validation_accuracy"
    ]
    assert means.mean().idxmax() == Recipe().weighting
    assert all(
        recipe.weighting == Recipe().weighting for recipe in (preset("demo"), preset("paper"))
    )
    naive = table[table["strategy"] == "naive"]
    assert (naive["collapsed"] == naive["seeds"]).all(), "what notebooks and docstrings say of it"


QUOTED = re.compile(r"([+-]\d+\.\d)\s\(([+-]\d+\.\d)\sto\s([+-]\d+\.\d)\)")
SHARE = re.compile(r"\s(\d\.\d\d)\s\((-?\d\.\d\d)\sto\s(\d\.\d\d)\)")


def quoted(text):
    """Differences in points, +1.4 (+0.5 to +2.4), and shares, 0.77 (0.37 to 2.43)."""
    found = QUOTED.findall(text) + SHARE.findall(text)
    return {tuple(map(float, ends)) for ends in found}


STUDIES = ("study", "second_study")


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "hfld_lite/results/README.md",
        "notebooks/09_evaluation_and_generalisation.ipynb",
    ],
)
def test_every_interval_that_a_page_quotes_is_in_the_studies_tables(name):
    known = set().union(*(quoted((RESULTS / f"{study}.md").read_text()) for study in STUDIES))
    known |= {(-middle, -high, -low) for middle, low, high in known}
    text = (SCRIPTS.parent / name).read_text()
    if name.endswith(".ipynb"):
        cells = nbformat.reads(text, 4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert quoted(text), "nothing is quoted, so that nothing is tested"
    assert quoted(text) <= known


def test_no_program_names_a_place_of_the_machine_it_ran_on():
    for path in RESULTS.glob("*.csv"):
        assert str(SCRIPTS.parent) not in path.read_text()
        assert sys.prefix not in path.read_text()


def test_a_table_that_says_the_same_keeps_the_date_that_made_it(study, tmp_path):
    path, table = tmp_path / "t.csv", pd.DataFrame({"a": [1, 2]})
    study.write_table(path, table, "what it is")
    earlier = path.read_text().replace("# hfld_lite", "# hfld_lite 0.0.1, long ago,")
    path.write_text(earlier)
    study.write_table(path, table, "what it is")
    assert path.read_text() == earlier
    for other in ((table + 1, "what it is"), (table, "what it was")):
        path.write_text(earlier)
        study.write_table(path, *other)
        assert path.read_text() != earlier
        assert "long ago" not in path.read_text()
