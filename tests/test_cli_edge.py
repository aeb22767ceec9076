"""`hfld export` and `hfld edge`, as a user meets them; and the tables behind them."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from html import unescape

import pandas as pd
import pytest
import torch
from rich.console import Console

from hfld_lite.app import cli
from hfld_lite.app.costs_page import write_page
from hfld_lite.app.runs import load_run
from hfld_lite.edge import summary as costs
from hfld_lite.edge.analysis import count_macs, stored_bytes
from hfld_lite.edge.devices import DEVICES, Needs, fits
from hfld_lite.errors import RecipeError

LINKED = Needs("int8", 40_000, 30_000, 0, "cortex-m4")
RUNS = (("torch", "fp32"), ("ONNX Runtime", "fp32"), ("ONNX Runtime", "int8"))
RUNS += (("C", "fp32"), ("C", "int8"))


@pytest.fixture(scope="module")
def folder(saved_run):
    return saved_run[0]


@pytest.fixture
def hfld(monkeypatch, capsys):
    """The command in this process, 250 columns wide: what it prints on both streams."""

    def run(*arguments, code=0):
        console = Console(highlight=False, markup=False, width=250)
        monkeypatch.setattr("hfld_lite.app.cli_edge.console", console)
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said
        return said.out + said.err

    return run


@pytest.fixture(scope="module")
def found(folder):
    detector = load_run(folder).detector
    return costs.measure(detector, runs=10, threads=(1,), linked=LINKED, progress=False)


def test_export_tells_what_it_wrote_and_how_equal_it_is(folder, hfld, tmp_path):
    said = hfld("export", folder, "--out", tmp_path / "x")
    size = (tmp_path / "x" / "student.onnx").stat().st_size
    assert f"{size:,} bytes, onnx, opset 18" in said
    assert re.search(r"from torch's: \d\.\de-0[5-9], on 500 recordings", said)
    assert '"unsure" keeps defective recordings called sound at' in said
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "predict.py",
        "student.onnx",
    ]


def test_export_in_eight_bits_tells_the_accuracy_before_and_after(folder, hfld, tmp_path):
    said = hfld("export", folder, "--format", "onnx-int8", "--miss-rate", 0.25, "--out", tmp_path)
    run = load_run(folder)
    known = run.detector.evaluate(run.recordings().select(run.split.test))
    assert f"before quantisation: {known.accuracy:.1%} (95 % interval {known.low:.1%}" in said
    assert re.search(r"after quantisation: [\d.]+% \(95 % interval", said)
    assert re.search(r"Difference: [+-][\d.]+ points \(paired 95 % interval", said)
    assert "at 25.0% at most" in said


def test_recordings_that_were_moved_are_read_where_they_are_now(folder, hfld, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    facts = json.loads((copy / "run.json").read_text("utf-8"))
    place = facts["data"]["folder"]
    facts["data"]["folder"] = "gone"
    (copy / "run.json").write_text(json.dumps(facts), "utf-8")
    options = ("export", copy, "--out", tmp_path / "x", "--miss-rate", 0.25)
    assert "gone: is not there; expected the recordings" in (said := hfld(*options, code=2))
    assert "say where they are now with --data" in said
    assert "It reads WAV files at 40000 Hz of 7000 samples or more" in (
        " ".join(hfld(*options, "--data", place).split())
    )


def test_mistakes_end_in_one_sentence_and_status_2(folder, hfld, tmp_path):
    for arguments, words in {
        ("export", folder, "--opset", 7): "opset is 7; choose one from 18 to 23",
        (
            "export",
            folder,
            "--format",
            "tflite",
        ): "format is 'tflite'; choose one of onnx, onnx-int8, onnx-int8-dynamic, c, c-float32",
        ("export", folder, "--role", "pupil"): "There is no 'pupil' here; choose from teacher",
        ("edge", folder, "--device", "STM32F411RF"): "'STM32F411RF' is unknown; did you mean",
        ("edge", folder, "--device", "RP2040", "--precision", "int4"): "precision is 'int4'",
        ("edge", folder, "--role", "pupil"): "There is no 'pupil' here",
        ("edge", tmp_path): "holds no run",
    }.items():
        said = hfld(*arguments, *(["--out", tmp_path] * (arguments[0] == "export")), code=2)
        assert words in said
        assert said.startswith("hfld: ")
        assert said.count("\n") == 1


def test_a_run_without_a_student_says_what_it_has(folder, hfld, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    text = (copy / "run.json").read_text()
    facts = json.loads(text)
    for role in ("student", "student_alone"):
        del facts["stages"][role], facts["trust"][role]
    (copy / "run.json").write_text(json.dumps(facts))
    words = "There is no 'student' here; choose from teacher, secondary_teacher."
    assert words in hfld("export", copy, "--out", tmp_path / "x", code=2)
    assert words in hfld("edge", copy, code=2)
    assert words in hfld("edge", copy, "--device", "DCASE", code=2)


def test_the_other_commands_do_without_the_packages_of_the_edge(folder, tmp_path):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'onnxscript', 'onnxruntime']));"
        "from hfld_lite.app.cli import main; main()"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("info", folder).returncode == 0
    for arguments in (("export", folder, "--out", tmp_path), ("edge", folder)):
        done = run(*arguments)
        assert done.returncode == 2
        assert "is missing; install the extra edge" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_verdict_says_each_limit(folder, hfld):
    detector = load_run(folder).detector
    network = detector.network("student")
    verdict = fits(network, "STM32F411RE", 600)
    said = hfld("edge", folder, "--device", "stm32f411re")
    assert "The student in int8 fits STM32F411RE" in said
    assert f"flash: yes, {stored_bytes(network, 'int8'):,} of 524,288 bytes" in said
    assert f"RAM: yes, {verdict.ram_needed:,} of 131,072 bytes" in said
    assert f"about {verdict.estimate_ms:.3g} ms or more for the network alone, an estimate" in said
    assert "sizes: estimated; code, stack and runtime come on top" in said
    assert "figures of the device: Flash, RAM, clock: ST DS10314." in " ".join(said.split())
    said = hfld("edge", folder, "--device", "DCASE", "--precision", "fp32")
    assert f"MACs: yes, {count_macs(network, 600):,} of 30,000,000" in said
    assert "an estimate" not in said
    assert "sizes: estimated\n" in said


def test_a_device_that_is_too_small_is_a_no(folder, hfld, monkeypatch):
    tiny = DEVICES[0].__class__("Tiny", 100, 10**9, None, None, "made up")
    monkeypatch.setattr("hfld_lite.edge.devices.DEVICES", (tiny,))
    said = hfld("edge", folder, "--device", "tiny")
    assert "does NOT fit Tiny" in said
    assert "flash: NO" in said
    assert "RAM: yes" in said


def test_edge_prints_all_tables_and_writes_the_page(folder, hfld, tmp_path):
    page = tmp_path / "new" / "edge.html"
    said = hfld("edge", folder, "--runs", 10, "--threads", 1, "--quiet", "--html", page)
    text = page.read_text()
    detector = load_run(folder).detector
    for role, network in detector.networks.items():
        assert role.replace("_", " ") in said
        assert f"{stored_bytes(network, 'int8') / 1000:,.1f}" in said
    for words in (*(device.name for device in DEVICES), "torchinfo", "FlopCounterMode / 2"):
        assert words in said
        assert words in text
    assert text.count("<img ") == 2
    assert all(len(alt) > 40 for alt in re.findall('alt="([^"]*)"', text))
    assert text.count("<table>") == 6
    assert text.count("estimated") >= len(DEVICES)
    assert all(device.source in unescape(text) for device in DEVICES)
    assert f"see {page}" in said


def test_the_pages_place_must_be_writable(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"):
        write_page(tmp_path / "file" / "x.html", found, "lead", "command")


def test_every_way_is_timed_and_the_tables_agree(found, folder):
    ways = set(found.times[["runtime", "precision", "raw"]].itertuples(index=False, name=None))
    both = {(r, p, raw) for r, p in RUNS for raw in (False, True)}
    assert ways == both | {("ONNX Runtime", "int8 dynamic", False)}
    assert len(found.times) == len(ways)
    assert (found.times["p50"] <= found.times["p95"]).all()
    assert (found.times["p95"] <= found.times["p99"]).all()
    assert (found.times["p50"] > 0).all()
    network = load_run(folder).detector.network("student")
    row = found.networks.set_index("role").loc["student"]
    assert row["int8_bytes"] == stored_bytes(network, "int8")
    assert row["macs"] == count_macs(network, 600)
    assert row["int8_ram"] == found.memory["int8"].peak
    assert found.parts.iloc[-1]["int8_bytes"] == row["int8_bytes"]
    linked = found.devices["sizes"] == "linked"
    assert (found.devices.loc[~linked, "ram_needed"] == row["int8_ram"]).all()
    assert (found.devices.loc[linked, "ram_needed"] == LINKED.ram_bytes).all()
    shown = costs.device_table(found.devices).set_index("device")["sizes"]
    assert shown["nRF52840"] == "linked for Cortex-M4"
    assert shown["ESP32-S3"] == "estimated"


def test_each_way_gives_the_networks_answer(folder, tmp_path):
    detector = load_run(folder).detector
    signals = costs.noise(60, detector.samples)
    expected = detector.predict(signals[:1], detector.sample_rate)[0]
    calls = costs.Calls(detector, "student", signals, tmp_path)
    for way in costs.WAYS:
        answer = calls.call(way)()
        if way.runtime == "C":  # a status and probabilities, or logits
            answer = [answer[1] if way.raw else torch.softmax(torch.tensor(answer), 0)]
        tolerance = 1e-4 if way.precision == "fp32" else 0.2
        assert answer[0].reshape(-1).tolist() == pytest.approx(expected.tolist(), abs=tolerance)


def test_without_a_compiler_c_is_not_timed_and_the_table_says_so(folder, monkeypatch):
    detector = load_run(folder).detector
    monkeypatch.setattr("hfld_lite.edge.host.COMPILERS", ("no-such-compiler",))
    monkeypatch.setattr(costs, "WAYS", (costs.Way("torch", "fp32", False), *costs.WAYS[-2:]))
    times, said = costs._times(detector, "student", costs.noise(60, detector.samples), (1,), 10, 0)
    assert times["runtime"].tolist() == ["torch"]
    assert said.startswith("C is not timed: There is no C compiler here (no-such-compiler)")


def test_device_table_names_what_does_not_fit():
    row = {
        **{"device": "d", "fits": False, "flash_needed": 5000, "flash_available": 1000},
        **{"flash_fits": False, "ram_needed": 10, "ram_available": None, "ram_fits": True},
        **{"macs": 2_500_000, "macs_limit": 30_000_000, "macs_fit": True, "estimate_ms": None},
        **{"sizes": "linked", "core": "cortex-m7", "linked_for": "cortex-m4"},
    }
    (cells,) = costs.device_table(pd.DataFrame([row])).to_numpy().tolist()
    sizes = "linked for Cortex-M4, not its Cortex-M7"
    assert cells == ["d", "NO", "NO, 5 kB of 1 kB", "no limit", "2.5 M of 30 M", sizes, "–"]
