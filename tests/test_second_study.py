"""The second study: who has which labels, what its rule says, and that it resumes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import _second
        import _settings
        import second_study

        yield {"settings": _settings, "second": _second, "study": second_study}


@pytest.fixture(scope="module")
def case(modules):
    """Tiles of the second study, few."""
    return modules["settings"].made("tiles", 0, 18, Path())


@pytest.mark.parametrize("name", ["labels 25", "noise 40", "labels 100"])
def test_a_setting_changes_labels_of_the_training_part_alone(modules, case, name):
    setting = modules["settings"].SETTINGS[name]
    true, train = case.recordings.labels, case.parts.train
    labels = modules["settings"].given(case, setting).recordings.labels
    others = np.setdiff1d(np.arange(len(true)), train)
    assert (labels[others] == true[others]).all()
    known = labels[train] >= 0
    if setting.labels < 1:
        share = len(np.unique(case.recordings.groups[train][known]))
        share /= len(np.unique(case.recordings.groups[train]))
        assert share == pytest.approx(setting.labels, abs=0.05)
        assert (labels[train][known] == true[train][known]).all()
        assert set(true[train][known]) == set(true)
    else:
        assert known.all()
        assert np.mean(labels[train] != true[train]) == pytest.approx(setting.noise, abs=0.01)


def test_the_wrong_teacher_learns_the_next_class(modules, case):
    sound = modules["settings"].TEACHERS["wrong"]
    labels = modules["settings"].given(case, sound, wrong=True).recordings.labels
    train = case.parts.train
    assert (labels[train] == (case.recordings.labels[train] + 1) % 6).all()


def rows(**accuracies: list[float]) -> pd.DataFrame:
    """Rows of a data set; a name is setting/method with __ between words and between the two."""
    found = []
    for name, values in accuracies.items():
        setting, method = (part.replace("_", " ") for part in name.split("__"))
        found += [
            {"data": "d", "setting": setting, "method": method, "seed": seed, "accuracy": value}
            for seed, value in enumerate(values)
        ]
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("trusted", "verdict"),
    [
        ([0.9, 0.901, 0.9, 0.902], "held"),
        ([0.55, 0.551, 0.55, 0.552], "not held"),
        ([0.5, 0.9, 0.4, 0.99], "not decided"),
    ],
)
def test_a_claim_is_held_against_its_margin(modules, trusted, verdict):
    known = rows(wrong__hierarchy=[0.5, 0.501, 0.502, 0.5], wrong__weights_trusted=trusted)
    judged = modules["second"].verdicts(known)
    assert judged["verdict"].tolist() == [verdict]
    assert judged["margin"].tolist() == [0.1]
    assert judged["difference"].iloc[0] == pytest.approx(np.mean(trusted) - 0.50075)


def test_two_seeds_decide_nothing(modules):
    known = rows(wrong__hierarchy=[0.5, 0.501], wrong__weights_trusted=[0.9, 0.901])
    assert modules["second"].verdicts(known).empty


def test_methods_are_compared_with_those_that_have_as_many_labels_and_steps(modules):
    base = modules["second"].base_of
    assert base("all 10", "kd", "alone") == ("labels 10", "alone")
    assert base("all 10", "hierarchy", "kd") == ("all 10", "kd")
    assert base("lifts 10", "ensemble", "kd") == ("labels 10", "kd")
    assert base("lifts 100", "patient", "kd") == ("lifts 100", "kd long")
    assert base("wrong", "weights trusted", "alone") == ("labels 100", "alone")
    table = (
        modules["second"]
        .summarise(rows(labels_10__alone=[0.5, 0.6, 0.7], all_10__kd=[0.7, 0.8, 0.9]))
        .set_index("method")
    )
    assert table.loc["kd", "against_alone"] == pytest.approx(0.2)


def test_every_claim_and_setting_names_what_is_trained(modules):
    settings = modules["settings"].SETTINGS
    for claim in modules["second"].CLAIMS:
        for setting, method in (claim.better, claim.than):
            assert method in settings[setting].methods, claim
    for name in settings:
        assert "%" in modules["second"].described(name)


def test_it_trains_a_setting_resumes_and_writes_its_tables(modules, tmp_path, monkeypatch):
    study, settings = modules["study"], modules["settings"]
    few = {n: settings.SETTINGS[n] for n in ("labels 25", "all 25", "wrong")}
    few["all 25"] = few["all 25"]._replace(methods=("pseudo-labels", "kd", "hierarchy"))
    few["labels 25"] = few["labels 25"]._replace(methods=("alone", "kd", "hierarchy"))
    few["wrong"] = few["wrong"]._replace(methods=("hierarchy", "weights uncertainty"))
    monkeypatch.setattr(study, "SETTINGS", few)
    monkeypatch.setattr(study, "TUNED", {"labels 25": ("alone", "kd"), "all 25": ("unlabelled",)})
    monkeypatch.setattr(study, "QUICK", study.QUICK._replace(seeds=1, fewer=1))
    grids = {"alone": [{"rate": 1.0}], "kd": settings.GRIDS["kd"][:1]}
    chosen = {"tiles": grids | {"pseudo-labels": [{"rate": 1.0}], "hierarchy": [{}]}}
    monkeypatch.setattr(study, "GRIDS", grids | {"unlabelled": settings.GRIDS["unlabelled"][2:]})
    monkeypatch.setattr(
        study, "choose", lambda _: {"tiles": {m: g[0] for m, g in chosen["tiles"].items()}}
    )
    asked = {"data": ["tiles"], "quick": True, "jobs": 1, "plan": False, "folder": Path()}
    study.main(**asked, hours=None, out=tmp_path / "out", work=tmp_path / "work")
    table = pd.read_csv(tmp_path / "out" / "second_study.csv", comment="#")
    found = set(zip(table["setting"], table["method"], strict=True))
    assert {(name, method) for name, s in few.items() for method in s.methods} <= found
    assert ("teacher wrong", "secondary_teacher") in found
    assert table["accuracy"].between(0, 1).all()
    tuned = pd.read_csv(tmp_path / "out" / "second_tuning.csv", comment="#")
    assert tuned["method"].value_counts().to_dict() == {"unlabelled": 2, "alone": 1, "kd": 1}
    before = (tmp_path / "out" / "second_study.csv").read_text()
    for cell in (tmp_path / "work").rglob("*.safetensors"):
        cell.unlink()
    monkeypatch.setattr(study.Study, "run", lambda *_: pytest.fail("a finished cell ran again"))
    study.main(**asked, hours=0.0, out=tmp_path / "out", work=tmp_path / "elsewhere")
    assert (tmp_path / "out" / "second_study.csv").read_text() == before
    assert "## tiles: all 25" in (tmp_path / "out" / "second_study.md").read_text()
    laid = [json.loads(p.read_text()) for p in (tmp_path / "elsewhere").rglob("learn-*.json")]
    assert len(laid) == 3


def test_missing_bearings_are_named_before_any_cell(modules, tmp_path):
    asked = {"data": None, "quick": True, "jobs": 1, "plan": False, "hours": None}
    places = {"out": tmp_path / "out", "work": tmp_path / "work", "folder": tmp_path / "nowhere"}
    with pytest.raises(Exception, match="nowhere is not there; make it with"):
        modules["study"].main(**asked, **places)
    assert not list(tmp_path.rglob("*.json"))
