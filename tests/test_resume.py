"""Chains that are stopped, in all the ways there are, and resume with the same bits."""

import dataclasses
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from queue import Empty

import numpy as np
import pandas as pd
import pytest
import soak
import torch
from jupyter_client.manager import start_new_kernel

from hfld_lite import ArgumentError, HfldError, Network, RecipeError, distill_chain, split
from hfld_lite.app import cli
from hfld_lite.app.runs import load_run
from hfld_lite.data.readers import read_folder
from hfld_lite.errors import Interrupted
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import Augmentation
from hfld_lite.storage import checkpoints
from hfld_lite.storage.checkpoints import read_state, write_state
from hfld_lite.teachers import digest

SOAK = Path(soak.__file__)
ROLES = ("teacher", "secondary_teacher", "student")


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    """Three epochs a stage, so that there is one in the middle."""
    return three_epochs(tiny_recipe)


def three_epochs(recipe):
    networks = (recipe.teacher, *recipe.secondary_teachers, recipe.student)
    teacher, second, student = (dataclasses.replace(n, epochs=3) for n in networks)
    return recipe.replace(teacher=teacher, secondary_teachers=(second,), student=student)


def bits(chain):
    """Everything about a chain but how long it took."""
    found = {role: digest("", n.state_dict()) for role, n in chain.detector.networks.items()}
    return found | {"history": chain.history().drop(columns="seconds").to_json()}


def train(recordings, recipe, folder=None, resume=False, on_epoch=None, **options):
    """The chain's bits, and (role, epoch) of the epochs that were really run."""
    done = []

    def note(role, row):
        done.append((role, row["epoch"]))
        if on_epoch:
            on_epoch(role, row["epoch"])

    options = {"controls": (), "progress": False} | options
    chain = distill_chain(
        recordings, recipe, folder=folder, resume=resume, on_epoch=note, **options
    )
    return bits(chain), done


def stop(recordings, recipe, folder, *at, **options):
    """Train until an epoch of a role has ended, as if the power had failed."""

    def end(*epoch):
        if epoch == at:
            raise KeyError("power cut")

    with pytest.raises(KeyError, match="power cut"):
        train(recordings, recipe, folder, on_epoch=end, **options)


@pytest.fixture(scope="module")
def undisturbed(tiny_recordings, recipe):
    return train(tiny_recordings, recipe)[0]


def after(role, epoch):
    """The epochs of the chain after one of them."""
    every = [(r, e) for r in ROLES for e in (1, 2, 3)]
    return every[every.index((role, epoch)) + 1 :]


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


# The same bits


@pytest.mark.parametrize("at", [("teacher", 3), ("student", 2)])
def test_a_chain_goes_on_where_it_stopped(tiny_recordings, recipe, undisturbed, tmp_path, at):
    stop(tiny_recordings, recipe, tmp_path, *at)
    torch.manual_seed(at[1])  # the caller's random numbers don't matter
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert done == after(*at)
    assert found == undisturbed
    assert train(tiny_recordings, recipe, tmp_path, resume=True) == (undisturbed, [])


@pytest.mark.parametrize("kind", ["meta, augmented", "published"])
def test_every_kind_of_state_is_kept(tiny_recordings, recipe, tmp_path, kind):
    if kind == "published":
        recipe = recipe.replace(
            weighting="published",
            behaviour="published",
            optimizer="sgd",
            learning_rate=0.01,
            schedule="drops",
            drops=(1,),
        )
    else:
        recipe = recipe.replace(
            weighting="meta", meta_share=0.2, meta_every=2, augmentation=Augmentation()
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The recipe's behaviour is published")
        undisturbed = train(tiny_recordings, recipe)[0]
        stop(tiny_recordings, recipe, tmp_path, "student", 2)
        found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert done == [("student", 3)]
    assert found == undisturbed


def test_another_seed_or_dropout_gives_other_bits(tiny_recordings, recipe, undisturbed):
    seed = train(tiny_recordings, recipe.replace(seed=recipe.seed + 1))[0]
    assert all(seed[name] != undisturbed[name] for name in undisturbed)
    teacher = dataclasses.replace(recipe.teacher, dropout=0.3)
    dropout = train(tiny_recordings, recipe.replace(teacher=teacher))[0]
    assert all(dropout[name] != undisturbed[name] for name in undisturbed)


def test_two_processes_give_the_same_bits_with_one_thread_and_with_two(tiny_recordings):
    command = [sys.executable, SOAK, "--once", "--threads", "1", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, before = [json.loads(line) for line in said.splitlines()], torch.get_num_threads()
    assert [line.pop("threads") for line in found] == [1, 2]
    assert len(set(found[0].values())) == 3
    try:
        for threads, digests in zip((1, 2), found, strict=True):
            torch.set_num_threads(threads)
            again = train(tiny_recordings, soak.RECIPES["meta, augmented"])[0]
            assert digests == {role: again[role] for role in ROLES}, threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_killed_trainings_go_on_with_the_same_bits():
    done = subprocess.run(
        [sys.executable, SOAK, "--kills", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *rows, last = done.stdout.splitlines()
    assert len(rows) == 4
    assert all(row.endswith(" same") for row in rows), rows
    for recipe, row in zip(("fixed", "meta", "uncertainty", "published"), rows, strict=True):
        assert recipe in row
    assert sum("writing" in row and "half of the next" in row for row in rows) == 1
    assert sum("finished before" in row for row in rows) <= 2, rows
    assert last == "4 kills: every training ended with the same bits"


# Damage


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_last_epochs(tiny_recordings, recipe, undisturbed, tmp_path, damaged):
    stop(tiny_recordings, recipe, tmp_path, "secondary_teacher", 2)
    epochs = sorted(tmp_path.glob("secondary_teacher.epoch-*"))
    assert len(epochs) == 2
    for path in epochs[-damaged:]:
        spoil(path)
    with pytest.warns(UserWarning, match="damaged") as said:
        found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert {str(w.message).split(":")[0] for w in said} == set(map(str, epochs[-damaged:]))
    whole = ("secondary_teacher", 1) if damaged == 1 else ("teacher", 3)
    assert done == after(*whole)
    assert found == undisturbed


@pytest.mark.parametrize(
    ("at", "again"),
    [
        (("teacher", 3), after("teacher", 2)),
        (("secondary_teacher", 2), [("teacher", 1), *after("teacher", 1)]),
    ],
)
def test_a_damaged_end_of_a_stage(tiny_recordings, recipe, undisturbed, tmp_path, at, again):
    stop(tiny_recordings, recipe, tmp_path, *at)
    spoil(tmp_path / "teacher.safetensors")
    with pytest.warns(UserWarning, match=r"teacher\.safetensors: the checkpoint is damaged"):
        found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert done == again
    assert found == undisturbed


def test_students_of_another_teacher_are_trained_anew(
    tiny_recordings, recipe, undisturbed, tmp_path
):
    stop(tiny_recordings, recipe, tmp_path, "student", 3)
    state = read_state(tmp_path / "teacher.safetensors")
    state["best_state"]["stem.0.weight"][0, 0, 0] += 1
    write_state(tmp_path / "teacher.safetensors", state)
    with pytest.warns(UserWarning, match="was trained with another") as said:
        found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    messages = " ".join(str(w.message) for w in said)
    assert "stage secondary_teacher was trained with another teacher than the" in messages
    assert "stage student was trained with another secondary_teacher than" in messages
    assert done == after("teacher", 3)
    assert all(found[role] != undisturbed[role] for role in ROLES)
    again = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert again == (found, [])


# Facts


def test_only_the_same_training_is_continued(tiny_recordings, recipe, tmp_path):
    stop(tiny_recordings, recipe, tmp_path, "teacher", 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    louder = dataclasses.replace(tiny_recordings, signals=2 * np.array(tiny_recordings.signals))
    renamed = dataclasses.replace(
        tiny_recordings, class_names=("W", "X", "Y", "Z"), normal_classes=()
    )
    other = split(tiny_recordings, validation=0.3, test=0.2, seed=9)
    for recordings, changed, options, named in (
        (tiny_recordings, recipe.replace(batch_size=4), {}, "recipe"),
        (tiny_recordings, recipe.replace(seed=7), {}, "recipe"),
        (louder, recipe, {}, "recordings"),
        (dataclasses.replace(tiny_recordings, sample_rate=44_100), recipe, {}, "sample_rate"),
        (renamed, recipe, {}, "class_names"),
        (tiny_recordings, recipe, {"parts": other}, "split"),
    ):
        with pytest.raises(RecipeError, match=f"has another {named}; resume it"):
            train(recordings, changed, tmp_path, resume=True, **options)
    with pytest.raises(RecipeError, match="holds a training already"):
        train(tiny_recordings, recipe, tmp_path)
    with pytest.raises(ArgumentError, match="resume needs the folder"):
        train(tiny_recordings, recipe, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_versions_and_threads_are_only_said(tiny_recordings, recipe, tmp_path):
    Trainer(tiny_recordings, recipe, folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(tiny_recordings, recipe, folder=tmp_path, resume=True)
    path = tmp_path / "training.json"
    facts = json.loads(path.read_text())
    assert facts["made_with"]["torch"] == torch.__version__
    assert facts["made_with"]["threads"] == torch.get_num_threads()
    facts["made_with"] |= {"torch": "2.0.0", "threads": 64}
    path.write_text(json.dumps(facts))
    with pytest.warns(UserWarning, match=r"begun with .*'2\.0\.0'.* 64.* may differ"):
        Trainer(tiny_recordings, recipe, folder=tmp_path, resume=True)


# Writes that fail


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def out_of_memory(*_):
    raise MemoryError


@pytest.mark.parametrize(
    ("where", "fail", "reason"),
    [(checkpoints, full, "No space left on device"), (os, out_of_memory, "MemoryError")],
)
def test_a_failing_write_stops_the_chain_and_it_goes_on(
    tiny_recordings, recipe, undisturbed, tmp_path, monkeypatch, where, fail, reason
):
    def trouble(*epoch):
        if epoch == ("secondary_teacher", 1):
            monkeypatch.setattr(where, "save_file" if where is checkpoints else "replace", fail)

    with pytest.raises(HfldError) as error:
        train(tiny_recordings, recipe, tmp_path, on_epoch=trouble)
    monkeypatch.undo()
    check_failed_write(tmp_path, str(error.value), reason)
    found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert done == after("secondary_teacher", 1)
    assert found == undisturbed


def check_failed_write(folder, said, reason):
    last, failed = (folder / f"secondary_teacher.epoch-{n:05d}.safetensors" for n in (1, 2))
    assert f"{failed} cannot be written (" in said
    assert reason in said
    assert f"The last good checkpoint is {last}." in said
    assert read_state(last)["epoch"] == 1
    assert not failed.exists()
    assert not list(folder.glob("*.part"))


def test_a_file_that_the_system_lets_grow_no_longer(tiny_recordings, recipe, undisturbed, tmp_path):
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN, "as Python sets it"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def trouble(*epoch):
        if epoch == ("secondary_teacher", 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        with pytest.raises(HfldError) as error:
            train(tiny_recordings, recipe, tmp_path, on_epoch=trouble)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_failed_write(tmp_path, str(error.value), "File too large")
    assert train(tiny_recordings, recipe, tmp_path, resume=True)[0] == undisturbed


# Interrupts


def test_an_interrupted_chain_says_how_to_go_on_and_does(
    tiny_recordings, recipe, undisturbed, tmp_path
):
    def interrupt(*epoch):
        if epoch == ("secondary_teacher", 3):  # the stage is at its end, the chain is not
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as said:
        train(tiny_recordings, recipe, tmp_path, on_epoch=interrupt)
    assert str(said.value) == (
        "secondary teacher ← labels and teacher was stopped after epoch 3 of 3. The last good "
        f"checkpoint is {tmp_path / 'secondary_teacher.safetensors'}. The same call with "
        "resume=True continues from there."
    )
    found, done = train(tiny_recordings, recipe, tmp_path, resume=True)
    assert done == after("secondary_teacher", 3)
    assert found == undisturbed


def test_ctrl_c_ends_hfld_train_and_resume_ends_it_with_the_same_bits(
    tiny_recordings, recipe, tmp_path, monkeypatch
):
    teacher = Network(10, 1 / 8, dropout=0.1, epochs=12)
    recipe = recipe.replace(teacher=teacher, secondary_teachers=())
    tiny_recordings.save(tmp_path / "data")
    recipe.save(tmp_path / "recipe.json")
    recordings = read_folder(tmp_path / "data")
    expected = bits(distill_chain(recordings, recipe, progress=False))

    run, part = tmp_path / "run", tmp_path / "run.unfinished"
    arguments = ("train", "--data", "data", "--recipe", "recipe.json", "--out", "run", "--quiet")
    process = subprocess.Popen(
        [sys.executable, "-m", "hfld_lite.app.cli", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list(part.glob("checkpoints/*.safetensors")) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "stopping after this step; Ctrl-C again stops at once" in said
    found = re.search(
        r"hfld: [a-z ]+ ← labels.* was stopped (at step \d+ of \d+ of|after) epoch \d+.*\. The "
        r"last good checkpoint is (run\.unfinished/checkpoints/\S+\.safetensors)\. .*"
        r"Resume with: hfld train --resume run$",
        said.strip(),
    )
    assert found, said
    assert "Traceback" not in said
    assert read_state(tmp_path / found[2])["epoch"] >= 1
    assert not run.exists()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hfld_lite.app.report.write_report", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["hfld", "train", "--resume", "run", "--quiet"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert not part.exists()
    found = {
        role: digest("", n.state_dict()) for role, n in load_run(run).detector.networks.items()
    }
    assert found == {role: expected[role] for role in ("teacher", "student", "student_alone")}
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [*range(1, 13), 1, 2, 3, 1, 2, 3]


CELL = """
from hfld_lite import Network, distill_chain, preset, simulate_tiles
network = Network(10, 1 / 16, epochs=500)
recipe = preset("demo").replace(
    teacher=network, secondary_teachers=(), student=network, view="spectrum", bins=600, batch_size=8
)
recordings = simulate_tiles("AB", tiles_per_class=10, drops=2, progress=False)
chain = distill_chain(
    recordings, recipe, progress=False, folder={folder!r},
    on_epoch=lambda role, row: print("epoch", row["epoch"], flush=True),
)
"""


def test_the_notebooks_stop_button(tmp_path):
    manager, client = start_new_kernel()
    try:
        asked = client.execute(CELL.format(folder=str(tmp_path / "c")))
        try:
            while "epoch" not in client.get_iopub_msg(timeout=60)["content"].get("text", ""):
                pass
        except Empty:
            pytest.fail("no epoch ended")
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass  # of the start, on a busy machine
        reply = reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert (reply["status"], reply["ename"]) == ("error", "Interrupted")
    (kept,) = re.findall(
        r"teacher ← labels was stopped .* good checkpoint is (.*)\. The same call "
        r"with resume=True continues from there\.$",
        reply["evalue"],
    )
    assert read_state(Path(kept))["epoch"] >= 1
