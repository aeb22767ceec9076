"""`hfld predict`, `hfld evaluate --data` and --output: read as in training, also for machines."""

import io
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.io
import soundfile

from hfld_lite import distill_chain
from hfld_lite.app import cli
from hfld_lite.app.files import given_files
from hfld_lite.app.output import Growing, write_output
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.data import readers
from hfld_lite.data.parts import Part
from hfld_lite.data.readers import files_below, read_cuts, read_folder
from hfld_lite.edge.analysis import with_costs
from hfld_lite.errors import DataError, RecipeError
from hfld_lite.storage.locks import lock_beside, unlock_beside

RATE, SAMPLES = 16_000, 1600
NAMES = ("good", "bad")


def tone(i, kind, samples=SAMPLES, rate=RATE):
    """A decaying tone in noise, at a frequency of its class."""
    rng, t = np.random.default_rng(100 * kind + i), np.arange(samples) / rate
    x = np.exp(-30 * t) * np.sin(2 * np.pi * (1200 + 700 * kind) * t)
    return 0.5 * x + 0.02 * rng.standard_normal(samples)


def write(path, signal, rate=RATE, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, rate, subtype=subtype)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_recipe):
    """Write class folders by a function of number and class, and train a run on them."""
    recipe = tiny_recipe.replace(secondary_teachers=(), bins=300)

    def train(signal, count=12, **options):
        folder = tmp_path_factory.mktemp("trained")
        for kind, name in enumerate(NAMES):
            for i in range(count):
                x, rate = signal(i, kind)
                write(folder / "data" / name / f"{i:02}.wav", x, rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recordings = read_folder(folder / "data", **options)
        chain = distill_chain(recordings, recipe, progress=False)
        with new_run(folder / "run") as part:
            origin = {"folder": str(folder / "data"), "options": options}
            result = with_costs(chain.test(recordings), chain.detector, recordings.signals[0])
            save_run(part, chain, result, recordings, origin)
        return folder

    return train


@pytest.fixture(scope="module")
def plain(trained):
    return trained(lambda i, kind: (tone(i, kind), RATE))


@pytest.fixture(scope="module")
def resampling(trained):
    """A run on files of two rates, most of them at 16 kHz."""
    return trained(
        lambda i, kind: (
            (tone(i, kind, 4410, 44_100), 44_100) if i % 4 == 0 else (tone(i, kind), RATE)
        ),
        resample=True,
    )


@pytest.fixture
def hfld(monkeypatch, capsys):
    """The command in this process: standard output, and the error stream."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        warnings.simplefilter("always")  # as in a new process
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said
        return said.out, said.err

    return run


def answers(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- as training read ---------------------------------------------------------------------------
def test_predict_resamples_where_training_did(resampling, hfld, tmp_path):
    run, file = resampling / "run", resampling / "data" / "good" / "04.wav"
    out = tmp_path / "a.jsonl"
    hfld("predict", file, "--run", run, "--output", out)
    recordings = load_run(run).recordings()
    row = list(recordings.origins).index("good/04.wav:0")
    expected = load_run(run).detector.predict(recordings.signals[[row]], RATE)[0]
    (found,) = answers(out)
    assert [found["p_good"], found["p_bad"]] == pytest.approx(expected.tolist(), rel=1e-6)


def test_predict_refuses_another_rate_where_training_did_not_resample(plain, hfld, tmp_path):
    file = write(tmp_path / "x.wav", tone(0, 0, 4410, 44_100), 44_100)
    out, err = hfld("predict", file, "--run", plain / "run", code=2)
    assert out == ""
    assert err == (
        f"hfld: {file}: is at 44100 Hz; expected 16000 Hz; resample it, or train with --resample.\n"
    )


def test_predict_pads_where_training_did(trained, plain, hfld, tmp_path):
    folder = trained(lambda i, kind: (tone(i, kind, 1200 + 40 * i), RATE), pad=True, samples=1600)
    short = write(tmp_path / "short.wav", tone(20, 1, 900))
    out, _ = hfld("predict", short, "--run", folder / "run")
    assert "short.wav" in out
    assert "has 900 samples" in hfld("predict", short, "--run", plain / "run", code=2)[1]


def test_evaluate_resamples_to_the_rate_of_the_training(resampling, tmp_path):
    for kind, name in enumerate(NAMES):
        for i in range(20, 23):
            write(tmp_path / name / f"{i}.wav", tone(i, kind, 4410, 44_100), 44_100)
    read = load_run(resampling / "run").read(tmp_path)
    assert (read.sample_rate, read.samples, len(read)) == (RATE, SAMPLES, 6)


def test_the_variable_is_that_of_the_run(plain, hfld, tmp_path):
    run = shutil.copytree(plain / "run", tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["options"] = {"variable": "sounds"}
    (run / "run.json").write_text(json.dumps(facts))
    scipy.io.savemat(tmp_path / "x.mat", {"sounds": [tone(1, 0)], "other": [tone(1, 1)]})
    assert "x.mat" in hfld("predict", tmp_path / "x.mat", "--run", run)[0]
    given = ("--variable", "nothing")
    assert "'nothing'" in hfld("predict", tmp_path / "x.mat", "--run", run, *given, code=2)[1]


# ---- many files ---------------------------------------------------------------------------------
def test_one_bad_file_of_many_gets_its_line_and_the_others_their_answers(plain, hfld, tmp_path):
    good = [write(tmp_path / f"{i}.wav", tone(30 + i, i % 2)) for i in range(3)]
    bad = write(tmp_path / "bad.wav", tone(0, 0), 22_050)
    files, table = [good[0], bad, tmp_path / "gone.wav", *good[1:]], tmp_path / "a.csv"
    out, err = hfld("predict", *files, "--run", plain / "run", "--output", table, code=2)
    assert [line.split(":")[1].strip() for line in err.splitlines()[:2]] == [
        str(bad),
        str(tmp_path / "gone.wav"),
    ]
    assert f"hfld: 2 of 5 files could not be read ({bad}, {tmp_path / 'gone.wav'})." in err
    lines = out.splitlines()
    assert lines[0].split() == ["file", "row", "answer", "class", "probability", "ms"]
    assert [line.split()[0] for line in lines[1:6]] == list(map(str, files))
    assert lines[2].split(maxsplit=1)[1] == "not read"
    found = pd.read_csv(table)
    assert found["error"].notna().tolist() == [False, True, True, False, False]
    assert "22050 Hz" in found["error"][1]
    assert found["p_good"].notna().tolist() == [True, False, False, True, True]


def test_a_folder_is_all_files_below_it_but_for_those_of_systems(plain, hfld, tmp_path):
    folder = tmp_path / "new"
    names = ["b.wav", "a/deep/x.flac", "a/Y.WAV"]
    for i, name in enumerate(names):
        write(folder / name, tone(i, 0))
    for name in ("._b.wav", "__MACOSX/b.wav", ".hidden/c.wav", "a/@eaDir/d.wav", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "link").symlink_to(folder)
    with pytest.warns(
        UserWarning, match="left out 2 that are links or not .* and 4 that are hidden"
    ):
        assert files_below(folder) == sorted(folder / name for name in names)
    out, err = hfld("predict", folder, "--run", plain / "run")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [
        str(folder / name) for name in sorted(names)
    ]
    assert "left out 2" in err
    (tmp_path / "empty" / "__MACOSX").mkdir(parents=True)
    _, err = hfld("predict", tmp_path / "empty", "--run", plain / "run", code=2)
    assert err.startswith(f"hfld: {tmp_path / 'empty'}: holds no .mat, .wav or")
    out, err = hfld("predict", tmp_path / "empty", folder, "--run", plain / "run", code=2)
    assert "b.wav" in out, "an empty folder does not silence the others"
    name = "n" * 300 + ".wav"
    assert "is not there" in hfld("predict", tmp_path / name, "--run", plain / "run", code=2)[1]


# ---- long files ---------------------------------------------------------------------------------
def test_a_long_file_is_not_answered_from_its_first_part_in_silence(plain, hfld, tmp_path):
    long = write(tmp_path / "long.wav", np.concatenate([tone(1, 0), tone(1, 1), tone(2, 1)]))
    longer = write(tmp_path / "longer.wav", np.tile(tone(1, 0), 20))
    usual = write(tmp_path / "usual.wav", tone(1, 0, 2000))
    out, _ = hfld("predict", long, usual, "--run", plain / "run")
    assert (
        f"warning: 67% of {long} was not looked at: the answer is that of all 1600 samples." in out
        or f"warning: 67% of {long} was not looked at: the answer is that of the first 1600" in out
    )
    assert "--part windows" in out
    table = tmp_path / "a.jsonl"
    out, _ = hfld("predict", long, longer, "--run", plain / "run", "--output", table)
    assert f"warning: up to 95% of 2 files ({long}, {longer}) was not looked at" in out
    assert [row["overlooked"] for row in answers(table)] == pytest.approx([2 / 3, 0.95])
    assert "not looked at" not in hfld("predict", usual, "--run", plain / "run")[0]


def test_a_chosen_part_overlooks_what_is_loud_elsewhere(tmp_path):
    quiet = 0.001 * np.random.default_rng(0).standard_normal(30 * SAMPLES)
    one, two = quiet.copy(), quiet.copy()
    for x, places in ((one, (10,)), (two, (10, 15, 20))):
        for place in places:
            x[place * SAMPLES : (place + 1) * SAMPLES] += tone(0, 0)
    for kind, x, expected in (
        ("onset", one, 0),
        ("loudest", one, 0),
        ("onset", two, 29 / 30),
        ("loudest", two, 29 / 30),
        ("first", one, 29 / 30),
        ("windows", two, 0),
    ):
        file = write(tmp_path / "x.wav", x)
        (cut,) = read_cuts(file, sample_rate=RATE, part=Part(kind, SAMPLES))
        assert cut.overlooked == pytest.approx(expected), kind


# ---- in batches, as they come -------------------------------------------------------------------
@pytest.fixture(scope="module")
def windowed(trained):
    """A run whose recordings are windows, averaged by file."""
    return trained(
        lambda i, k: (np.concatenate([tone(100 * i + j, k) for j in range(2 + i % 3)]), RATE),
        part="windows",
        samples=SAMPLES,
    )


@pytest.mark.parametrize("kind", ["plain", "windowed"])
def test_answers_in_batches_are_those_of_one_file_after_the_other(
    kind, request, hfld, tmp_path, monkeypatch
):
    run = request.getfixturevalue(kind) / "run"
    monkeypatch.setattr("hfld_lite.app.answers.FILES", 4)  # so that a file's windows are divided
    for i in range(10):
        signals = [tone(200 + 10 * i + j, i % 2) for j in range(1 + i % 6)]
        write(tmp_path / f"{i}.wav", np.concatenate(signals))
    write(tmp_path / "3bad.wav", tone(0, 0), 22_050)
    scipy.io.savemat(tmp_path / "7.mat", {"data": [tone(300 + i, i % 2) for i in range(9)]})
    files = files_below(tmp_path)
    hfld("predict", tmp_path, "--run", run, "--output", tmp_path / "all.jsonl", code=2)
    together, alone = answers(tmp_path / "all.jsonl"), []
    for file in files:
        code = 2 * (file.name == "3bad.wav")
        hfld("predict", file, "--run", run, "--output", tmp_path / "one.jsonl", code=code)
        alone += answers(tmp_path / "one.jsonl")
    assert [row["file"] for row in together] == [row["file"] for row in alone]
    assert {row["answer"] for row in together} > {"not read"}
    detector, reading = load_run(run).detector, load_run(run).reading
    for row, one in zip(together, alone, strict=True):
        for name in row.keys() - {"ms"}:
            number = isinstance(row[name], float)
            assert row[name] == (pytest.approx(one[name], rel=1e-5) if number else one[name]), name
        if row["answer"] != "not read":
            cut = read_cuts(row["file"], **reading)[row["row"]]
            expected = detector.predict(cut.signals, RATE).mean(0)
            assert [row["p_good"], row["p_bad"]] == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_recording_that_cannot_be_answered_gets_its_line_alone(
    plain, hfld, tmp_path, monkeypatch
):
    files = [write(tmp_path / f"{i}.wav", tone(60 + i, 0)) for i in range(5)]
    fault, real = load_run(plain / "run").detector.__class__, []
    real.append(fault.predict)
    odd = read_cuts(files[3], **load_run(plain / "run").reading)[0].signals

    def predict(self, signals, *rest):
        if (signals == odd).all(1).any():
            raise DataError("recording 3", "cannot be scaled")
        return real[0](self, signals, *rest)

    monkeypatch.setattr(fault, "predict", predict)
    table = tmp_path / "a.csv"
    hfld("predict", tmp_path, "--run", plain / "run", "--output", table, code=2)
    found = pd.read_csv(table)
    assert found["error"].notna().tolist() == [False, False, False, True, False]


def test_patterns_match_files_and_folders(plain, hfld, tmp_path):
    names = ["a/1.wav", "a/2.flac", "a/deep/3.wav", "b/4.wav", "[x].wav", "a/notes.txt", "c/n.txt"]
    for i, name in enumerate(names[:5]):
        write(tmp_path / name, tone(i, 0))
    for name in names[5:]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def found(*patterns):
        given = list(given_files(tmp_path / pattern for pattern in patterns))
        files = [file.removeprefix(f"{tmp_path}/") for file, error in given if error is None]
        return files, [str(error) for _, error in given if error is not None]

    assert found("a/*.wav", "?/4.wav") == (["a/1.wav", "b/4.wav"], [])
    assert found("**/*.wav") == (["[x].wav", "a/1.wav", "a/deep/3.wav", "b/4.wav"], [])
    with pytest.warns(UserWarning, match=r"left out 1 .*notes.txt"):
        assert found("[ab]") == (["a/1.wav", "a/2.flac", "a/deep/3.wav", "b/4.wav"], [])
    with pytest.warns(UserWarning, match=r"left out 1 .*notes.txt"):
        assert found("a/*") == (["a/1.wav", "a/2.flac", "a/deep/3.wav"], [])
    assert found("[x].wav") == (["[x].wav"], []), "what exists is no pattern"
    files, errors = found("*/no*.wav", "a/1.wav", "a/n*", "?")
    assert files[0] == "a/1.wav"
    assert len(files) == 5
    assert "*/no*.wav: matches no .mat, .wav or .flac file; * is any text" in errors[0]
    assert "matches no .mat, .wav or .flac file: notes.txt" in errors[1]
    assert "c: holds no .mat" in errors[2], "the empty folder does not silence the others"
    out, err = hfld("predict", tmp_path / "*.wav", tmp_path / "no*", "--run", plain / "run", code=2)
    assert "[x].wav" in out
    assert "hfld: 1 of 2 files could not be read" in err


def test_of_many_rows_the_first_are_printed_and_the_others_counted(
    plain, hfld, tmp_path, monkeypatch
):
    monkeypatch.setattr("hfld_lite.app.tally.MOST_ROWS", 3)
    clipped = [np.clip(8 * tone(70 + i, i % 2), -1, 1) for i in range(24)]
    files = [write(tmp_path / f"{i:02}.wav", x) for i, x in enumerate(clipped)]
    table = tmp_path / "a.csv"
    out, err = hfld("predict", *files, "--run", plain / "run", "--output", table)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(map(str, files[:3]))
    assert lines[4] == f"… 21 more rows; all are in {table}."
    counts = pd.read_csv(table)["answer"].value_counts()
    assert sum(counts) == 24
    assert lines[5].startswith("24 files: ")
    for answer, count in counts.items():
        assert f"{answer} {count}" in lines[5]
    named = ", ".join(map(str, files[:3]))
    assert f"warning: 24 recordings ({named}, …): it is clipped" in out
    assert "predicting: 100%" not in err, "no bar in a file"
    out, _ = hfld("predict", *files[:5], "--run", plain / "run")
    assert "… 2 more rows; --output FILE.csv writes all." in out


def test_the_output_grows_under_another_name_until_it_is_whole(plain, hfld, tmp_path, monkeypatch):
    monkeypatch.setattr("hfld_lite.app.answers.FILES", 2)
    folder, table, part = tmp_path / "in", tmp_path / "a.csv", tmp_path / "a.csv.part"
    for i in range(6):
        write(folder / f"{i}.wav", tone(80 + i, 0))
    table.write_text("before")
    real, seen = readers.read_file, []

    def read_file(path, **options):
        if path.name == "4.wav":
            seen.append(len(pd.read_csv(part)))
            raise fault
        return real(path, **options)

    monkeypatch.setattr(readers, "read_file", read_file)
    fault = KeyboardInterrupt()
    arguments = ("predict", folder, "--run", plain / "run", "--output", table)
    _, err = hfld(*arguments, code=130)
    assert f"hfld: stopped after 4 of 6 files; their answers are in {part}." in err
    assert (table.read_text(), len(pd.read_csv(part)), seen) == ("before", 4, [4])
    fault = RecipeError("The disk is full.")
    monkeypatch.setattr("hfld_lite.app.answers.DataError", None)
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "add", lambda self, rows: (_ for _ in ()).throw(fault))
        assert "The disk is full." in hfld(*arguments, code=2)[1]
    assert (table.read_text(), part.exists()) == ("before", False)
    lock = lock_beside(table)
    try:
        assert "another process writes it" in hfld(*arguments, code=2)[1]
    finally:
        unlock_beside(lock, table)
    fault = DataError("4.wav", "is odd")
    hfld(*arguments, code=2)
    assert (len(pd.read_csv(table)), {*tmp_path.iterdir()}) == (6, {folder, table})


def test_a_table_is_written_as_before(tmp_path):
    rows = [
        {"file": 'a "b", c.wav', "n": np.int64(1), "p": np.float32(0.1), "x": None, "b": True},
        {"file": "two\nlines\r.wav", "p": float("nan"), "list": [1, 2.5], "more": "é\udcff"},
    ]
    write_output(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "file,n,p,x,b,list,more\n"
        f'"a ""b"", c.wav",1,{float(np.float32(0.1))!r},,True,,\n'
        '"two\nlines\r.wav",,,,,"[1, 2.5]",é\\udcff\n'
    )
    write_output(tmp_path / "a.jsonl", rows)
    first, second = answers(tmp_path / "a.jsonl")
    assert first == {"file": 'a "b", c.wav', "n": 1, "p": float(np.float32(0.1)), "x": None} | {
        "b": True
    }
    assert second["list"] == [1, 2.5]
    assert second["p"] is None


# ---- long recordings by windows -----------------------------------------------------------------
def long_signal(kinds, rest=0):
    tones = [tone(400 + i, kind) for i, kind in enumerate(kinds)]
    return np.concatenate([*tones, tone(9, 0, rest)])


@pytest.fixture
def by_tone(monkeypatch):
    """Answers by the louder of the two tones, in place of a network of few steps."""

    def predict(_detector, signals, _rate, _role="student"):
        power = np.abs(np.fft.rfft(signals, axis=1)) ** 2
        both = power[:, [120, 190]]  # bins of 10 Hz
        return (both / both.sum(1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr("hfld_lite.evaluation.detector.Detector.predict", predict)


def test_windows_answer_all_of_a_recording_with_times(plain, hfld, by_tone, tmp_path):
    x = long_signal([0, 0, 0, 1, 1, 0, 0], rest=250)
    file, table = write(tmp_path / "x.wav", x, subtype="FLOAT"), tmp_path / "a.jsonl"
    arguments = ("predict", file, "--run", plain / "run", "--windows", "--output", table)
    out, _ = hfld(*arguments)
    whole, *windows = answers(table)
    starts = [*range(0, len(x) - SAMPLES + 1, SAMPLES // 2), len(x) - SAMPLES]
    assert [round(RATE * row["start"]) for row in windows] == starts
    assert [round(RATE * row["end"]) for row in windows] == [s + SAMPLES for s in starts]
    assert [row["window"] for row in windows] == list(range(len(starts)))
    assert (whole["start"], whole["end"], whole["window"]) == (0, len(x) / RATE, None)
    detector = load_run(plain / "run").detector
    pieces = np.stack([x[s : s + SAMPLES] for s in starts]).astype(np.float32)
    expected = detector.predict(pieces, RATE)
    assert [row["p_bad"] for row in windows] == pytest.approx(expected[:, 1].tolist(), rel=1e-4)
    assert whole["p_bad"] == pytest.approx(expected[:, 1].mean(), rel=1e-4)
    assert whole["windows"] == len(starts)
    assert whole["defective"] == sum(row["answer"] == "defective" for row in windows) > 0
    said = f"x.wav, row 0: 4 of {len(starts)} windows are defective: 0.250 to 0.500 s\n"
    assert said in out
    assert "Windows of 0.1 s begin every 0.05 s, and the last ends with its recording" in out
    assert "not looked at" not in out
    table = tmp_path / "a.csv"
    for hop in ("400", "0.025", ".025s"):
        hfld(*arguments[:-1], table, "--hop", hop)
        assert pd.read_csv(table)["start"][1:4].tolist() == [0, 0.025, 0.05], hop
    out, _ = hfld("predict", file, "--run", plain / "run")
    assert "was not looked at" in out
    assert "add --windows" in out


@pytest.mark.parametrize(
    ("hop", "words"),
    {
        "1": "is 1 sample, and a window has 1600; give 25 to 1600 samples, or 0.00156s to 0.1s",
        "1s": "--hop 1s is 16000 samples",
        "0": "--hop 0 is 0 samples",
        "half": "--hop is 'half'; give samples, such as 800, or seconds, such as 0.05s",
    }.items(),
)
def test_a_hop_that_leaves_something_out_or_is_none_is_refused(plain, hfld, tmp_path, hop, words):
    file = write(tmp_path / "x.wav", tone(0, 0))
    arguments = ("predict", file, "--run", plain / "run", "--hop", hop)
    assert words in hfld(*arguments, "--windows", code=2)[1]
    assert "--hop is for --windows" in hfld(*arguments, code=2)[1]


def test_windows_that_are_silent_are_said_and_those_of_short_recordings_refused(
    plain, hfld, tmp_path
):
    x = long_signal([0, 1, 0, 0])
    x[SAMPLES : 2 * SAMPLES] = 0
    part = write(tmp_path / "part.wav", x)
    silent = write(tmp_path / "silent.wav", np.zeros(9000))
    short = write(tmp_path / "short.wav", tone(0, 0, 900))
    exact = write(tmp_path / "exact.wav", tone(1, 1))
    steps = write(tmp_path / "steps.wav", np.repeat([0.1, 0.2], SAMPLES))
    table, run = tmp_path / "a.csv", plain / "run"
    arguments = (part, silent, short, exact, steps, "--run", run, "--output", table)
    out, err = hfld("predict", *arguments, "--windows", "--hop", SAMPLES, code=2)
    assert "short.wav: has 900 samples; expected 1600 or more; record longer ones" in err
    assert "silent.wav, row 0: is constant (silent)" in err
    assert "steps.wav, row 0: holds constant (silent) windows only" in err
    assert "part.wav, row 0: it is silent in part (1 of 4 windows)" in out
    found = pd.read_csv(table)
    assert found["answer"].tolist().count("not answered") == 1
    assert (found["file"] == str(exact)).sum() == 2
    assert found["error"].notna().sum() == 4


@pytest.mark.parametrize("part", ["first", "loudest", "onset", "whole", "windows"])
def test_windows_of_runs_that_were_trained_on_each_part(part, plain, hfld, tmp_path):
    run = shutil.copytree(plain / "run", tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    facts["part"] = {"kind": part, "samples": SAMPLES, "pad": True}
    (run / "run.json").write_text(json.dumps(facts))
    x = long_signal([0, 1, 0], rest=100)
    long, short = write(tmp_path / "x.wav", x), write(tmp_path / "y.wav", tone(1, 0, 900))
    table = tmp_path / "a.csv"
    out, _ = hfld("predict", long, short, "--run", run, "--windows", "--output", table)
    found = pd.read_csv(table)
    assert found["window"].isna().sum() == 2
    assert found["windows"].dropna().tolist() == [6, 1]
    assert found["end"].tolist()[-1] == pytest.approx(900 / RATE), "what is padded is not counted"
    event = part in ("loudest", "onset")
    assert ("windows begin anywhere, and of those without an event" in out) == event


def test_windows_of_long_mat_files(plain, hfld, tmp_path):
    run = shutil.copytree(plain / "run", tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    facts |= {"part": None, "window": [SAMPLES, SAMPLES]}
    (run / "run.json").write_text(json.dumps(facts))
    scipy.io.savemat(tmp_path / "x.mat", {"X1_DE_time": long_signal([0, 1, 0])[:, None]})
    table = tmp_path / "a.csv"
    hfld("predict", tmp_path / "x.mat", "--run", run, "--output", table)
    assert pd.read_csv(table)["row"].tolist() == [0, 1, 2]
    hfld("predict", tmp_path / "x.mat", "--run", run, "--output", table, "--windows")
    found = pd.read_csv(table)
    assert found["row"].tolist() == [0] * 6
    assert found["start"].tolist()[1:] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_of_many_windows_the_recordings_are_printed(plain, hfld, tmp_path, monkeypatch):
    monkeypatch.setattr("hfld_lite.app.tally.MOST_ROWS", 4)
    files = [write(tmp_path / f"{i}.wav", long_signal([i % 2] * 3)) for i in range(3)]
    out, _ = hfld("predict", *files, "--run", plain / "run", "--windows")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(map(str, files))
    assert lines[4] == "… 15 more rows; --output FILE.csv writes all."


# ---- for machines -------------------------------------------------------------------------------
def test_names_are_whole_and_without_boxes_off_a_terminal(plain, hfld, tmp_path):
    names = [f"{'recording_' * 15}{i}.wav" for i in range(2)] + [
        "录音 :smile: [red].wav",
        "a\nb.wav",
    ]
    files = [write(tmp_path / name, tone(50 + i, 0)) for i, name in enumerate(names)]
    out, _ = hfld("predict", *files, "--run", plain / "run")
    lines = out.splitlines()
    for line, file in zip(lines[1:4], files[:3], strict=True):
        assert line.startswith(f"{file}  ")
    assert lines[4].startswith(repr(str(files[3]))), "each stays on its line"
    for arguments in (("predict", *files), ("info",), ("--help",), ("train", "--help")):
        run = [] if "--help" in arguments else [plain / "run"]
        run = ["--run", *run] if arguments[0] == "predict" else run
        out, err = hfld(*arguments, *run)
        assert not set("─│╭╰━\r\x1b") & set(out + err), arguments


def test_what_an_encoding_lacks_is_printed_by_its_code(plain, hfld, tmp_path, monkeypatch):
    file = write(tmp_path / "录音.wav", tone(0, 0))
    for arguments, words in (
        (["--help"], rb"teacher \u2192"),
        (["predict", file, "--run", plain / "run"], rb"\u5f55\u97f3.wav"),
    ):
        with io.TextIOWrapper(io.BytesIO(), "cp1252") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            hfld(*arguments)
            stream.flush()
            assert words in stream.buffer.getvalue()


def test_a_closed_pipe_is_no_traceback(plain):
    command = [sys.executable, "-m", "hfld_lite.app.cli", "info", plain / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as closed:
        closed.stdout.close()
        assert closed.stderr.read() == b""


def test_evaluate_and_edge_write_full_numbers(plain, hfld, tmp_path):
    for ending in ("csv", "jsonl"):
        out = tmp_path / f"e.{ending}"
        hfld("evaluate", plain / "run", "--output", out)
        rows = answers(out) if ending == "jsonl" else pd.read_csv(out).to_dict("records")
        stored = pd.read_csv(plain / "run" / "results.csv")
        assert [row["role"] for row in rows] == stored["role"].tolist()
        assert [row["accuracy"] for row in rows] == stored["accuracy"].tolist()
        assert {row["recordings_are"] for row in rows} == {"test"}
        confusion = rows[0]["confusion"]
        confusion = json.loads(confusion) if ending == "csv" else confusion
        assert np.sum(confusion) == stored["recordings"][0]
    verdict = tmp_path / "v.jsonl"
    hfld("edge", plain / "run", "--device", "STM32F411RE", "--output", verdict)
    (row,) = answers(verdict)
    assert row["fits"] is True
    assert isinstance(row["flash_needed"], int)


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(
    plain, hfld, tmp_path, monkeypatch
):
    monkeypatch.setattr("hfld_lite.app.cli_use.load_run", None)
    (tmp_path / "x.csv").mkdir()
    for path, words in (
        (tmp_path / "a.txt", "give a name that ends in .csv or .jsonl"),
        (tmp_path / "x.csv", "it is a folder"),
        (tmp_path / "none" / "a.csv", f"there is no folder {tmp_path / 'none'}"),
    ):
        for command in (("evaluate", plain / "run"), ("predict", "x.wav"), ("edge", plain / "run")):
            assert words in hfld(*command, "--output", path, code=2)[1]


# ---- what was learned from ----------------------------------------------------------------------
def known_of(folder):
    """The names of the files that a run was trained or validated on, and of the others."""
    run = load_run(folder / "run")
    names = np.array([name.rpartition(":")[0] for name in run.recordings().origins])
    return [*names[run.split.train], *names[run.split.validation]], names[run.split.test]


def other_folder(folder, names, place, ending=".flac"):
    """Copies of files in another format, order and folder, by a manifest."""
    lines = ["file,label"]
    for i, name in enumerate(sorted(names, reverse=True)):
        x, rate = soundfile.read(folder / "data" / name)
        write(place / f"{i:02}{ending}", x, rate)
        lines.append(f"{i:02}{ending},{name.partition('/')[0]}")
    (place / "manifest.csv").write_text("\n".join(lines) + "\n")
    return place


@pytest.mark.parametrize("kind", ["plain", "resampling", "windows"])
def test_training_recordings_are_recognised_in_any_format_and_order(
    kind, trained, request, tmp_path
):
    if kind == "windows":

        def long(i, k):
            return np.concatenate([tone(100 * i + j, k) for j in range(3 + i % 2)]), RATE

        folder = trained(long, part="windows", samples=SAMPLES)
    else:
        folder = request.getfixturevalue(kind)
    known, test = known_of(folder)
    known, test = sorted(set(known)), sorted(set(test))
    run = load_run(folder / "run")
    both = other_folder(folder, known[:4] + test, tmp_path / "both")
    with pytest.warns(
        UserWarning, match=r"trained or validated on \d+ of \d+ recordings \(.*, …\)"
    ):
        left = run.read(both)
    assert len({name.rpartition(":")[0] for name in left.origins}) == len(test)
    only = run.read(both, training=True)
    assert len({name.rpartition(":")[0] for name in only.origins}) == 4
    with pytest.raises(DataError, match=r"on all .* recordings .*--training, training=True"):
        run.read(other_folder(folder, known, tmp_path / "known"))
    with pytest.raises(DataError, match="on none of these"):
        run.read(other_folder(folder, test, tmp_path / "test"), training=True)


def test_a_recording_with_one_known_window_is_left_out(trained, tmp_path):
    folder = trained(
        lambda i, k: (np.concatenate([tone(100 * i + j, k) for j in range(3)]), RATE),
        part="windows",
        samples=SAMPLES,
    )
    known, test = known_of(folder)
    place = other_folder(folder, sorted({*test}), tmp_path, ".wav")
    x, _ = soundfile.read(folder / "data" / known[0])
    write(place / "longer.wav", np.concatenate([x, tone(5000, 0), tone(5001, 0)]))
    with (place / "manifest.csv").open("a") as manifest:
        manifest.write(f"longer.wav,{known[0].partition('/')[0]}\n")
    with pytest.warns(UserWarning, match=r"\(longer.wav\); these are left out"):
        left = load_run(folder / "run").read(place)
    assert not any("longer" in name for name in left.origins)


def test_the_runs_own_folder_with_new_files_tests_only_what_is_new(plain, hfld, tmp_path):
    shutil.copytree(plain / "data", tmp_path / "data")
    for kind, name in enumerate(NAMES):
        for i in range(60, 64):
            write(tmp_path / "data" / name / f"{i}.wav", tone(i, kind))
    known, test = known_of(plain)
    out, _ = hfld("evaluate", plain / "run", "--data", tmp_path / "data", "--role", "student")
    assert f"validated on {len(known)} of {len(known) + len(test) + 8} recordings (" in out
    assert f"{len(test) + 8} are tested" in out
    table = tmp_path / "a.csv"
    options = ("--data", tmp_path / "data", "--training", "--output", table)
    out, _ = hfld("evaluate", plain / "run", *options)
    assert f"Training figures: the run was trained or validated on these {len(known)} " in out
    assert set(pd.read_csv(table)["recordings_are"]) == {"training"}
    assert set(pd.read_csv(table)["recordings"]) == {len(known)}
    assert "--training needs --data" in hfld("evaluate", plain / "run", "--training", code=2)[1]


def test_predict_says_how_many_files_it_was_trained_on(plain, hfld, tmp_path):
    known, test = known_of(plain)
    files = [plain / "data" / name for name in (*known[:4], *test[:2])]
    table = tmp_path / "a.jsonl"
    out, _ = hfld("predict", *files, "--run", plain / "run", "--output", table)
    named = ", ".join(map(str, files[:3]))
    assert f"note: the run was trained or validated on 4 of 6 files ({named}, …)" in out
    assert [row["trained_on"] for row in answers(table)] == [True] * 4 + [False] * 2
    assert "trained or validated" not in hfld("predict", *files[4:], "--run", plain / "run")[0]
