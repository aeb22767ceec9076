"""A trained network on its way to a device: the file, its program, and where torch is missing."""

import ast
import json
import os
import struct
import subprocess
import sys
import wave
from dataclasses import replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

from hfld_lite import (
    ArgumentError,
    DataError,
    Detector,
    HfldError,
    Recipe,
    RecipeError,
    resnet1d,
    simulate_tiles,
)
from hfld_lite.app.export import export_run
from hfld_lite.app.runs import load_run
from hfld_lite.data.readers import read_signals
from hfld_lite.edge.deploy import FORMATS, TOLERANCE, _facts, export_network
from hfld_lite.edge.export import FACTS, INPUT, session
from hfld_lite.evaluation.trust import CLIPPED, NOVEL, Trust

OLD_RUNTIME = os.environ.get("HFLD_OLD_RUNTIME")


@pytest.fixture(scope="module")
def recordings(saved_run):
    return saved_run[1]


@pytest.fixture(scope="module")
def run(saved_run):
    return load_run(saved_run[0])


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with numpy and onnxruntime, and nothing else: neither torch nor this library."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    packages = folder / "packages"
    packages.mkdir()
    for name in ("numpy", "onnxruntime"):
        inside = Path(find_spec(name).origin).parent
        for path in (inside, inside.with_name(f"{name}.libs")):
            if path.exists():
                (packages / path.name).symlink_to(path)
    python = folder / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def call(*arguments, code=0):
        done = subprocess.run(
            [python, "-W", "error", *map(str, arguments)],
            cwd=folder,
            env={"PYTHONPATH": str(packages)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    for missing in ("torch", "hfld_lite", "scipy"):
        seen = call("-c", f"from importlib.util import find_spec; print(find_spec('{missing}'))")
        assert seen == "None\n"
    return call


def write_wav(path, signal, rate=40_000, width=2, channels=1):
    """A WAV file of so many bytes a sample; the loudest sample is at nine tenths."""
    scaled = np.asarray(signal) * 0.9 / np.abs(signal).max()
    whole = np.round(scaled * 2 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    data = np.repeat(whole, channels).astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return path


def program_functions(*names):
    """Functions and constants of the program for the device, which runs when it is imported."""
    program = resources.files("hfld_lite.edge").joinpath("templates/predict.py").read_text("utf-8")
    found = [
        node
        for node in ast.parse(program).body
        if getattr(node, "name", "") in names
        or (isinstance(node, ast.Assign) and node.targets[0].id in names)
    ]
    assert len(found) == len(names)
    scope = {"np": np, "struct": struct}
    exec(compile(ast.Module(found, []), "predict.py", "exec"), scope)
    return scope


def facts(path):
    (entry,) = [e for e in onnx.load(path).metadata_props if e.key == FACTS]
    return json.loads(entry.value)


@pytest.mark.parametrize("raw", [False, True])
def test_the_file_answers_as_torch_on_500_recordings(run, recordings, tmp_path, raw):
    written = export_run(run, tmp_path / "out", raw=raw)
    assert written.difference <= TOLERANCE
    assert written.compared == 500
    many = simulate_tiles("AB", tiles_per_class=63, drops=2, seed=9).signals[:500]
    expected = run.detector.predict(many, 40_000)
    assert len(expected) == 500
    assert np.ptp(expected, axis=0).max() > 0.01, "the network tells recordings apart"
    inputs = many if raw else run.detector.inputs(many).numpy()
    found = session(onnx.load(written.model)).run(None, {INPUT: np.asarray(inputs)})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_metadata_say_what_the_device_needs(run, tmp_path):
    written = export_run(run, tmp_path)
    known = facts(written.model)
    assert known["class_names"] == list(run.detector.class_names)
    assert (known["sample_rate"], known["samples"]) == (40_000, 7000)
    assert known["answers"] == [
        "sound" if name in run.detector.normal_classes else "defective"
        for name in run.detector.class_names
    ]
    assert (known["view"], known["length"], known["role"]) == ("spectrum", 600, "student")
    assert Trust.from_dict(known) == run.trust["student"] == written.trust
    assert known["hfld_lite"]
    assert facts(export_run(run, tmp_path, raw=True).model)["view"] == "raw"


@pytest.mark.parametrize("format", ["onnx-int8", "onnx-int8-dynamic"])
def test_quantised_files_are_smaller_and_their_accuracy_is_told(run, recordings, tmp_path, format):
    exact, small = export_run(run, tmp_path / "a"), export_run(run, tmp_path / "b", format)
    assert small.bytes < 0.75 * exact.bytes
    assert small.bytes == small.model.stat().st_size
    assert exact.before is None
    part = recordings.select(run.split.test)
    assert small.before.accuracy == run.detector.evaluate(part).accuracy
    inputs = run.detector.inputs(part.signals).numpy()
    runner = session(onnx.load(small.model))
    found = [runner.run(None, {INPUT: row[None]})[0][0].argmax() for row in inputs]
    assert small.after.accuracy == np.mean(found == part.labels)
    difference, low, high = small.change
    assert difference == pytest.approx(small.after.accuracy - small.before.accuracy)
    assert low <= difference <= high
    assert small.difference > exact.difference


def test_calibration_reads_training_recordings_only(run, recordings, tmp_path, monkeypatch):
    read = {}
    monkeypatch.setattr(
        "hfld_lite.edge.deploy.quantise", lambda model, inputs: read.update(inputs=inputs) or model
    )
    export_run(run, tmp_path, "onnx-int8")
    train = run.detector.inputs(recordings.signals[run.split.train]).numpy()
    rest = run.detector.inputs(
        recordings.signals[np.concatenate([run.split.validation, run.split.test])]
    ).numpy()
    known, unknown = ({row.tobytes() for row in part} for part in (train, rest))
    given = {row.tobytes() for row in read["inputs"]}
    assert len(given) == min(200, len(train))
    assert given <= known
    assert not given & unknown


def test_the_limit_of_a_quantised_file_is_set_on_its_own_answers(run, tmp_path):
    small = export_run(run, tmp_path, "onnx-int8", miss_rate=0.2)
    assert small.trust.rate == 0.2
    assert small.trust.limit != run.trust["student"].limit
    assert facts(small.model)["limit"] == small.trust.limit
    exact = export_run(run, tmp_path, miss_rate=0.2)
    assert exact.trust.rate == 0.2
    assert exact.trust.limit != small.trust.limit


def test_float32_needs_no_recordings_and_the_others_say_so(run, tmp_path):
    gone = replace(run, facts=run.facts | {"data": {"folder": "no/such", "options": {}}})
    assert export_run(gone, tmp_path).trust == run.trust["student"]
    words = r"no.such: is not there; expected the recordings that .* was trained on; say where they"
    with pytest.raises(DataError, match=words):
        export_run(gone, tmp_path, "onnx-int8")
    with pytest.raises(DataError, match=words):
        export_run(gone, tmp_path, miss_rate=0.2)
    place = run.facts["data"]["folder"]
    assert export_run(gone, tmp_path, miss_rate=0.2, data=place).trust.rate == 0.2
    simulated = replace(run, facts=run.facts | {"data": {"simulated": {"seed": 0}}})
    with pytest.raises(ArgumentError, match="was trained on simulated recordings; leave --data"):
        export_run(simulated, tmp_path, miss_rate=0.2, data=place)


def test_a_network_is_exported_without_a_run(run, recordings, tmp_path):
    known = run.detector
    alone = export_network(known, tmp_path)
    assert alone.trust is None
    with pytest.raises(ArgumentError, match="recordings and split are needed for eight bits"):
        export_network(known, tmp_path, "onnx-int8")
    mine = export_network(
        known, tmp_path / "a", "onnx-int8", recordings=lambda: recordings, split=run.split
    )
    assert (
        mine.model.read_bytes() == export_run(run, tmp_path / "b", "onnx-int8").model.read_bytes()
    )


def test_mistakes_are_named(run, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=f"format is 'tflite'; choose one of {FORMATS[0]}"):
        export_run(run, tmp_path, "tflite")
    with pytest.raises(ArgumentError, match="opset is 7; choose one from 18 to 23"):
        export_run(run, tmp_path, opset=7)
    with pytest.raises(HfldError, match="There is no 'student' here; choose from teacher"):
        export_run(replace(run, detector=run.detector.only("teacher")), tmp_path)
    with pytest.raises(ArgumentError, match="validation recordings can promise"):
        export_run(run, tmp_path, miss_rate=1e-6)
    few = replace(run, split=replace(run.split, train=run.split.train[:20]))
    with pytest.raises(DataError, match="calibration: there are 20 recordings"):
        export_run(few, tmp_path, "onnx-int8")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"):
        export_run(run, tmp_path / "file")
    monkeypatch.setattr("hfld_lite.edge.deploy.TOLERANCE", -1.0)
    with pytest.raises(HfldError, match="differs from torch's by"):
        export_run(run, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_run_without_validation_never_doubts(run, tmp_path, bare, recordings):
    rows = np.concatenate([run.split.train, run.split.validation])
    without = replace(run, trust={}, split=replace(run.split, train=rows, validation=[]))
    written = export_run(without, tmp_path, "onnx-int8")
    assert written.trust is None
    noise = np.random.default_rng(0).standard_normal(7000)
    said = bare(written.program, write_wav(tmp_path / "noise.wav", np.clip(noise, -0.5, 0.5)))
    assert "unsure" not in said
    assert "warning" not in said
    with pytest.raises(ArgumentError, match="no validation part to set a miss rate on"):
        export_run(without, tmp_path, miss_rate=0.2)


def answers(text):
    """Of each line "FILE: ANSWER (CLASS, PROBABILITY)" the answer, the class, the probability."""
    found = []
    for line in text.splitlines():
        if not line.startswith(("  warning", "  note")):
            answer, rest = line.rsplit(": ", 1)[1].split(" (")
            name, probability = rest.rstrip(")").split(", ")
            found.append((answer, name, float(probability)))
    return found


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
def test_the_program_answers_as_the_library_without_torch(
    run, recordings, tmp_path, bare, format, raw
):
    written = export_run(run, tmp_path / "out", format, raw=raw, miss_rate=0.15)
    assert len(written.program.read_text().splitlines()) < 220
    part = recordings.select(run.split.test)
    files = [write_wav(tmp_path / f"{i}.wav", part.signals[i]) for i in range(len(part))]
    found = answers(bare(written.program, *files))
    read = np.concatenate([read_signals(f, sample_rate=40_000, samples=7000) for f in files])
    if format == "onnx":
        expected = run.detector.predict(read, 40_000)
    else:
        inputs = read if raw else run.detector.inputs(read).numpy()
        runner = session(onnx.load(written.model))
        expected = np.concatenate([runner.run(None, {INPUT: row[None]})[0] for row in inputs])
    labels, unsure = expected.argmax(1), written.trust.unsure(expected)
    names = np.array(run.detector.class_names)
    assert [name for _, name, _ in found] == names[labels].tolist()
    assert [p for *_, p in found] == pytest.approx(expected.max(1).tolist(), abs=2e-3)
    kinds = np.array(run.detector.answers)[labels]
    assert [answer for answer, *_ in found] == np.where(unsure, "unsure", kinds).tolist()
    assert {answer for answer, *_ in found} == {"unsure", "sound", "defective"}


@pytest.mark.skipif(not OLD_RUNTIME, reason="HFLD_OLD_RUNTIME names no environment; see .ci/run")
def test_an_old_runtime_answers_as_the_new_one(run, recordings, tmp_path):
    program = """
import sys, numpy as np, onnxruntime
for model in sys.argv[1:]:
    run = onnxruntime.InferenceSession(model + "/student.onnx").run
    rows = np.load(model + "/inputs.npy")
    np.save(model + "/old.npy", np.concatenate([run(None, {"input": x[None]})[0] for x in rows]))
print(onnxruntime.__version__)
"""
    signals, expected = recordings.signals[run.split.test], {}
    for format, raw in (("onnx", True), ("onnx-int8", False)):
        folder = tmp_path / format
        model = onnx.load(export_run(run, folder, format, raw=raw).model)
        rows = signals if raw else run.detector.inputs(signals).numpy()
        np.save(folder / "inputs.npy", rows)
        found = [session(model).run(None, {INPUT: row[None]})[0] for row in rows]
        expected[folder] = np.concatenate(found)
    done = subprocess.run(
        [Path(OLD_RUNTIME) / "bin" / "python", "-c", program, *map(str, expected)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "1.15.0\n", done.stderr
    for folder, values in expected.items():
        np.testing.assert_allclose(np.load(folder / "old.npy"), values, atol=1e-4)


SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_the_program_reads_the_samples_that_soundfile_reads(tmp_path, subtype, container, channels):
    file = tmp_path / "x.wav"
    signal = np.random.default_rng(0).uniform(-1, 1, (101, channels))  # an odd number of bytes
    soundfile.write(file, signal, 11_025, subtype, format=container)
    expected = soundfile.read(file, dtype="float32", always_2d=True)[0]
    found, rate, notes = program_functions("wav", "chunks", "KINDS")["wav"](file)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7, rtol=0)
    assert (rate, notes) == (11_025, [])


def with_size(data, size):
    """The bytes of a WAV file whose chunk of sound claims so many bytes."""
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
def test_a_sound_from_a_pipe_is_read_to_the_end(tmp_path, size):
    wav = program_functions("wav", "chunks", "KINDS")["wav"]
    file = write_wav(tmp_path / "x.wav", np.random.default_rng(0).uniform(-1, 1, 500))
    expected = wav(file)[0]
    file.write_bytes(with_size(file.read_bytes(), size) + b"\1")  # and half a sample
    found, _, notes = wav(file)
    np.testing.assert_array_equal(found, expected)
    assert notes == ["its header has no length"]


def test_what_the_program_cannot_read_is_named(tmp_path):
    wav = program_functions("wav", "chunks", "KINDS")["wav"]
    noise = np.random.default_rng(0).uniform(-1, 1, 500)
    good = write_wav(tmp_path / "good.wav", noise).read_bytes()
    for name, subtype in (("a.flac", "PCM_16"), ("law.wav", "ALAW")):
        soundfile.write(tmp_path / name, noise, 40_000, subtype)
    for name, data in {
        "half.wav": good[:600],
        "head.wav": good[:30],
        "no_data.wav": good[:36],
        "none.wav": good[:44],
        "empty.wav": b"",
        "page.wav": b"<!DOCTYPE html>",
        "no_sound.wav": with_size(good[:44], 0) + b"LIST\4\0\0\0INFO",
        "no_format.wav": good[:12] + good[36:],
        "no_channels.wav": good[:22] + b"\0\0" + good[24:],
    }.items():
        (tmp_path / name).write_bytes(data)
    for name, words in {
        "a.flac": "is FLAC; convert it, as by: ffmpeg -i a.flac a.wav",
        "law.wav": "is coded in a way that is not read .format 0x6 of WAV, 8 bits.",
        "half.wav": "claims 1000 bytes of sound and has 556, so it was cut off",
        "head.wav": "holds no sound: it was cut off in its header",
        "no_data.wav": "holds no sound: it was cut off in its header",
        "none.wav": "claims 1000 bytes of sound and has 0",
        "empty.wav": "is empty",
        "page.wav": "is not a WAV file; convert it",
        "no_sound.wav": "is empty: it has a header but no samples",
        "no_format.wav": "says nothing about its format",
        "no_channels.wav": "is coded in a way that is not read",
        "nothing.wav": "is not there",
        "": "is not a file",
    }.items():
        with pytest.raises(ValueError, match=words):
            wav(tmp_path / name)


def test_damaged_files_never_crash_the_program(tmp_path):
    wav = program_functions("wav", "chunks", "KINDS")["wav"]
    file, rng = tmp_path / "x.wav", np.random.default_rng(0)
    soundfile.write(file, rng.uniform(-1, 1, (50, 2)), 8000, "PCM_24", format="WAVEX")
    good, refused = np.frombuffer(file.read_bytes(), np.uint8), 0
    for case in range(400):
        bad = good[: rng.integers(1, len(good)) if case % 2 else None].copy()
        bad[rng.integers(0, min(90, len(bad)), 2)] = rng.integers(0, 256, 2)
        file.write_bytes(bad.tobytes())
        try:
            wav(file)
        except ValueError:
            refused += 1
    assert 200 <= refused < 400


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_24", 2), ("FLOAT", 1)])
def test_the_program_answers_other_files_as_the_library(
    run, recordings, tmp_path, bare, subtype, channels
):
    program = export_run(run, tmp_path / "out").program
    signal = np.concatenate([recordings.signals[4], np.full(7000, 0.01)])  # longer than is read
    file = tmp_path / "x.wav"
    soundfile.write(file, np.tile(signal[:, None], channels), 40_000, subtype)
    probabilities = run.detector.predict(
        read_signals(file, sample_rate=40_000, samples=7000), 40_000
    )[0]
    said = bare(program, file)
    ((_, name, probability),) = answers(said)
    assert name == run.detector.class_names[probabilities.argmax()]
    assert probability == pytest.approx(probabilities.max(), abs=2e-3)
    assert "  note: only the first 7000 of 14000 samples (50 %) were used; cut" in said


def test_the_program_warns_as_the_library_does(run, recordings, tmp_path, bare):
    program = export_run(run, tmp_path / "out").program
    usual = np.array(recordings.signals[run.split.train[0]])
    clipped = np.clip(usual, -0.3 * np.abs(usual).max(), 0.3 * np.abs(usual).max())
    muffled = np.convolve(usual, np.full(9, 1 / 9), "same")
    said = {}
    for name, signal in {"usual": usual, "clipped": clipped, "muffled": muffled}.items():
        file = write_wav(tmp_path / f"{name}.wav", signal)
        said[name] = bare(program, file)
        read = read_signals(file, sample_rate=40_000, samples=7000)
        (expected,) = run.trust["student"].warnings(read)
        shown = [line.removeprefix("  warning: ") for line in said[name].splitlines()[1:]]
        assert shown == expected
    assert "warning" not in said["usual"]
    assert CLIPPED in said["clipped"]
    assert NOVEL in said["muffled"]


def test_one_bad_file_of_many_gets_its_line_and_the_others_their_answers(
    run, recordings, tmp_path, bare
):
    written = export_run(run, tmp_path / "out")
    noise = np.random.default_rng(0).standard_normal(7000)
    silent = write_wav(tmp_path / "f.wav", np.append(np.zeros(6999), 1)).read_bytes()
    (tmp_path / "f.wav").write_bytes(silent[:-2] + b"\0\0")
    soundfile.write(tmp_path / "g.wav", np.append(noise, np.nan), 40_000, "FLOAT")
    soundfile.write(tmp_path / "h.flac", noise / 10, 40_000)
    wrong = {
        write_wav(tmp_path / "a.wav", noise, 8000): "is at 8000 Hz, not at 40000 Hz; resample it",
        write_wav(tmp_path / "b.wav", noise[:6999]): "has 6999 samples; expected 7000 or more",
        tmp_path / "c.wav": "is not there",
        tmp_path / "f.wav": "is constant (silent)",
        tmp_path / "g.wav": "holds NaN or infinity",
        tmp_path / "h.flac": "is FLAC; convert it",
    }
    good = [write_wav(tmp_path / f"good{i}.wav", recordings.signals[i]) for i in (0, 20)]
    lines = bare(written.program, good[0], *wrong, good[1], code=2).splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [str(path) for path in good]
    for line, (file, words) in zip(lines[2:], wrong.items(), strict=True):
        assert line.startswith(f"{file}: {words}")
    said = bare(written.program, code=1)
    assert "python predict.py impact.wav" in said
    assert "WAV files at 40000 Hz of 7000 samples or more: PCM of 8, 16, 24 or 32 bits" in said
    assert written.reads in said


def test_windows_of_a_long_recording_are_answered_one_by_one(run, tmp_path, bare, recordings):
    windowed = replace(run, facts=run.facts | {"window": [7000, 3500]})
    program = export_run(windowed, tmp_path / "out").program
    long = write_wav(tmp_path / "long.wav", np.concatenate(recordings.signals[[0, 20]]))
    found = answers(bare(program, long))
    read = read_signals(long, sample_rate=40_000, samples=7000, hop=3500)
    probabilities = run.detector.predict(read, 40_000)
    assert len(found) == 3
    assert [p for *_, p in found] == pytest.approx(probabilities.max(1).tolist(), abs=2e-3)


@pytest.mark.parametrize("samples", [None, 5000])
def test_the_time_view_and_a_recipes_cut(
    tmp_path, recordings, tiny_recipe, save_chain, bare, samples
):
    for view in ("time", "spectrum"):
        place = tmp_path / view
        place.mkdir()
        recipe = tiny_recipe.replace(view=view, samples=samples)
        loaded = load_run(save_chain(place, recordings, recipe))
        program = export_run(loaded, place / "out").program
        file = write_wav(place / "x.wav", recordings.signals[4])
        probabilities = loaded.detector.predict(
            read_signals(file, sample_rate=40_000, samples=7000), 40_000
        )[0]
        ((_, _, probability),) = answers(bare(program, file))
        assert probability == pytest.approx(probabilities.max(), abs=2e-3)


VIEWS = {
    "averaged": Recipe(view="spectrum"),
    "averaged of a part": Recipe(view="spectrum", samples=3001, bins=300),
    "cut": Recipe(view="spectrum", bins_by="cutting", bins=400),
    "dB": Recipe(view="log-spectrum", level="removed"),
    "dB with level": Recipe(view="log-spectrum", level="kept", samples=500),
    "mel": Recipe(view="log-mel", level="removed", bins=300),
    "mel with level": Recipe(view="log-mel", level="kept", samples=4000),
    "time": Recipe(view="time", samples=700),
}


def untrained(recipe, samples=7000, rate=40_000):
    """A detector of two classes that has learned nothing."""
    torch.manual_seed(0)
    networks = {"student": resnet1d(10, 2, 1 / 16, "small").eval()}
    return Detector(recipe, networks, ("N", "D"), ("N",), rate, samples)


@pytest.fixture(scope="module")
def tiles():
    return simulate_tiles("AB", tiles_per_class=1, drops=1, seed=3).signals


@pytest.mark.parametrize(
    ("samples", "rate"), [(7000, 40_000), (5501, 44_100), (1200, 8000)], ids=str
)
@pytest.mark.parametrize("name", VIEWS)
def test_the_programs_view_is_the_librarys(tiles, name, samples, rate):
    recipe, signals = VIEWS[name], tiles[:, :samples] + np.float32(0.1)
    if (recipe.samples or 0) > samples:
        recipe = recipe.replace(samples=1100)
    known = untrained(recipe, samples, rate)
    expected = known.inputs(signals).numpy()
    facts = _facts(known, "student", "onnx", recipe.view, expected.shape[1])
    names = program_functions("view")
    names["FACTS"] = json.loads(json.dumps(facts))
    found = np.stack([names["view"](signal) for signal in signals])
    assert expected.shape[1] >= 257
    # Where a spectrum is nearly 0, decibels show the rounding of the library's float32.
    limit = 5e-5 if "log" in recipe.view else 1e-5
    np.testing.assert_allclose(found, expected, atol=limit)


@pytest.mark.parametrize("name", ["averaged", "dB with level", "mel"])
@pytest.mark.parametrize("raw", [False, True])
def test_the_program_computes_every_view_without_torch(tmp_path, tiles, bare, name, raw):
    known = untrained(VIEWS[name])
    program = export_network(known, tmp_path, raw=raw).program
    file = write_wav(tmp_path / "x.wav", tiles[1])
    read = read_signals(file, sample_rate=40_000, samples=7000)
    ((_, _, probability),) = answers(bare(program, file))
    assert probability == pytest.approx(known.predict(read, 40_000)[0].max(), abs=1e-3)


def test_without_normal_classes_the_class_is_the_answer(
    tmp_path, recordings, tiny_recipe, save_chain, bare
):
    named = replace(recordings, normal_classes=())
    loaded = load_run(save_chain(tmp_path, named, tiny_recipe))
    written = export_run(loaded, tmp_path / "out")
    files = [write_wav(tmp_path / f"{i}.wav", recordings.signals[i]) for i in range(0, 160, 8)]
    read = np.concatenate([read_signals(f, sample_rate=40_000, samples=7000) for f in files])
    probabilities = loaded.detector.predict(read, 40_000)
    unsure = written.trust.unsure(probabilities)
    names = np.array(loaded.detector.class_names)[probabilities.argmax(1)]
    found = [answer for answer, *_ in answers(bare(written.program, *files))]
    assert found == np.where(unsure, "unsure", names).tolist()
