"""What a user gives to a run on the command line: a method, a trained teacher, a plugin."""

import json
import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hfld_lite import Network, RecipeError, distill_chain
from hfld_lite.app import cli, cli_train
from hfld_lite.app.given import run_plugins
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.distillation import TERMS
from hfld_lite.edge.analysis import with_costs
from hfld_lite.networks import Output

PLUGIN = """
import torch.nn.functional as F
from hfld_lite import rival

@rival("absolute")
def absolute(student, teacher, target):
    return F.l1_loss(student.logits, teacher.logits)
"""


@pytest.fixture
def hfld(monkeypatch, capsys):
    """The command in this process, whose exit status must be as said; what it printed."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said.err
        return " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def no_terms():
    """Terms that a plugin registers go again after the test."""
    before = set(TERMS)
    yield
    for name in set(TERMS) - before:
        del TERMS[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_recordings, tiny_recipe, save_chain):
    folder = tmp_path_factory.mktemp("given")
    save_chain(folder, tiny_recordings, tiny_recipe)
    tiny_recipe.save(folder / "tiny.json")
    (folder / "mine.py").write_text(PLUGIN)
    return folder


def training(place, name, *more):
    data = ("--data", place / "data", "--recipe", place / "tiny.json", "--quiet")
    return ("train", *data, "--out", place / name, *more)


def test_a_method_by_its_name(place, hfld):
    hfld(*training(place, "kd", "--method", "kd"))
    assert json.loads((place / "kd" / "recipe.json").read_text())["method"] == "kd"
    history = pd.read_csv(place / "kd" / "history.csv")
    student = history[history["role"] == "student"]
    assert (student["kd"] > 0).all()
    assert "feature" not in history
    said = hfld(*training(place, "none", "--method", "kdd"), code=2)
    assert "--method is 'kdd'; the nearest name is" in said
    assert not (place / "none.unfinished").exists()


def test_a_plugins_loss_trains_and_its_run_predicts_without_it(place, hfld, no_terms):
    hfld(*training(place, "mine", "--plugin", place / "mine.py", "--method", "absolute"))
    assert (pd.read_csv(place / "mine" / "history.csv")["absolute"].dropna() > 0).all()
    assert "absolute" in (place / "mine" / "report.html").read_text()
    del TERMS["absolute"]
    with pytest.warns(UserWarning, match="method is 'absolute'.* not trained again, without"):
        run = load_run(place / "mine")
    assert run.detector.recipe.method == "hflkd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx.y\n", r"mine.py, line 2: the plugin failed \(AttributeError: 'int'"),
        ("def f(:\n", r"mine.py, line 1: the plugin failed \(SyntaxError"),
        (None, "gone.py: the plugin is missing"),
    ],
)
def test_plugins_that_fail_name_the_line(text, message, tmp_path):
    path = tmp_path / ("mine.py" if text else "gone.py")
    if text:
        path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        run_plugins([path])


def test_a_plugin_is_run_again_only_if_its_names_are_gone(tmp_path, no_terms):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    run_plugins([path])
    first = TERMS["absolute"]
    run_plugins([path])  # as the run of a second seed does
    assert TERMS["absolute"] is first
    del TERMS["absolute"]
    run_plugins([path])
    assert "absolute" in TERMS


def teachers(folder):
    return load_file(folder / "teacher.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_teacher_of_another_run_is_taken_as_it_is(place, hfld, tiny_recipe):
    other = place / "other.json"
    tiny_recipe.replace(teacher=Network(18, 1 / 16, epochs=9)).save(other)
    arguments = [a if a != place / "tiny.json" else other for a in training(place, "taught")]
    hfld(*arguments, "--teacher", place / "run")
    assert same(teachers(place / "taught"), teachers(place / "run"))
    facts = json.loads((place / "taught" / "run.json").read_text())
    assert facts["stages"]["teacher"]["learned_from"] == "given"
    assert "given" not in facts, "the recipe describes the network"
    table = pd.read_csv(place / "taught" / "results.csv")
    assert table.set_index("role")["network"]["teacher"] == "ResNet10-1D, width 1/8, small head"
    assert load_run(place / "taught").detector.network("teacher")


def test_a_teachers_weights_from_a_file(place, hfld):
    hfld(*training(place, "file", "--teacher", place / "run" / "teacher.safetensors"))
    assert same(teachers(place / "file"), teachers(place / "run"))
    student = place / "run" / "student.safetensors"
    said = hfld(*training(place, "misfit", "--teacher", student), code=2)
    assert re.search("student.safetensors: the weights .* do not fit the network", said)
    pickled = place / "weights.pt"
    torch.save({}, pickled)
    said = hfld(*training(place, "pickle", "--teacher", pickled), code=2)
    assert "weights.pt: a teacher is a run folder or a .safetensors file" in said
    assert not list(place.glob("*.unfinished"))


def test_a_teacher_of_other_data_is_refused_before_training(place, hfld, tiny_recordings):
    keep = np.isin(tiny_recordings.labels, (0, 1))
    few = tiny_recordings.select(keep)
    type(few)(
        few.signals,
        few.labels,
        few.groups,
        few.sample_rate,
        few.class_names[:2],
        origins=few.origins,
    ).save(place / "two")
    arguments = [a if a != place / "data" else place / "two" for a in training(place, "two run")]
    said = hfld(*arguments, "--teacher", place / "run", code=2)
    assert "the teacher knows the classes AN, AD, BN, BD, and this run has AN, AD" in said


def test_a_stopped_run_keeps_its_teacher_and_its_plugin(
    place, hfld, monkeypatch, no_terms, tmp_path
):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    given = ("--plugin", plugin, "--method", "absolute", "--teacher", place / "run")
    real = cli_train.distill_chain

    def stopped(*arguments, **options):
        def stop(role, row):
            if role == "student":
                raise KeyboardInterrupt

        return real(*arguments, **options, on_epoch=stop)

    monkeypatch.setattr(cli_train, "distill_chain", stopped)
    said = hfld(*training(place, "stopped", *given), code=130)
    assert "hfld train --resume" in said
    monkeypatch.undo()
    del TERMS["absolute"]
    hfld("train", "--resume", place / "stopped", "--quiet")
    assert same(teachers(place / "stopped"), teachers(place / "run"))
    assert not (place / "stopped" / "given_teacher.safetensors").exists()
    del TERMS["absolute"]
    hfld(*training(place, "whole", *given))
    students = [load_file(place / name / "student.safetensors") for name in ("stopped", "whole")]
    assert same(*students)


class Mine(torch.nn.Module):
    """A network of a user."""

    def __init__(self, positions=5):
        super().__init__()
        self.body, self.head = torch.nn.Conv1d(1, 8, 5, 4), torch.nn.Linear(8 * positions, 4)
        self.pool = torch.nn.AdaptiveAvgPool1d(positions)

    def forward(self, x):
        features = self.pool(torch.relu(self.body(x.unsqueeze(1))))
        return Output(features, self.head(features.flatten(1)))


def test_a_run_keeps_a_given_networks_weights_and_asks_for_the_module(
    place, tmp_path, tiny_recordings, tiny_recipe
):
    chain = distill_chain(
        tiny_recordings, tiny_recipe, networks={"student": Mine()}, progress=False
    )
    with new_run(tmp_path / "run") as part:
        result = with_costs(chain.test(tiny_recordings), chain.detector, tiny_recordings.signals[0])
        origin = {"folder": str(place / "data"), "options": {}}
        save_run(part, chain, result, tiny_recordings, origin)
    assert list(result.table["network"])[2:] == ["Mine", "Mine"]
    assert (result.table["macs"] > 0).all()
    with pytest.raises(RecipeError, match=r"the student is a network of your own \('Mine'\); give"):
        load_run(tmp_path / "run")
    run = load_run(tmp_path / "run", networks={"student": Mine()})
    for role in ("student", "student_alone"):
        kept, loaded = chain.stages[role].network, run.detector.network(role)
        assert same(kept.state_dict(), loaded.state_dict())
    signals, rate = tiny_recordings.signals[:3], tiny_recordings.sample_rate
    np.testing.assert_array_equal(chain.predict(signals, rate), run.detector.predict(signals, rate))
    with pytest.raises(RecipeError, match="do not fit the network"):
        load_run(tmp_path / "run", networks={"student": Mine(positions=7)})
    with pytest.raises(RecipeError, match="networks has the role 'teacher'; choose from student"):
        load_run(tmp_path / "run", networks={"teacher": Mine()})


def test_the_teachers_own_split_is_used_so_that_no_test_recording_taught_it(place, hfld):
    said = hfld(*training(place, "seeded", "--teacher", place / "run", "--seed", "5"))
    assert "The split is that of the teacher's run" in said
    splits = [json.loads((place / name / "split.json").read_text()) for name in ("run", "seeded")]
    assert splits[0] == splits[1]
    weights = place / "run" / "teacher.safetensors"
    said = hfld(*training(place, "unknown", "--teacher", weights, "--seed", "5"))
    assert "training recordings are unknown here" in said


def test_a_plugin_that_changed_is_not_resumed(place, hfld, monkeypatch, no_terms, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)

    def stopped(*arguments, folder, **options):
        folder.mkdir()
        (folder / "teacher.epoch-00001.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "distill_chain", stopped)
    hfld(*training(place, "changed", "--plugin", plugin, "--method", "absolute"), code=130)
    plugin.write_text(PLUGIN + "# changed")
    said = hfld("train", "--resume", place / "changed", "--quiet", code=2)
    assert "the plugin is missing or has changed since the run was begun" in said


def test_what_is_refused_before_training_leaves_no_folder(place, hfld, tiny_recipe):
    odd = place / "odd.json"
    tiny_recipe.replace(heads=3).save(odd)
    arguments = [a if a != place / "tiny.json" else odd for a in training(place, "odd")]
    said = hfld(*arguments, code=2)
    assert "heads is 3, which does not divide" in said
    assert "Resume" not in said
    assert not list(place.glob("odd.unfinished*"))


def test_plugins_may_define_dataclasses_and_may_not_exit(tmp_path):
    path = tmp_path / "plugin_with_a_class.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass A:\n    x: int = 0\n"
    )
    run_plugins([path])
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(RecipeError, match=r"line 2: the plugin failed \(SystemExit"):
        run_plugins([path])
