"""The study: every method on tiny data, nothing computed twice, nothing tuned on a test part."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hfld_lite.recipes import preset

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import _data
        import _methods
        import _study
        import run_study

        yield {"data": _data, "methods": _methods, "study": _study, "run": run_study}


@pytest.fixture(scope="module")
def quick(modules, tmp_path_factory):
    """Tables and cells of a quick study of one question."""
    folder = tmp_path_factory.mktemp("study")
    places = {"out": folder / "out", "work": folder / "work", "folder": folder}
    modules["run"].main(question="a", quick=True, jobs=1, hours=None, plan=False, **places)
    return folder


@pytest.mark.slow
def test_all_methods_and_ablations_are_measured(quick, modules):
    table = pd.read_csv(quick / "out" / "study.csv", comment="#").set_index("method")
    methods = modules["methods"]
    wanted = {*methods.GRIDS, *methods.ABLATIONS, "teacher", "secondary_teacher"}
    assert set(table.index) == wanted | {"assistant_teacher"}
    assert table["accuracy"].between(0, 1).all()
    assert table["calibration_error"].between(0, 1).all()
    others = table.drop("alone")
    assert (others["low_alone"] <= others["against_alone"]).all()
    assert (others["against_alone"] <= others["high_alone"]).all()
    assert (others["p_holm_alone"] >= others["p_alone"]).all()
    assert table.loc["alone", "seeds"] == table.loc["hierarchy", "seeds"] == 2
    tuned = pd.read_csv(quick / "out" / "study_tuning.csv", comment="#")
    sizes = tuned.groupby("method")["number"].nunique()
    assert sizes.index.tolist() == sorted(methods.GRIDS)
    assert sizes.nunique() == 1, "grids of equal size"


@pytest.mark.slow
def test_finished_cells_are_kept_and_tuning_never_reads_a_test_part(quick, modules, monkeypatch):
    monkeypatch.setattr(modules["run"].Study, "run", lambda *_: pytest.fail("computed again"))
    places = {"out": quick / "out", "work": quick / "work", "folder": quick}
    before = (quick / "out" / "study.csv").read_text()
    modules["run"].main(question="a", quick=True, jobs=1, hours=None, plan=False, **places)
    assert (quick / "out" / "study.csv").read_text() == before
    cells = [json.loads(path.read_text()) for path in (quick / "work").glob("*-*.json")]
    tested = [row for rows in cells for row in rows if "accuracy" in row]
    assert tested
    assert all(row["seed"] < modules["run"].TUNING for row in tested)


def test_no_cell_begins_after_its_time(modules, tmp_path):
    def run(name):
        return [{"name": name}]

    (tmp_path / "a.json").write_text('[{"name": "a"}]')
    found = modules["study"].cells(run, [("a",), ("b",)], tmp_path, 1, until=time.time() - 1)
    assert found["name"].tolist() == ["a"]
    assert not (tmp_path / "b.json").exists()


def test_validation_chooses_the_candidate_and_the_best_rival(modules):
    run, grids = modules["run"], modules["methods"].GRIDS
    rows = [
        {"data": "tiles", "method": method, "number": number, "validation_accuracy": accuracy}
        for method, grid in grids.items()
        for number in range(len(grid))
        for accuracy in (
            0.5 + 0.1 * (number == 1) + 0.2 * (method == "dkd"),
            0.5 + 0.3 * (method == "hierarchy"),
        )
    ]
    chosen = run.choose(pd.DataFrame(rows))["tiles"]
    assert all(chosen[method] == grid[1] for method, grid in grids.items())
    assert chosen["best rival"] == {"method": "dkd"}, "HFLKD is no rival"


def test_differences_are_paired_and_corrected(modules):
    rng = np.random.default_rng(0)
    base = rng.random((4, 200)) < 0.7
    groups = [str(i) for i in range(200)]
    better, same = base | (rng.random((4, 200)) < 0.5), rng.permuted(base, axis=1)
    rows = [
        {"method": name, "seed": seed, "right": right[seed].tolist(), "groups": groups}
        for name, right in (("alone", base), ("better", better), ("same", same))
        for seed in range(4)
    ]
    found = modules["run"].compare(pd.DataFrame(rows), "alone", rng)
    assert set(found) == {"better", "same"}
    assert found["better"]["difference"] == pytest.approx(better.mean() - base.mean())
    assert found["better"]["low"] > 0
    assert found["better"]["p_holm"] == pytest.approx(2 * found["better"]["p"])
    assert found["same"]["p_holm"] > 0.05


@pytest.mark.parametrize("condition", ["unseen 0", "unseen 10"])
def test_an_unseen_type_is_unseen_but_for_the_stated_share(modules, condition):
    recipe = preset("demo")
    case = modules["data"].tiles_case(condition, 1, recipe, 40)
    kinds = np.array([str(group)[0] for group in case.recordings.groups])
    assert set(kinds[case.parts.test]) == {"C"}
    known = np.concatenate([case.parts.train, case.parts.validation])
    of_c = known[kinds[known] == "C"]
    tiles = set(case.recordings.groups[of_c])
    assert len(tiles) == {"unseen 0": 0, "unseen 10": 4}[condition], "10 % of 2 x 24 tiles"
    assert not tiles & set(case.recordings.groups[case.parts.test])
    assert case.recordings.class_names == ("N", "D")


def test_few_labels_are_a_part_of_the_same_training_part(modules):
    recipe = preset("demo")
    few, all_ = (
        modules["data"].tiles_case(condition, 1, recipe, 20) for condition in ("25 % labels", "")
    )
    assert set(few.parts.train) < set(all_.parts.train)
    assert len(few.parts.train) == pytest.approx(0.25 * len(all_.parts.train), rel=0.2)
    assert few.parts.test.tolist() == all_.parts.test.tolist()


def test_noise_has_the_stated_level(modules):
    recipe = preset("demo")
    clean, noisy = (
        modules["data"].tiles_case(condition, 1, recipe, 10).recordings.signals
        for condition in ("", "0 dB")
    )
    ratio = np.mean(clean**2, axis=1) / np.mean((noisy - clean) ** 2, axis=1)
    assert 10 * np.log10(ratio) == pytest.approx(0, abs=0.5)
