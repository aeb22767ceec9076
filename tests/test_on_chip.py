"""`hfld edge RUN --on CORE`: a run's student in QEMU, and verdicts by its linked size."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from hfld_lite.app import cli
from hfld_lite.app.on_chip import STORED, linked_sizes, run_on_chips
from hfld_lite.app.runs import load_run
from hfld_lite.edge.chip import build, emulate, missing_tools
from hfld_lite.edge.deploy import noise
from hfld_lite.edge.firmware import program_of, sources
from hfld_lite.edge.host import HostLibrary
from hfld_lite.edge.integers import to_integers
from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector
from hfld_lite.evaluation.trust import make_trust
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.presets import preset

needs_chip = pytest.mark.skipif(
    bool(missing_tools()) and not os.environ.get("HFLD_NEED_CHIP"),
    reason=f"install {' '.join(missing_tools())}",
)
CORES = ("cortex-m0", "cortex-m4", "cortex-m55")


@pytest.fixture(scope="module")
def run(saved_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chip") / "run"
    shutil.copytree(saved_run[0], folder)
    return load_run(folder)


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("c")
    return run_on_chips(run, CORES, most=4, out=place, progress=False)


@pytest.fixture
def hfld(monkeypatch, capsys):
    def call(*arguments, code=0):
        console = Console(highlight=False, markup=False, width=400)
        monkeypatch.setattr("hfld_lite.app.cli_edge.console", console)
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said
        return said.out + said.err

    return call


@needs_chip
def test_every_core_answers_with_the_same_bits_as_this_computer(run, found, tmp_path):
    detector = run.detector
    program = program_of(detector)
    recordings = run.recordings()
    chosen = np.random.default_rng(0).permutation(run.split.train)[:200]
    integers = to_integers(program, detector.inputs(recordings.signals[np.sort(chosen)]).cpu())
    signals = recordings.signals[run.split.test][:4].astype(np.float32)
    for precision, operations in (("int8", integers), ("float32", program)):
        host = HostLibrary(detector, operations, tmp_path / precision)
        here = np.stack([host.predict(signal)[1] for signal in signals])
        for core in CORES:
            there = emulate(found[core].linked[precision], signals).probabilities
            assert there.tobytes() == here.tobytes(), (core, precision)


@needs_chip
def test_the_table_has_sizes_instructions_and_accuracy(found):
    for core, each in found.items():
        table = each.table.set_index("precision")
        assert list(table.index) == ["int8", "float32"]
        assert (table["from_host"] < 1e-5).all()
        assert table.loc["float32", "from_torch"] < 1e-4
        assert (table["refused"] == 0).all()
        assert table["accuracy"].between(0, 1).all()
        assert table.loc["int8", "flash_bytes"] < table.loc["float32", "flash_bytes"]
        assert (table["view_instructions"] < table["instructions"]).all()
        assert (table["ram_bytes"] >= table["arena_bytes"] + table["stack_bytes"]).all()
        assert each.recordings == 4 < each.of, core
    few = {core: each.table["instructions"].min() for core, each in found.items()}
    assert few["cortex-m0"] > 5 * few["cortex-m4"]  # no unit for floats


@needs_chip
def test_linked_sizes_are_stored_and_used_by_verdicts(run, found, hfld):
    sizes = linked_sizes(run, "student")
    assert len(sizes) == 2 * len(CORES)
    assert {size.precision for size in sizes} == {"int8", "fp32"}
    linked = found["cortex-m4"].linked["int8"]
    said = hfld("edge", run.folder, "--device", "STM32F411RE")
    assert "sizes: linked for Cortex-M4" in said
    assert f"{linked.flash_bytes:,} of" in said
    assert linked_sizes(run, "teacher") == []
    (run.folder / STORED).write_text('[{"role": 3}]')
    with pytest.raises(RecipeError, match=r"chip\.json cannot be read .*; delete it"):
        linked_sizes(run, "student")
    (run.folder / STORED).unlink()


@needs_chip
def test_the_command_prints_tables_and_writes_figures(run, hfld, tmp_path):
    output = tmp_path / "chips.csv"
    said = hfld("edge", run.folder, "--on", "M4", "--recordings", 2, "--output", output, "--quiet")
    assert "2 of" in said
    assert "cortex-m4" in said
    assert "QEMU's mps2-an386" in said
    assert "linked for Cortex-M4, not its Cortex-M7" in said
    rows = pd.read_csv(output)
    chips = rows[rows["table"] == "chips"]
    assert set(chips["precision"]) == {"int8", "float32"}
    assert (chips["instructions"] > 1000).all()
    parts = rows[(rows["table"] == "parts") & (rows["memory"] == "flash")]
    each = parts.groupby("precision")["bytes"].sum()
    assert each.to_dict() == chips.set_index("precision")["flash_bytes"].to_dict()
    (run.folder / STORED).unlink()


def test_wrong_arguments_are_named(run, hfld):
    assert "'m5' is unknown; choose from cortex-m0" in hfld(
        "edge", run.folder, "--on", "m5", code=2
    )
    with pytest.raises(ArgumentError, match="most is -1"):
        run_on_chips(run, ["m4"], most=-1)
    said = hfld("edge", run.folder, "--on", "m4", "--device", "STM32F411RE", code=2)
    assert "--on and --device do not go together" in said
    said = hfld("export", run.folder, "--format", "c", "--raw", code=2)
    assert "--raw is for ONNX files" in said


def test_without_the_tools_the_packages_are_named(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HfldError, match=r"apt install gcc-arm-none-eabi .* qemu-system-arm"):
        run_on_chips(run, ["m4"])


@needs_chip
@pytest.mark.parametrize(
    ("depth", "view", "flash"),
    [(10, {}, 48), (18, {"view": "spectrum", "bins_by": "cutting", "bins": 875}, 32)],
    ids=["demo", "20 kB of the sweep"],
)
def test_students_of_the_goals_fit_a_cortex_m4(tmp_path, depth, view, flash):
    names, signals = ("AN", "AD", "BN", "BD", "CN", "CD"), noise(200, 7000)
    labels = np.arange(len(signals)) % len(names)
    trust = make_trust(
        (signals, labels), (signals, labels), np.full((len(signals), 6), 1 / 6), (0, 2, 4)
    )
    network = resnet1d(depth, len(names), 1 / 16, "small").eval()
    recipe = preset("classroom").replace(**view)
    detector = Detector(recipe, {"student": network}, names, names[::2], 40_000, 7000)
    program = program_of(detector)
    integers = to_integers(program, detector.inputs(signals))
    for name, text in sources(detector, program, integers, trust, trust).items():
        (tmp_path / name).write_text(text)
    linked = build(tmp_path, "m4", "int8", tmp_path / "out")
    found = emulate(linked, signals[:1])
    assert linked.flash_bytes <= flash * 1024
    assert found.ram_bytes <= 64 * 1024


def test_the_readme_says_what_the_table_says():
    root = Path(__file__).parents[1]
    table = pd.read_csv(root / "hfld_lite/results/chips.csv", comment="#")
    row = table.set_index(["core", "precision"]).loc[("cortex-m4", "int8")]
    flash, static = row["flash_bytes"] / 1024, row["arena_bytes"] / 1024
    text = " ".join((root / "README.md").read_text("utf-8").split())
    assert (
        f"needs {flash:.1f} KiB of flash, code included, {static:.1f} KiB of static memory and "
        f"{row['stack_bytes']} bytes of stack; on 300 test recordings it is right for "
        f"{row['accuracy']:.1%}".replace("%", " %")
    ) in text
    assert row["change"] == 0  # "as torch is"
