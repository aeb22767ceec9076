import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hfld_lite import ArgumentError, DataError, RecipeError, spectrum
from hfld_lite.app.display import display_table
from hfld_lite.app.runs import load_run, save_run, unfinished, with_known_costs
from hfld_lite.app.tables import read_results
from hfld_lite.app.unfinished import begin_run, begun_run, new_run, run_of


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_chain, tiny_recordings):
    folder = tmp_path_factory.mktemp("written") / "run"
    with new_run(folder) as part:
        result = tiny_chain.test(tiny_recordings)
        save_run(part, tiny_chain, result, tiny_recordings, {"folder": "x", "options": {}})
    return folder


STAGE = {"learned_from": "labels", "best_epoch": 1, "seconds": 1.0}


@pytest.fixture
def saved(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "run"))


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
        (lambda run: (run / "run.json").write_text("[]"), "does not hold a JSON object"),
        (lambda run: (run / "run.json").write_text('{"format": 99}'), "format is 99"),
        (lambda run: (run / "recipe.json").unlink(), "recipe.json"),
        (lambda run: (run / "split.json").unlink(), "split.json is missing"),
        (lambda run: (run / "split.json").write_text("{}"), "train, validation and test"),
        (lambda run: (run / "student.safetensors").unlink(), "student.safetensors"),
        (lambda run: (run / "student.safetensors").write_bytes(b"x" * 20), "student.safetensors"),
        (lambda run: _drop_a_tensor(run / "student.safetensors"), "student.safetensors"),
        (lambda run: _edit(run, "class_names", None), "damaged"),
        (lambda run: _edit(run, "stages", {"../../x": STAGE}), "Role .* is unknown"),
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


# Whether recordings are those of the training


def rounded(recordings, by=1e-6):
    """As another processor or filter would give them."""
    noise = np.random.default_rng(0).normal(0, by, recordings.signals.shape)
    scale = recordings.signals.std(1, keepdims=True)
    return replace(recordings, signals=(recordings.signals + noise * scale).astype(np.float32))


def test_recordings_are_recognised_although_last_bits_differ(saved, tiny_recordings):
    run = load_run(saved)
    same = rounded(tiny_recordings)
    assert same.fingerprint() != tiny_recordings.fingerprint()
    assert run.same(same)
    learned = np.concatenate([run.split.train, run.split.validation])
    known = run.learned_from(same.signals)
    assert sorted(np.flatnonzero(known)) == sorted(learned)
    signals = np.array(same.signals)
    signals[7] = signals[6]
    assert not run.same(replace(same, signals=signals))
    assert run._changed(replace(same, signals=signals)).startswith("1 of 80 recordings are others")
    assert not run.same(replace(same, signals=1.01 * same.signals)), "louder"
    assert not run.same(replace(same, groups=same.groups[::-1]))
    assert not run.same(same.select(range(79)))
    assert not run.same(same.select(np.arange(80)[::-1]))
    (saved / "recordings.safetensors").unlink()  # as hfld_lite 0.2.0 left it
    older = load_run(saved)
    assert older.same(tiny_recordings)
    assert not older.same(same)


def test_recordings_are_found_where_they_are_now(saved, tiny_recordings, tmp_path):
    tiny_recordings.save(tmp_path / "here")
    run = load_run(saved)
    with pytest.raises(DataError, match=r"x: is not there; .* say where they are now with --data"):
        run.recordings()
    assert run.recordings(folder=tmp_path / "here").fingerprint() == tiny_recordings.fingerprint()
    rounded(tiny_recordings, 0.1).save(tmp_path / "other")
    with pytest.raises(
        RecipeError, match=r"80 of 80 recordings are others, the first .*with --data"
    ):
        run.recordings(folder=tmp_path / "other")


def test_simulated_recordings_are_known_by_their_numbers(saved, tiny_recordings, monkeypatch):
    _edit(saved, "data", {"simulated": {"seed": 3, "version": 1}})
    made = [rounded(tiny_recordings)]
    monkeypatch.setattr("hfld_lite.app.runs.simulate_tiles", lambda **_: made[0])
    assert load_run(saved).recordings() is made[0]
    with pytest.raises(ArgumentError, match="leave --data out"):
        load_run(saved).recordings(folder="x")
    made[0] = rounded(tiny_recordings, 0.1)
    monkeypatch.setattr("hfld_lite.app.runs.VERSION", 2)
    with pytest.raises(RecipeError, match=r"version 1 of the simulator made them, and this is ver"):
        load_run(saved).recordings()


# What follows a training


def test_limits_and_costs_that_fail_are_notes(tmp_path, tiny_chain, tiny_recordings, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("hfld_lite.app.runs.trust_of", fail)
    monkeypatch.setattr("hfld_lite.app.runs.with_costs", fail)
    result = tiny_chain.test(tiny_recordings)
    with pytest.warns(UserWarning, match=r"cost is left out. ZeroDivisionError: by chance"):
        result = with_known_costs(result, tiny_chain.detector, tiny_recordings)
    with new_run(tmp_path / "run") as part:
        given = (part, tiny_chain, result, tiny_recordings, {"folder": "x", "options": {}})
        with pytest.warns(UserWarning, match=r"student gets no limits of unsure. ZeroDivisionErr"):
            save_run(*given)
    assert load_run(tmp_path / "run").trust == {}
    assert "MACs" not in display_table(read_results(tmp_path / "run"))


# Runs that are not finished

DATA = {"folder": "data", "options": {"samples": 7000}}


class PowerCutError(BaseException):
    """Not to be caught by anything."""


def begin(folder, recipe, **options):
    """Begin a run and stop: the unfinished folder."""
    with pytest.raises(PowerCutError), new_run(folder, **options) as part:  # noqa: PT012
        begin_run(part, recipe, DATA, "hfld train").mkdir(exist_ok=True)
        (part / "checkpoints" / "teacher.safetensors").write_text("weights")
        raise PowerCutError
    return part


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*s*")}


def test_an_unfinished_run_stays_from_its_beginning_on(tmp_path, tiny_recipe):
    with pytest.raises(PowerCutError), new_run(tmp_path / "run"):
        raise PowerCutError
    assert not list(tmp_path.iterdir()), "nothing was begun"
    part = begin(tmp_path / "run", tiny_recipe)
    assert part == tmp_path / "run.unfinished" == unfinished(tmp_path / "run")
    assert begun_run(part) == (tiny_recipe, DATA, "hfld train")
    with (
        pytest.raises(
            RecipeError, match=r"unfinished run; resume it with `hfld train --resume .*run`"
        ),
        new_run(tmp_path / "run"),
    ):
        pass
    with pytest.raises(PowerCutError), new_run(tmp_path / "run", resume=True) as again:  # noqa: PT012
        assert again == part
        raise PowerCutError
    assert "checkpoints/teacher.safetensors" in files(part)
    with pytest.raises(RecipeError, match=r"one is unfinished, resume it with .*--resume .*/run`"):
        load_run(tmp_path / "run")
    with new_run(tmp_path / "run", resume=True) as part:
        (part / "run.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["recipe.json", "run.json"]


def test_there_must_be_something_to_go_on_with(saved, tmp_path):
    with pytest.raises(RecipeError, match=r"run is finished; look at it with"):
        new_run(saved, resume=True).__enter__()
    with pytest.raises(RecipeError, match=r"no unfinished run .*x\.unfinished; start one with"):
        new_run(tmp_path / "x", resume=True).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_fresh_replaces_what_is_finished_and_what_is_not(saved, tiny_recipe):
    before = files(saved)
    part = begin(saved, tiny_recipe, fresh=True)
    (part / "figures").mkdir()
    (part / "figures" / "curves.png").write_text("of a run that was killed while it was reported")
    assert files(saved) == before
    with pytest.raises(PowerCutError), new_run(saved, fresh=True):  # noqa: PT012
        assert not list(part.iterdir())
        raise PowerCutError
    assert files(saved) == before
    assert not part.exists()
    begin(saved, tiny_recipe, fresh=True)
    with new_run(saved, fresh=True) as part:
        (part / "run.json").write_text("{}")
    assert files(saved) == {"run.json": b"{}"}
    assert [path.name for path in saved.parent.iterdir()] == ["run"]


def test_fresh_empties_no_folder_that_no_run_made(tmp_path):
    (tmp_path / "run.unfinished").mkdir()
    (tmp_path / "run.unfinished" / "letter.txt").write_text("mine")
    for options in ({}, {"fresh": True}, {"resume": True}):
        with pytest.raises(RecipeError, match=r"run\.unfinished holds other files"):
            new_run(tmp_path / "run", **options).__enter__()
    assert (tmp_path / "run.unfinished" / "letter.txt").read_text() == "mine"


@contextmanager
def other_process(code, *arguments):
    """A process that has run some code and waits, so that it still holds its locks."""
    command = [sys.executable, "-c", code + "\nprint('ready', flush=True)\ninput()", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


TAKE = """
import sys
import filelock
lock = getattr(filelock, sys.argv[2])(sys.argv[1], timeout=0)
lock.acquire()
"""

AT_WORK = """
import sys
from hfld_lite.app.unfinished import begin_run, new_run
from hfld_lite.rivals.presets import preset
if sys.argv[2:]:
    import errno, fcntl
    def flock(*_):
        raise OSError(getattr(errno, sys.argv[2]), "not here")
    fcntl.flock = flock
run = new_run(sys.argv[1], fresh=True)
begin_run(run.__enter__(), preset("demo"), {"simulated": {"seed": 0}}, "hfld train")
"""


@pytest.mark.parametrize("options", [{"fresh": True}, {"resume": True}])
def test_a_run_that_another_process_is_at_is_left_alone(tmp_path, tiny_recipe, options):
    part = begin(tmp_path / "run", tiny_recipe)
    before = files(part)
    lock = f"{part}.lock"
    with (
        other_process(TAKE, lock, "FileLock"),
        pytest.raises(RecipeError, match=r"run\.unfinished: another process is training there"),
    ):
        new_run(tmp_path / "run", **options).__enter__()
    assert files(part) == before
    assert len(before) >= 3
    with pytest.raises(PowerCutError), new_run(tmp_path / "run", **options) as part:  # noqa: PT012
        begin_run(part, tiny_recipe, DATA, "")
        refused = subprocess.run(
            [sys.executable, "-c", TAKE, lock, "FileLock"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Timeout" in refused.stderr, "and the other way round"
        if pid := os.fork():  # as a data loader's worker is
            os.waitpid(pid, 0)
        else:
            os._exit(0)
        with pytest.raises(RecipeError, match="another process is training there"):
            new_run(tmp_path / "run", fresh=True).__enter__()
        raise PowerCutError
    with other_process(TAKE, lock, "FileLock"):
        pass  # it ended with the block


@pytest.mark.parametrize("kind", [(), ("ENOSYS",), ("ENOLCK",)])
def test_after_a_kill_a_new_run_can_begin(tmp_path, kind, monkeypatch):
    run = tmp_path / "run"
    with other_process(AT_WORK, str(run), *kind) as process:
        if kind:
            monkeypatch.setattr(fcntl, "flock", without_locks(getattr(errno, *kind)))
        with pytest.raises(RecipeError, match=r"another process is training there"):
            new_run(run, fresh=True).__enter__()
        process.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with new_run(run, resume=True) as part:
            assert begun_run(part)[2] == "hfld train"
            (part / "run.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def without_locks(number):
    def flock(*_):
        raise OSError(number, "not here")

    return flock


@pytest.mark.parametrize("name", ["ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_locks_is_told_of_and_used(tmp_path, tiny_recipe, monkeypatch, name):
    monkeypatch.setattr(fcntl, "flock", without_locks(getattr(errno, name)))
    with pytest.warns(UserWarning, match=r"this file system has no locks, so .*lock stands for"):  # noqa: SIM117, PT031
        with new_run(tmp_path / "run") as part:
            begin_run(part, tiny_recipe, DATA, "")
            with pytest.raises(RecipeError, match="another process is training there; let it"):
                new_run(tmp_path / "run", resume=True).__enter__()
            (part / "run.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["ENOSYS", "ENOLCK"])
def test_the_file_that_another_machine_left_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fcntl, "flock", without_locks(getattr(errno, kind)))
    for name in ("run.unfinished.lock", "run.unfinished.softlock"):
        (tmp_path / name).write_text("1\nanother machine\n")
    with pytest.raises(RecipeError, match=r"or delete .*run\.unfinished\.(soft)?lock if there is"):
        new_run(tmp_path / "run").__enter__()


@pytest.mark.parametrize("renames", [0, 1])
def test_a_death_between_the_last_two_renames_is_mended_by_going_on(
    saved, tiny_recipe, monkeypatch, renames
):
    real, done = os.replace, []

    def replace(source, target):
        if len(done) == renames:
            raise PowerCutError
        done.append(real(source, target))

    part = begin(saved, tiny_recipe, fresh=True)
    with pytest.raises(PowerCutError), new_run(saved, resume=True):  # noqa: PT012
        (part / "run.json").write_text("new")
        monkeypatch.setattr(os, "replace", replace)
    monkeypatch.undo()
    assert saved.exists() is (renames == 0)
    assert begun_run(part)[0] == tiny_recipe
    with new_run(saved, resume=True) as again:
        assert (again / "run.json").read_text() == "new"
    assert (saved / "run.json").read_text() == "new"
    assert [path.name for path in saved.parent.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda part: (part / "begun.json").unlink(), "stopped before it began; add --fresh"),
        (lambda part: (part / "begun.json").write_text("{"), "begun.json cannot be read"),
        (lambda part: (part / "begun.json").write_text('{"format": 1}'), "format is 1; this"),
        (
            lambda part: (part / "begun.json").write_text('{"format": 3}'),
            "hfld_lite 0.2.0 began the run, .* resume it with that version, or add --fresh",
        ),
        (
            lambda part: (part / "begun.json").write_text('{"format": 4}'),
            "damaged .data is missing.",
        ),
        (lambda part: (part / "recipe.json").unlink(), "recipe.json"),
    ],
)
def test_a_damaged_beginning_is_named(tmp_path, tiny_recipe, damage, words):
    part = begin(tmp_path / "run", tiny_recipe)
    damage(part)
    with pytest.raises(RecipeError, match=words):
        begun_run(part)


def test_the_current_folder_may_be_the_run(saved, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.chdir(saved)
    assert load_run(".").detector.class_names == load_run(saved).detector.class_names
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    part = begin(".", tiny_recipe)
    assert part == tmp_path / "empty.unfinished"
    monkeypatch.chdir(part)
    assert run_of(".") == run_of("../empty.unfinished").resolve() == tmp_path / "empty"
    monkeypatch.chdir(tmp_path)
    with new_run("empty", resume=True) as part:
        (part / "run.json").write_text("{}")
    assert (tmp_path / "empty" / "run.json").exists()


# Versions


def test_a_run_carries_what_made_it(saved):
    facts = json.loads((saved / "run.json").read_text())
    assert facts["format"] == 4
    assert facts["torch"] == torch.__version__
    assert facts["hfld_lite"]
    assert facts["preprocessing"] == {
        "view": "spectrum",
        "samples": None,
        "bins": 600,
        "bins_by": "cutting",
        "level": "removed",
        "scaling": facts["preprocessing"]["scaling"],
    }
    assert facts["preprocessing"]["scaling"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 1, "the format is 1; this version of hfld_lite reads format 3 and 4"),
        ("format", None, "the format is None"),
        ("preprocessing", None, "preprocessed by None, and here"),
        (
            "preprocessing",
            {"view": "wave"},
            r"preprocessed by .'view': 'wave'.*hfld_lite that made the run, .\d",
        ),
    ],
)
def test_runs_made_otherwise_are_refused(saved, key, value, words):
    _edit(saved, key, value)
    with pytest.raises(RecipeError, match=words):
        load_run(saved)


# fmt: off
OLD_RECIPE = [
    "name", "teacher", "secondary_teachers", "student", "view", "samples", "bins", "optimizer",
    "learning_rate", "momentum", "weight_decay", "schedule", "drops", "batch_size",
    "temperature", "heads", "weighting", "alpha", "mu", "nu", "beta", "meta_share", "meta_every",
    "augmentation", "validation", "test", "precision", "behaviour", "seed", "method", "terms",
]
# fmt: on
"""The attributes of a recipe of hfld_lite 0.2.0, all of which it wrote."""


def _make_older(run, bins):
    """What hfld_lite 0.2.0 would have written: no attributes that came later, format 3."""
    recipe = json.loads((run / "recipe.json").read_text())
    older = {name: recipe[name] for name in OLD_RECIPE} | {"bins": bins}
    older |= {"learning_rate": 0.003, "weight_decay": 0.01}
    (run / "recipe.json").write_text(json.dumps(older))
    _edit(run, "format", 3)
    seen = {"view": "spectrum", "samples": None, "bins": bins, "scaling": "min-max per recording"}
    _edit(run, "preprocessing", seen)
    _edit(run, "hfld_lite", "0.2.0")


@pytest.mark.parametrize(("bins", "length"), [(600, 600), (None, 3500)])
def test_a_run_of_0_2_0_reads_the_first_bins_as_it_did(saved, tiny_recordings, bins, length):
    _make_older(saved, bins)
    detector = load_run(saved).detector
    assert (detector.recipe.bins_by, detector.recipe.balance) == ("cutting", False)
    found = detector.inputs(tiny_recordings.signals[:2])
    assert found.shape == (2, length)
    assert torch.equal(found, spectrum(tiny_recordings.signals[:2], bins))


def test_a_run_of_0_2_0_of_another_view_is_refused(saved):
    _make_older(saved, 600)
    _edit(saved, "preprocessing", {"view": "time"})
    with pytest.raises(RecipeError, match=r"preprocessed by .'view': 'time'.*hfld_lite that made"):
        load_run(saved)


def test_another_number_of_bins_is_no_wrong_answer(saved):
    recipe = json.loads((saved / "recipe.json").read_text())
    (saved / "recipe.json").write_text(json.dumps(recipe | {"bins": 500}))
    with pytest.raises(RecipeError, match=r"'bins': 600.* would be .*'bins': 500"):
        load_run(saved)
