"""The study: every method on tiny data, nothing computed twice, nothing tuned on a test part."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hfld_lite.rivals.presets import preset

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import _data
        import _methods
        import _study
        import _summary
        import run_study

        yield {
            "data": _data,
            "methods": _methods,
            "study": _study,
            "summary": _summary,
            "run": run_study,
        }


@pytest.fixture(scope="module")
def quick(modules, tmp_path_factory):
    """Tables and cells of a quick study of one question."""
    folder = tmp_path_factory.mktemp("study")
    run_a(modules, folder)
    return folder


def run_a(modules, folder, hours=None, question="a", out="out"):
    """The quick study of question a, with its tables in the folder."""
    places = {"out": folder / out, "work": folder / "work", "folder": folder}
    modules["run"].main(question=question, quick=True, jobs=1, hours=hours, plan=False, **places)


@pytest.mark.slow
def test_all_methods_and_ablations_are_measured(quick, modules):
    table = pd.read_csv(quick / "out" / "study.csv", comment="#").set_index("method")
    methods = modules["methods"]
    chosen = json.loads(next(quick.glob("work/*/chosen.json")).read_text())["tiles"]["hierarchy"]
    same = f"temperature {chosen['temperature']:g}"
    wanted = {*methods.GRIDS, *methods.ABLATIONS, "teacher", "secondary_teacher"} - {same}
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
    before = (quick / "out" / "study.csv").read_text()
    run_a(modules, quick)
    assert (quick / "out" / "study.csv").read_text() == before
    cells = [json.loads(path.read_text()) for path in quick.glob("work/*/*-*.json")]
    tested = [row for rows in cells for row in rows if "accuracy" in row]
    assert tested
    assert all(row["seed"] < modules["run"].TUNING for row in tested)


@pytest.mark.slow
def test_a_fresh_clone_goes_on_from_the_packed_cells(quick, modules, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    shutil.copy(quick / "out" / "study_cells.jsonl.xz", tmp_path / "out")
    run_a(modules, tmp_path, hours=0)  # nothing is trained
    assert "finished cells were in" in capsys.readouterr().out
    for name in ("study.csv", "study_gap.csv", "study_verdicts.csv", "study_tuning.csv"):
        assert (tmp_path / "out" / name).read_text() == (quick / "out" / name).read_text()
    gone = next(tmp_path.glob("work/*/learn-tiles-0-dkd.json"))
    before = json.loads(gone.read_text())[0]["predicted"]
    gone.unlink()
    run_a(modules, tmp_path)  # without teachers' weights, which are not packed
    assert json.loads(gone.read_text())[0]["predicted"] == before


def test_cells_of_other_settings_are_not_taken(modules, tmp_path, capsys):
    work, packed, other = tmp_path / "work", tmp_path / "cells.xz", tmp_path / "other"
    work.mkdir()
    (work / "a-1.json").write_text('[{"x": 1}]')
    modules["study"].pack(work, packed, "these")
    assert modules["study"].unpack(packed, other, "others") == 0
    assert "other settings" in capsys.readouterr().out
    assert modules["study"].unpack(packed, other, "these") == 1
    assert json.loads((other / "a-1.json").read_text()) == [{"x": 1}]
    assert modules["study"].unpack(packed, other, "these") == 0, "nothing is laid twice"
    study = {
        seeds: modules["run"].Study(modules["run"].QUICK._replace(tiles=seeds), tmp_path, work, "a")
        for seeds in (18, 19)
    }
    assert study[18].made_with() != study[19].made_with()


@pytest.mark.slow
def test_every_answered_question_has_its_figure_and_the_page_shows_all(quick):
    drawn = {path.name for path in (quick / "out").glob("study_*.png")}
    wanted = ("chain", "forest", "roc", "confusion", "features")
    assert drawn == {f"study_{name}.png" for name in wanted}
    assert all((quick / "out" / name).read_bytes().startswith(b"\x89PNG") for name in drawn)
    page = (quick / "out" / "study.md").read_text()
    assert set(re.findall(r"\]\((\S+)\)", page)) == drawn
    table = pd.read_csv(quick / "out" / "study.csv", comment="#").set_index("method")
    row = table.loc["hierarchy"]
    assert f"| hierarchy | 2 | {100 * row.accuracy:.1f} | {100 * row.deviation:.1f} |" in page
    assert f"| {100 * row.against_alone:+.1f} ({100 * row.low_alone:+.1f} to " in page
    assert len(re.findall(r"\| (held|not held|not decided) \|", page)) == 8


@pytest.mark.slow
def test_students_of_shared_teachers_are_held_against_them(quick, modules, monkeypatch):
    wide = {"f": ["tiles width 1/8"]}
    monkeypatch.setattr(modules["run"], "CONDITIONS", modules["run"].CONDITIONS | wide)
    run_a(modules, quick, question="f", out="f")
    table = pd.read_csv(quick / "f" / "study.csv", comment="#").set_index(["data", "method"])
    assert set(table.index.get_level_values("data")) == {"tiles width 1/8"}
    methods = {"alone", "kd", "direct", "hierarchy", rival(quick), "teacher", "secondary_teacher"}
    assert set(table.index.get_level_values("method")) == methods
    taught = table.loc["tiles width 1/8", "teacher"]
    assert taught["seeds"] == 1, "of the two that the main data have"
    teacher, *_ = json.loads(next(quick.glob("work/*/teach-tiles-0.json")).read_text())
    assert taught["accuracy"] == pytest.approx(teacher["accuracy"], abs=1e-5)


@pytest.mark.slow
def test_the_final_run_has_all_that_the_claims_hang_on(quick, modules):
    run_a(modules, quick, question="h", out="h")
    table = pd.read_csv(quick / "h" / "study.csv", comment="#")
    assert set(table["data"]) == {"tiles again"}
    claimed = {name for _, *pair in modules["summary"].CLAIMS for name in pair}
    taught = {"teacher", "secondary_teacher"}
    assert set(table["method"]) == {"alone", "kd", *claimed, *taught} | {rival(quick)}
    judged = pd.read_csv(quick / "h" / "study_verdicts.csv", comment="#")
    assert judged["claim"].tolist() == [claim for claim, *_ in modules["summary"].CLAIMS]


def rival(quick):
    """The best rival by validation in the quick study."""
    chosen = json.loads(next(quick.glob("work/*/chosen.json")).read_text())
    return chosen["tiles"]["best rival"]["method"]


def test_the_final_run_is_of_new_tiles_and_tests_on_ten_times_as_many(modules):
    recipe = preset("demo")
    before, case = (modules["data"].tiles_case(name, 1, recipe, 10) for name in ("", "again"))
    groups = {name: set(case.recordings.groups[rows]) for name, rows in case.parts.parts().items()}
    assert not groups["test"] & (groups["train"] | groups["validation"])
    assert len(groups["test"]) == 10 * len(set(before.recordings.groups[before.parts.test]))
    assert len(case.parts.train) == len(before.parts.train)
    assert case.recipe.seed != before.recipe.seed
    sounds = {signal.tobytes() for signal in before.recordings.signals}
    assert not sounds & {signal.tobytes() for signal in case.recordings.signals}


def test_no_two_simulations_of_the_study_share_a_seed(modules, monkeypatch):
    data, run, seeds = modules["data"], modules["run"], []
    known = data.simulate_tiles("ABC", tiles_per_class=10, drops=1)

    def simulate(*_, seed, **__):
        seeds.append(seed)
        return known

    monkeypatch.setattr(data, "simulate_tiles", simulate)
    recipe = preset("demo")
    try:
        for seed in range(run.FULL.headline):
            data._simulated.cache_clear()
            data.tiles_case("", seed, recipe, 10)
            data.tiles_case("again", seed, recipe, 10)
        for seed in range(run.TUNING, run.TUNING + run.FULL.tuning):
            data.tiles_case("", seed, recipe, 10)
    finally:
        data._simulated.cache_clear()
    assert len(seeds) == len(set(seeds)) == 3 * run.FULL.headline + run.FULL.tuning


def test_a_wider_student_has_the_teachers_and_parts_of_the_main_data(modules):
    scale = modules["run"].QUICK._replace(tiles=10)
    study = modules["run"].Study(scale, Path(), Path(), "f")
    wide, main = (study.case(name, 1) for name in ("tiles width 1/4", "tiles"))
    assert wide.recipe.student.width == 1 / 4
    assert wide.recipe.replace(student=main.recipe.student) == main.recipe
    assert wide.parts.to_dict() == main.parts.to_dict()
    assert study.teachers_of("bearings width 1/2") == "bearings block"
    assert study.teachers_of("tiles width 1/2") == study.teachers_of("tiles 5 % labels") == "tiles"


def test_every_question_has_a_figure_with_all_its_data(modules):
    summary = modules["summary"]
    conditions = [data for group in modules["run"].CONDITIONS.values() for data in group]
    places = {data: number for number, data in enumerate(conditions)}
    table = pd.DataFrame(
        {"data": data, "method": method, "accuracy": 0.9 + 0.001 * place, "deviation": 0.01}
        | {"against_alone": 0.001 * place, "low_alone": -0.01, "high_alone": 0.04}
        for data, place in places.items()
        for method in ("alone", "kd", "dense", "hierarchy", "teacher")
    )
    rows = pd.DataFrame(columns=["data", "method", "seed", "places"])
    figures = dict(summary._figures(table, rows))
    of_answers = {"chain", "roc", "confusion", "features"}
    assert set(figures) == set(summary.FIGURES) - of_answers
    forest = figures["where"].axes
    titles = ["HFLKD through the chain", "dense guidance", "plain KD"]
    assert [axis.get_title() for axis in forest] == titles
    assert len(forest[0].get_yticks()) == len(conditions)
    for name, wanted in (
        ("noise", "-10 0 10 20"),
        ("labels", "5 10 25 50 100"),
        ("width", "2 4 8 16"),
        ("width_bearings", "4 8 16"),
        ("unseen", "0 1 5 10"),
    ):
        (axis,) = figures[name].axes
        assert [tick.get_text() for tick in axis.get_xticklabels()] == wanted.split()
        drawn = {line.get_label(): line[0].get_ydata() for line in axis.containers}
        assert set(drawn) == {"student alone", "plain KD", "teacher", *titles[:2]}
        assert {len(heights) for heights in drawn.values()} == {len(wanted.split())}, name


def test_the_share_of_the_gap_is_of_means_and_undefined_without_a_gap(modules):
    accuracy = {"alone": 0.90, "hierarchy": 0.93, "teacher": 0.94}
    rows = pd.DataFrame(
        {"data": data, "seed": seed, "method": method, "accuracy": 0.9 + sign * gain * (10 + seed)}
        for data, sign in (("with", 0.1), ("without", -0.1))
        for seed in range(5)
        for method, value in accuracy.items()
        for gain in [value - 0.9]
    )
    share, low, high = modules["summary"].gap_closed(rows, "with")
    assert [share, low, high] == pytest.approx([0.75] * 3)
    assert np.isnan(modules["summary"].gap_closed(rows, "without")).all()
    assert np.isnan(modules["summary"].gap_closed(rows, "nothing")).all()


@pytest.mark.parametrize(
    ("ends", "p", "verdict"),
    [
        ((0.004, 0.001, 0.007), 0.01, "held"),
        ((0.004, 0.001, 0.007), 0.20, "not decided"),
        ((0.004, -0.001, 0.009), 0.01, "not decided"),
        ((-0.001, -0.006, 0.004), 0.9, "not held"),
    ],
)
def test_a_claim_is_judged_by_its_interval(modules, ends, p, verdict):
    summary, columns = modules["summary"], ("against_hierarchy", "low_hierarchy", "high_hierarchy")
    difference, low, high = ends
    rows = [
        {"data": "tiles", "method": "one-to-one", "p_holm_hierarchy": p}
        | dict(zip(columns, (-difference, -high, -low), strict=True)),
        {"data": "tiles", "method": "weights meta", "p_holm_hierarchy": p}
        | dict(zip(columns, ends, strict=True)),
    ]
    found = summary.verdicts(pd.DataFrame(rows)).set_index("better")
    for better in ("hierarchy", "weights meta"):
        row = found.loc[better]
        assert row["verdict"] == verdict
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(ends)


def test_training_windows_of_a_block_do_not_overlap(modules):
    groups = np.array(["b", "a", "a", "b", "a", "b", "a"])
    overlaps = modules["data"]._overlaps_last(groups)
    assert overlaps.tolist() == [False, False, True, True, False, False, True]


def test_no_cell_begins_after_its_time(modules, tmp_path):
    def run(name):
        return [{"name": name}]

    (tmp_path / "a.json").write_text('[{"name": "a"}]')
    found = modules["study"].cells(run, [("a",), ("b",)], tmp_path, 1, until=time.time() - 1)
    assert found["name"].tolist() == ["a"]
    assert not (tmp_path / "b.json").exists()


def test_validation_chooses_the_candidate_and_the_best_rival(modules):
    grids = modules["methods"].GRIDS
    rows = [
        {"data": "tiles", "method": method, "number": number, "validation_accuracy": accuracy}
        for method, grid in grids.items()
        for number in range(len(grid))
        for accuracy in (
            0.5 + 0.1 * (number == 1) + 0.2 * (method == "dkd"),
            0.5 + 0.3 * (method == "hierarchy"),
        )
    ]
    chosen = modules["summary"].choose(pd.DataFrame(rows))["tiles"]
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
    found = modules["summary"].compare(pd.DataFrame(rows), "alone", rng)
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


def test_the_figures_name_the_classes_as_the_simulator_does(modules):
    case = modules["data"].tiles_case("", 0, preset("demo"), 10)
    assert case.recordings.class_names == modules["summary"].CLASSES


def test_noise_has_the_stated_level(modules):
    recipe = preset("demo")
    clean, noisy = (
        modules["data"].tiles_case(condition, 1, recipe, 10).recordings.signals
        for condition in ("", "0 dB")
    )
    ratio = np.mean(clean**2, axis=1) / np.mean((noisy - clean) ** 2, axis=1)
    assert 10 * np.log10(ratio) == pytest.approx(0, abs=0.5)
