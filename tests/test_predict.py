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
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.data.parts import Part
from hfld_lite.data.readers import files_below, read_cuts, read_folder
from hfld_lite.edge.analysis import with_costs
from hfld_lite.errors import DataError

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
