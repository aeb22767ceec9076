"""Which part of a file becomes a recording, the same in training, prediction and on the device."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from hfld_lite import ArgumentError, DataError, Recordings
from hfld_lite.app import cli
from hfld_lite.app.export import export_run
from hfld_lite.app.runs import load_run
from hfld_lite.data.parts import NO_ONSET, Part, average, choose_part, event, onset
from hfld_lite.data.readers import read_cuts, read_folder, read_mat
from hfld_lite.data.splits import split
from hfld_lite.edge import deploy
from hfld_lite.evaluation.detector import trust_of

RATE = 4000


def noise(samples, level=1.0, seed=0):
    return level * np.random.default_rng(seed).standard_normal(samples)


def impact(samples, at, *, decay=0.01, background=0.003, frequency=700, dc=0.0, seed=0):
    """A decaying tone from sample `at` on, in noise."""
    t = np.arange(samples - at) / RATE
    x = dc + noise(samples, background, seed)
    x[at:] += np.exp(-t / decay) * np.cos(2 * np.pi * frequency * t)
    return x


def hum(samples):
    return np.sin(2 * np.pi * 50 * np.arange(samples) / RATE)


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "begins"),
        [("first", [0]), ("loudest", [40]), ("windows", [0, 30, 60]), ("whole", [0])],
    )
    def test_where_they_begin(self, kind, begins):
        x = np.arange(100.0) % 7
        x[40:70] *= 10
        cut = Part(kind, 30).cut(x, RATE)
        assert np.array_equal(cut.signals, [x[begin : begin + 30] for begin in begins])
        assert cut[1:] == (False, False, 0, 0)

    def test_the_loudest_is_found_beside_a_large_offset_that_ends(self):
        x = np.where(np.arange(4000) < 3000, 0.2, -0.2) + noise(4000, 0.01)
        x[2000:2300] += noise(300, 0.5)
        assert np.array_equal(Part("loudest", 300).cut(x, RATE).signals[0], x[2000:2300])

    @pytest.mark.parametrize("at", [0, 7, 900, 5000])
    @pytest.mark.parametrize("dc", [0.0, 3.0])
    def test_an_onset_is_found_within_a_frame(self, at, dc):
        x = impact(8000, at, dc=dc)
        assert at - 16 < onset(x, RATE) <= at
        (cut,) = Part("onset", 400).cut(x, RATE).signals
        begin = max(0, onset(x, RATE) - 20)
        assert np.array_equal(cut, x[begin : begin + 400])

    def test_an_onset_at_the_very_end_stays_within_the_file(self):
        x = impact(8000, 7900)
        assert np.array_equal(Part("onset", 400).cut(x, RATE).signals[0], x[-400:])

    @pytest.mark.parametrize("x", [noise(8000), hum(8000), 5 + hum(8000), np.cumsum(noise(8000))])
    def test_a_steady_sound_has_none_and_gives_its_loudest_part(self, x):
        assert onset(x, RATE) is None
        cut = Part("onset", 500).cut(x, RATE)
        assert cut.no_onset
        assert np.array_equal(cut.signals, Part("loudest", 500).cut(x, RATE).signals)

    def test_a_constant_signal_has_no_onset(self):
        assert onset(np.zeros(1000), RATE) is None

    def test_short_files_are_padded_only_when_asked(self):
        for kind in ("first", "loudest", "onset", "whole", "windows"):
            with pytest.raises(DataError, match="here: has 90 samples; expected 100 or more"):
                Part(kind, 100).cut(hum(90), RATE, "here")
            cut = Part(kind, 100, pad=True).cut(hum(90), RATE)
            assert cut.padded
            assert np.array_equal(cut.signals, [np.pad(hum(90), (0, 10))])

    def test_silent_windows_are_left_out_beside_others(self):
        x = np.concatenate([noise(100), np.zeros(100), noise(150)])
        cut = Part("windows", 100).cut(x, RATE)
        assert np.array_equal(cut.signals, [x[:100], x[200:300]])
        assert cut.silent == 1
        assert Part("windows", 100).cut(np.zeros(300), RATE).signals.shape == (1, 100)

    def test_values_that_are_not_finite_cannot_hide(self):
        x = noise(300)
        x[5] = np.nan
        with pytest.raises(DataError, match="here: holds NaN"):
            Part("onset", 100).cut(x, RATE, "here")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (("middle", 100), "part is 'middle'; choose from first, loudest, onset"),
            (("windos", 100), "part is 'windos'; the nearest name is windows"),
            (("first", 0), "samples is 0; give a whole number above 0"),
            (("first", True), "samples is True"),
            (("first", 10.0), "samples is 10.0"),
            (("first", 10, 1), "pad is 1; give True or False"),
        ],
    )
    def test_what_is_wrong(self, values, words):
        with pytest.raises(ArgumentError, match=words):
            Part(*values)


class TestRule:
    STEADY = tuple(noise(6000 + 900 * i, seed=i) for i in range(4))
    HITS = tuple(impact(6000 + 900 * i, 3000 + 211 * i, seed=i) for i in range(4))

    @pytest.mark.parametrize(
        ("signals", "choices", "expected"),
        [
            ([noise(4000)] * 3, {}, Part("whole", 4000)),
            ([impact(4000, 900)] * 3, {}, Part("whole", 4000)),
            ([noise(8000)] * 3, {}, Part("whole", 8000)),
            ([noise(9000)] * 3, {}, Part("windows", 4096)),
            (STEADY, {}, Part("windows", 4096)),
            ([noise(3000), noise(3500)], {}, Part("windows", 3000)),
            ([noise(3000), noise(3500)], {"pad": True}, Part("whole", 3500, True)),
            ([noise(3000), noise(9000)], {"pad": True}, Part("windows", 4096, True)),
            (STEADY, {"samples": 100}, Part("first", 100)),
            (STEADY, {"samples": 100, "kind": "loudest"}, Part("loudest", 100)),
            (STEADY, {"kind": "first"}, Part("first", 6000)),
            (STEADY, {"kind": "whole"}, Part("whole", 8700)),
            (STEADY, {"kind": "loudest"}, Part("loudest", 4096)),
            (STEADY, {"kind": "onset"}, Part("onset", 4096)),
            (HITS, {"kind": "windows"}, Part("windows", 4096)),
            (HITS[:3] + STEADY[:3], {}, Part("windows", 4096)),
        ],
    )
    def test_what_is_chosen(self, signals, choices, expected):
        assert choose_part(signals, RATE, **choices) == expected

    @pytest.mark.parametrize("decay", [0.01, 0.05])
    def test_events_give_their_length(self, decay):
        """The energy of exp(-2 t / decay) reaches 95 % after 1.5 decays; twice that is taken."""
        hits = [impact(6000 + i, 3000 - i, decay=decay, seed=i) for i in range(5)]
        part = choose_part(hits, RATE)
        assert part.kind == "onset"
        expected = max(2 * 1.5 * decay * RATE, RATE / 20)
        assert expected <= part.samples <= 1.3 * expected + 2 * 16
        assert re.fullmatch("[0-9]{2}0*", str(part.samples))

    def test_never_more_than_the_shortest_file_unless_padded(self):
        hits = [*(impact(9000, 4000, decay=0.2, seed=i) for i in range(4)), impact(500, 10)]
        assert choose_part(hits, RATE).samples == 500
        assert choose_part(hits, RATE, pad=True).samples > 2000

    def test_repeated_impacts_are_no_single_event(self):
        x = sum(impact(20_000, at) for at in range(500, 20_000, 1000))
        assert event(x, RATE) is None
        assert event(impact(20_000, 500), RATE) is not None


def test_answers_are_averaged_in_the_order_of_their_recordings():
    values = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    means, first = average(values, np.array(["b", "b", "a", "b"]))
    assert np.allclose(means, [[2 / 3, 1 / 3], [0, 1]])
    assert first.tolist() == [0, 2]
    assert means.dtype == np.float32
    same, rows = average(values, None)
    assert same is values
    assert rows.tolist() == [0, 1, 2, 3]


class TestRecordings:
    @pytest.fixture
    def windows(self, sounds):
        with pytest.warns(UserWarning, match="windows"):
            return read_folder(sounds, part="windows", samples=2000)

    def test_windows_stay_together(self, windows, sounds):
        assert len(windows) == sum(2 + i % 3 for i in range(20))
        assert windows.origins[:3].tolist() == ["bad/00.wav:0", "bad/00.wav:1", "bad/01.wav:0"]
        assert windows.wholes[:3].tolist() == ["bad/00.wav", "bad/00.wav", "bad/01.wav"]
        x, _ = soundfile.read(sounds / "bad" / "00.wav", dtype="float32")
        assert np.array_equal(windows.signals[1], x[2000:4000])
        parts = split(windows, seed=1)
        homes = [set(windows.wholes[rows]) for rows in parts.parts().values()]
        assert sum(map(len, homes)) == len(set.union(*homes)) == 20
        assert f"{len(windows)} windows, cut from 20 recordings, of 2000 samples" in str(windows)

    def test_saved_and_loaded(self, windows, tmp_path):
        windows.save(tmp_path / "a")
        loaded = Recordings.load(tmp_path / "a")
        assert loaded.part == windows.part == Part("windows", 2000)
        assert np.array_equal(loaded.wholes, windows.wholes)
        assert loaded.select([3, 0]).wholes.tolist() == windows.wholes[[3, 0]].tolist()
        replace(windows, wholes=None, part=None).save(tmp_path / "a", overwrite=True)
        loaded = Recordings.load(tmp_path / "a")
        assert (loaded.part, loaded.wholes) == (None, None)
        manifest = tmp_path / "a" / "manifest.json"
        text = manifest.read_text().replace(
            '"count"', '"part": {"kind": "x", "samples": 3}, "count"'
        )
        manifest.write_text(text)
        with pytest.raises(DataError, match=r"manifest.json: part: .*part is 'x'; choose from"):
            Recordings.load(tmp_path / "a")

    def test_windows_of_one_recording_with_two_groups_or_classes_are_refused(self, windows):
        other = windows.groups.astype(object)
        other[1] = "elsewhere"
        with pytest.raises(DataError, match=r"00.wav, row 1 .*'bad/00.wav' has another group"):
            replace(windows, groups=other)
        labels = windows.labels.copy()
        labels[1] = 1 - labels[1]
        with pytest.raises(DataError, match="has another class"):
            replace(windows, labels=labels)

    def test_signals_cut_anew_are_of_no_known_part(self, windows):
        assert replace(windows, signals=windows.signals[:, :1000]).part is None

    def test_files_without_an_onset_are_counted_in_one_warning(self, sounds):
        with pytest.warns(UserWarning, match="20 steady without an onset, so that") as caught:
            read_folder(sounds, part="onset", samples=2000)
        assert len(caught) == 1

    def test_a_part_longer_than_a_file(self, sounds):
        words = r"bad/00.wav: has 4200 samples; expected 5000 .* \(--samples 4200, .*--pad"
        for kind in ("onset", "windows"):
            with pytest.raises(DataError, match=words):
                read_folder(sounds, part=kind, samples=5000)

    def test_classes_in_the_names_of_a_flat_folder(self, tmp_path):
        for i in range(6):
            name = f"tile{i // 2}_{'fine' if i < 4 else 'cracked'}_{i}.wav"
            soundfile.write(tmp_path / name, noise(300, 0.1, i), RATE)
        pattern = {"label_pattern": r"_([a-z]+)_", "normal": ["fine"]}
        read = read_folder(tmp_path, group_pattern=r"(tile\d)", **pattern)
        assert (read.class_names, read.normal_classes) == (("fine", "cracked"), ("fine",))
        assert read.labels.tolist() == [0, 0, 0, 0, 1, 1]
        assert read.groups.tolist() == ["tile0"] * 2 + ["tile1"] * 2 + ["tile2"] * 2
        with pytest.raises(DataError, match=r"holds no class folder.*give --label-pattern"):
            read_folder(tmp_path)
        with pytest.raises(DataError, match=r"0.wav: the name does not contain the class"):
            read_folder(tmp_path, label_pattern="(broken)")
        (tmp_path / "manifest.csv").write_text("file,label\n")
        with pytest.raises(ArgumentError, match="has the classes already, so leave out label_patt"):
            read_folder(tmp_path, **pattern)

    def test_rows_of_mat_files(self, tmp_path):
        import scipy.io

        rows = np.stack([impact(3000, 1000 + 100 * i, seed=i) for i in range(3)])
        for name in ("AN", "AD"):
            scipy.io.savemat(tmp_path / f"{name}.mat", {"data": rows})
        read = read_mat(tmp_path, part="onset", samples=600, sample_rate=RATE)
        assert np.argmax(np.abs(read.signals), axis=1).max() < 60
        assert read.part == Part("onset", 600)
        read = read_mat(tmp_path, part="windows", samples=1000, sample_rate=RATE)
        assert read.wholes.tolist() == read.groups.tolist()
        assert read.origins[4] == "AN.mat:1:1"
        assert np.allclose(read.signals[4], rows[1, 1000:2000])
        assert read_mat(tmp_path, part="whole").samples == 3000
        cuts = read_cuts(tmp_path / "AN.mat", sample_rate=RATE, part=Part("windows", 1000))
        assert [cut.signals.shape for cut in cuts] == [(3, 1000)] * 3


# A run on parts of files


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Ten steady sounds of each of two classes, of 2.1 to 4.1 windows of 2000 samples."""
    folder = tmp_path_factory.mktemp("sounds")
    for label, frequency in (("good", 300), ("bad", 900)):
        (folder / label).mkdir()
        for i in range(10):
            number = i + 10 * (label == "good")
            t = np.arange(4200 + 2000 * (number % 3)) / RATE
            x = 0.1 * np.sin(2 * np.pi * (frequency + 9 * i) * t) + noise(len(t), 0.05, number)
            soundfile.write(folder / label / f"{number:02d}.wav", x, RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def hits(tmp_path_factory):
    """Ten impacts of each of two classes, at any time in files of unequal lengths."""
    folder = tmp_path_factory.mktemp("hits")
    for label, frequency in (("good", 500), ("bad", 900)):
        (folder / label).mkdir()
        for i in range(10):
            x = 0.5 * impact(6000 + 300 * i, 3000 + 177 * i, frequency=frequency, seed=i)
            soundfile.write(folder / label / f"{i}.wav", x, RATE, subtype="PCM_16")
    return folder


def hfld(*arguments):
    done = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, tiny_recipe):
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    tiny_recipe.replace(view="spectrum", bins=300).save(path)
    return path


@pytest.fixture(scope="module", params=["windows", "onset"])
def trained(request, tmp_path_factory, recipe_file, sounds, hits):
    """A run by the command line, its kind of part, and the folder."""
    out, folder = tmp_path_factory.mktemp("runs") / "run", sounds
    options = ("--part", "windows", "--samples", 2000)
    if request.param == "onset":
        folder, options = hits, ("--part", "onset", "--samples", 800)
    with pytest.warns(UserWarning, match=request.param):
        hfld(
            *("train", "--data", folder, "--recipe", recipe_file, "--out", out, "--quiet"),
            *(*options, "--normal", "good"),
        )
    return load_run(out), request.param, folder


def device_says(*command):
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, check=True
    )
    return done.stdout


def shown(said):
    """What `hfld predict` said: answer, class and probability by file."""
    rows = re.findall(r"(\S+\.wav)\s+0\s+(\S+)\s+(\S+)\s+([01]\.\d+)", said)
    return {file.rpartition("/")[2]: tuple(rest) for file, *rest in rows}


@pytest.mark.filterwarnings("ignore:.*files.*:UserWarning")
def test_one_row_a_recording_and_the_same_answer_everywhere(trained, tmp_path, monkeypatch):
    run, _, folder = trained
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli.console, "_width", 300)
    recordings = run.recordings()
    test = recordings.select(run.split.test)
    table = pd.read_csv(run.folder / "predictions.csv")
    names = list(dict.fromkeys(origin.rpartition(":")[0] for origin in test.origins))
    assert [name.removesuffix(":0") for name in table["recording"]] == names
    rows = run.detector.predict(test.signals, RATE)
    means, first = average(rows, test.wholes)
    assert len(first) == len(names)
    assert np.allclose(table["student_probability"], means.max(1), atol=1e-5)
    accuracy = (means.argmax(1) == test.labels[first]).mean()
    found = run.detector.evaluate(test)
    assert (found.count, found.accuracy) == (len(names), accuracy)
    assert pd.read_csv(run.folder / "results.csv")["recordings"].eq(len(names)).all()

    trust = run.trust["student"]
    validation = run.split.validation
    assert trust.usual == len(set(recordings.groups[validation]))
    answers = np.array(run.detector.answers)[means.argmax(1)]
    answers = np.where(trust.unsure(means), "unsure", answers)
    files = [folder / name for name in names]
    said = hfld("predict", *files, "--run", run.folder)
    predicted = shown(said)
    for file, answer, mean in zip(files, answers, means, strict=True):
        label = run.detector.class_names[mean.argmax()]
        assert predicted[file.name] == (answer, label, f"{mean.max():.3f}")
    assert NO_ONSET not in said

    written = export_run(run, tmp_path / "device")
    device = device_says(written.program, *files)
    lines = [line for line in device.splitlines() if not line.startswith(" ")]
    assert len(lines) == len(files)
    for line, answer, mean in zip(lines, answers, means, strict=True):
        told = re.search(r": (\w+) \((\w+), ([\d.]+)\)", line).groups()
        assert told[:2] == (answer, run.detector.class_names[mean.argmax()])
        assert float(told[2]) == pytest.approx(mean.max(), abs=1e-3)
    assert device.count("warning") == said.count("warning")

    facts = json.loads((model := onnx.load(written.model)).metadata_props[0].value)
    facts["part"]["pad"] = True
    model.metadata_props[0].value = json.dumps(facts)
    onnx.save(model, written.model)
    x, _ = soundfile.read(files[0])
    soundfile.write(tmp_path / "short.wav", x[3000:3500], RATE)
    padded = replace(run.detector.part, pad=True)
    (cut,) = read_cuts(tmp_path / "short.wav", sample_rate=RATE, part=padded)
    expected = run.detector.predict(cut.signals, RATE).mean(0).max()
    told = device_says(written.program, tmp_path / "short.wav")
    assert float(re.search(r", ([\d.]+)\)", told)[1]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*files.*:UserWarning")
def test_other_recordings_are_cut_alike(trained):
    run, kind, folder = trained
    said = hfld("evaluate", run.folder, "--data", folder, "--role", "student")
    counts = re.findall(r"^(?:good|bad) +(\d+) +(\d+)$", said, re.MULTILINE)
    # Those that the run was trained or chosen on are recognised, so they were cut alike.
    assert sum(int(count) for row in counts for count in row) == 4
    assert "trained or validated on" in " ".join(said.split())
    assert run.read(folder).part == run.detector.part
    other = read_folder(folder, part="loudest", samples=run.detector.samples)
    with pytest.raises(DataError, match=f"loudest .*; read the files with --part {kind} --samples"):
        run.detector.test(other)
    shorter = read_folder(folder, samples=300)
    with pytest.raises(DataError, match=f"300 first|first 300 .*--part {kind}"):
        run.detector.test(shorter)
    with pytest.raises(DataError, match=f"300 samples; .*alike|300 samples; .*--part {kind}"):
        run.detector.test(replace(shorter, part=None))


@pytest.mark.filterwarnings("ignore:.*files.*:UserWarning")
def test_limits_and_eight_bits_are_compared_by_recording(trained):
    run, _, _ = trained
    recordings = run.recordings()
    test = recordings.select(run.split.test)
    small = run.detector.predictor("student")
    found = deploy.before_and_after(small, run.detector, test, "student")
    count = len(set(test.groups))
    assert found["before"].count == found["after"].count == count
    assert found["change"] == (0, 0, 0)
    trust = trust_of(run.detector, recordings, run.split, small)
    assert trust.usual == len(set(recordings.groups[run.split.validation]))
    seen = recordings.select(run.split.validation)
    warned = np.array([bool(texts) for texts in trust.warnings(seen.signals)])
    assert len(set(seen.groups[warned])) <= 1  # one of the few may set the limit
