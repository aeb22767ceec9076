import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfld_lite import RecipeError
from hfld_lite.runs import load_run, new_run, save_run

STAGE = {"learned_from": "labels", "best_epoch": 1, "seconds": 1.0}


@pytest.fixture
def saved(tmp_path, tiny_chain, tiny_recordings):
    with new_run(tmp_path / "run") as part:
        result = tiny_chain.test(tiny_recordings)
        save_run(part, tiny_chain, result, tiny_recordings, {"folder": "x", "options": {}})
    return tmp_path / "run"


def test_round_trip_gives_the_same_weights_and_split(saved, tiny_chain):
    run = load_run(saved)
    for role, network in tiny_chain.detector.networks.items():
        mine, loaded = network.state_dict(), run.detector.networks[role].state_dict()
        assert all(torch.equal(mine[name], loaded[name]) for name in mine)
        assert not run.detector.networks[role].training
    assert run.split.to_dict() == tiny_chain.split.to_dict()
    assert run.detector.recipe == tiny_chain.detector.recipe


def test_a_failing_training_leaves_nothing_and_keeps_what_was_there(saved):
    before = (saved / "run.json").read_text()

    def fail():
        with new_run(saved, fresh=True) as part:
            (part / "run.json").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert (saved / "run.json").read_text() == before
    assert [path.name for path in saved.parent.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "run.json").unlink(), "holds no run"),
        (lambda run: (run / "run.json").write_text("{"), "run.json cannot be read"),
        (lambda run: (run / "run.json").write_text("[]"), "no JSON object"),
        (lambda run: (run / "run.json").write_text('{"format": 99}'), "format is 99"),
        (lambda run: (run / "recipe.json").unlink(), "recipe.json"),
        (lambda run: (run / "split.json").unlink(), "split.json is missing"),
        (lambda run: (run / "split.json").write_text("{}"), "train, validation and test"),
        (lambda run: (run / "student.safetensors").unlink(), "student.safetensors"),
        (lambda run: (run / "student.safetensors").write_bytes(b"x" * 20), "student.safetensors"),
        (lambda run: _drop_a_tensor(run / "student.safetensors"), "student.safetensors"),
        (lambda run: _edit(run, "class_names", None), "damaged"),
        (lambda run: _edit(run, "stages", {"../../x": STAGE}), "no role here"),
    ],
)
def test_damage_is_named(saved, damage, words):
    damage(saved)
    with pytest.raises(RecipeError, match=words):
        load_run(saved)


def _drop_a_tensor(path):
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path)


def _edit(run, key, value):
    facts = json.loads((run / "run.json").read_text())
    facts[key] = value
    (run / "run.json").write_text(json.dumps(facts))


def test_fingerprint_tells_recordings_apart(tiny_recordings):
    same = tiny_recordings.select(range(len(tiny_recordings)))
    assert tiny_recordings.fingerprint() == same.fingerprint()
    assert tiny_recordings.fingerprint() != tiny_recordings.select(range(10)).fingerprint()
