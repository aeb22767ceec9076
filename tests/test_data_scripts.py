"""The programs that prepare data: what they print, what they write and how they end."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import soundfile
from typer.testing import CliRunner

from hfld_lite.data.recordings import Recordings

SCRIPTS = Path(__file__).parents[1] / "data_scripts"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


@pytest.fixture
def call(monkeypatch):
    """Run a program in this process; return its exit status, its output and its errors."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def run(name: str, *args: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(importlib.import_module(name).app, [str(arg) for arg in args])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run


def run(name: str, *args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def tiles(tmp_path):
    (tmp_path / "tiles").mkdir()
    for name in ("AN", "AD"):
        scipy.io.savemat(tmp_path / "tiles" / f"{name}.mat", {"data": noise(5, 60)})
    return tmp_path / "tiles"


@pytest.fixture
def sounds(tmp_path):
    for name in ("ok", "bad"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for i in range(3):
            path = tmp_path / "sounds" / name / f"tile{i}.wav"
            soundfile.write(path, noise(100 + 10 * i, 1 + (i == 2)), 8000)
    (tmp_path / "sounds" / "readme.txt").write_text("x")
    return tmp_path / "sounds"


@pytest.fixture
def bearings(tmp_path):
    (tmp_path / "bearings").mkdir()
    for name in ("B_load0", "IR_load0", "IR_load1", "N_load0"):
        scipy.io.savemat(tmp_path / "bearings" / f"{name}.mat", {"DE_time": noise(1000, 1)})
    return tmp_path / "bearings"


def test_mat_as_a_program(tiles, tmp_path):
    done = run("prepare_mat", tiles, "--out", tmp_path / "out", "--samples", 50)
    assert done.returncode == 0, done.stderr
    assert "10 recordings of 50 samples at 40000 Hz" in done.stdout
    assert f"written to {tmp_path / 'out'}" in done.stdout
    assert "%|" not in done.stderr, "no bar off a terminal"
    assert Recordings.load(tmp_path / "out").class_names == ("AN", "AD")


def test_wav_as_a_program(sounds, tmp_path):
    out = tmp_path / "out"
    done = run("prepare_wav", sounds, "--out", out, "--samples", 110, "--pad", "--group-pattern",
               "(tile.)", "--normal", "ok")  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {sounds}: left out 1 that are not .wav or .flac files in a class's folder: "
        "readme.txt",
        f"note: {sounds}: of 6 files, 2 mixed down to one channel; "
        "2 cut to the first 110 samples; 2 padded with zeros to 110 samples",
    ]
    assert Recordings.load(out).groups.tolist() == ["tile0", "tile1", "tile2"] * 2


def test_bearings_as_a_program(bearings, tmp_path):
    done = run("prepare_bearings", bearings, "--out", tmp_path / "out", "--window", 20)
    assert done.returncode == 0, done.stderr
    assert "known bearings: 3 recordings" in done.stdout
    assert "left out by name: N (1 file)" in done.stdout
    assert Recordings.load(tmp_path / "out").class_names == ("B", "IR")


def test_failure_as_a_program(tiles, tmp_path):
    done = run("prepare_mat", tiles, "--out", tmp_path / "out")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "AN.mat, rows 0 to 4: 'data' has 60 samples a row" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["prepare_mat", "prepare_wav", "prepare_bearings"])
def test_help_has_an_example(call, name, tmp_path):
    status, text, _ = call(name, "--help")
    assert status == 0
    assert f"Example: python data_scripts/{name}.py" in text
    status, _, errors = call(name, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (status, errors) == (2, f"{tmp_path / 'nowhere'}: is not there; expected a folder.\n")


def test_two_classes_and_overwriting(call, tiles, tmp_path):
    args = ["prepare_mat", tiles, "--out", tmp_path / "out", "--samples", 50]
    assert call(*args)[0] == 0
    status, _, errors = call(*args, "--two-classes")
    assert status == 2
    assert "already holds recordings" in errors
    assert "--overwrite" in errors
    assert call(*args, "--two-classes", "--overwrite")[0] == 0
    assert Recordings.load(tmp_path / "out").class_names == ("N", "D")


def test_output_folder_that_cannot_be_written(call, tiles, tmp_path):
    out = tiles / "AN.mat" / "out"
    status, _, errors = call("prepare_mat", tiles, "--out", out, "--samples", 50)
    assert status == 2
    assert f"{out}: cannot be written" in errors


def test_bearings_without_a_normal_one(call, bearings, tmp_path):
    (bearings / "N_load0.mat").unlink()
    name = ("--label-pattern", "^([A-Z]+)", "--variable", "D*")
    args = ["prepare_bearings", bearings, "--window", 20, "--out", tmp_path / "out", *name]
    status, text, errors = call(*args)
    assert status == 0, errors
    assert "classes: B 20, IR 40" in text


def test_resampling_and_manifest(call, sounds, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,label\nok/tile0.wav,x\nbad/tile0.wav,y\n")
    status, text, errors = call(
        "prepare_wav", sounds, "--out", tmp_path / "out", "--manifest", path, "--resample",
        "--sample-rate", 4000,
    )  # fmt: skip
    assert status == 0, errors
    assert "2 recordings of 50 samples at 4000 Hz" in text
    assert "left out 5 that the manifest lacks" in errors


def test_classes_to_leave_out(call, bearings, tmp_path):
    args = ["prepare_bearings", bearings, "--window", 20, "--out"]
    assert call(*args, tmp_path / "all", "--leave-out", "")[0] == 0
    assert Recordings.load(tmp_path / "all").normal_classes == ("N",)
    status, _, errors = call(*args, tmp_path / "out", "--leave-out", "IRR")
    assert status == 2
    assert "leave_out: no class is named 'IRR'; the nearest name is IR." in errors
