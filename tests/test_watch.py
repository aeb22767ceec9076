"""`hfld watch`: each file of a folder is answered once, also across restarts and kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_predict import NAMES, RATE, hfld, plain, tone, trained, write  # noqa: F401 (fixtures)

from hfld_lite.app import watching
from hfld_lite.app.answers import Answers
from hfld_lite.app.runs import load_run
from hfld_lite.app.watching import Arrivals, Ledger, identity, opened, stop_by_signal, watch_folder
from hfld_lite.errors import RecipeError

# ruff: noqa: F811 (fixtures are imported, and named by arguments)


@pytest.fixture(scope="module")
def asked(plain):
    return Answers(load_run(plain / "run"), "student")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watch(asked, folder, tmp_path):
    """Watch for some looks at the folder, each after an action; what was said is kept."""

    def run(*actions, output=tmp_path / "answers.csv", answers=asked):
        said, errors, stop, turns = [], [], threading.Event(), iter([*actions, None])

        def wait(_seconds):
            action = next(turns)
            stop.set() if action is None else action()

        stop.wait = wait
        with opened(output, answers) as ledger:
            tally = watch_folder(answers, folder, ledger, 1.0, stop, said.append, errors.append)
        return said, errors, tally

    return run


def nothing():
    pass


def records(path):
    """The output as a table."""
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)


# ---- what has arrived ---------------------------------------------------------------------------
def test_a_file_is_taken_when_it_is_whole(folder):
    done = {}
    arrivals = Arrivals(folder, done)

    def settled():
        found = arrivals.poll()
        done.update(found)
        return [os.path.relpath(file, folder) for file in found]

    file = folder / "a" / "x.wav"
    file.parent.mkdir()
    file.write_bytes(b"1")
    assert settled() == []
    file.write_bytes(b"12")
    assert settled() == [], "it grew"
    os.utime(file, ns=(5, 5))
    assert settled() == [], "it was written again"
    assert settled() == ["a/x.wav"]
    assert settled() == [], "it is answered"
    hidden = [folder / name for name in (".x.wav", "x.wav.part", "y.tmp", "Z.WAV.TMP", "n.txt")]
    for path in hidden:
        path.write_bytes(b"1")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "x.wav").write_bytes(b"1")
    assert [settled(), settled()] == [[], []]
    assert [Path(name).name for name in arrivals.others] == ["n.txt"]
    hidden[1].rename(folder / "x.wav")
    assert [settled(), settled()] == [[], ["x.wav"]]
    file.write_bytes(b"123")
    assert [settled(), settled(), settled()] == [[], ["a/x.wav"], []], "another file of that name"
    (folder / "circle").symlink_to(folder)
    (folder / "late.flac").write_bytes(b"1")
    os.utime(folder / "late.flac", ns=(2, 2))
    (folder / "later.flac").write_bytes(b"1")
    settled()
    assert settled() == ["late.flac", "later.flac"], "in the order of their times"


# ---- the output ---------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_each_file_gets_one_record_across_restarts(ending, watch, folder, tmp_path, asked):
    output = tmp_path / f"answers.{ending}"
    write(folder / "a.wav", tone(500, 0))
    write(folder / 'b "2",\n.wav', tone(501, 1))
    (folder / "bad.wav").write_bytes(b"RIFF")
    (folder / os.fsdecode(b"\xff.flac")).write_bytes(b"")
    watch(nothing, nothing, output=output)
    found, stamps = records(output), ("size", "modified_ns", "answered", "records", "role", "run")
    assert found["answer"].tolist().count("not read") == 2
    assert found["error"].notna().sum() == 2
    assert [*found] == [*asked.columns, *stamps]
    whole = output.read_bytes()
    said, errors, tally = watch(nothing, nothing, nothing, output=output)
    assert (said, errors, tally.files, output.read_bytes()) == ([], [], 0, whole)
    stamp = (folder / "a.wav").stat()
    row = found[found["file"] == str(folder / "a.wav")].iloc[0]
    assert (row["size"], row["modified_ns"]) == (stamp.st_size, stamp.st_mtime_ns)
    expected = asked.run.detector.predict(
        next(r.stretches for r in asked._read(folder / "a.wav")), RATE
    )
    assert row[[f"p_{name}" for name in NAMES]].tolist() == pytest.approx(expected[0].tolist())

    for cut in range(1, 400, 7):  # killed in the middle of a write
        if cut >= len(whole):
            break
        output.write_bytes(whole[:-cut])
        with opened(output, asked) as ledger:
            assert (ledger.cut > 0) == (output.stat().st_size < len(whole) - cut)
            known = len(ledger.done)
        assert len(records(output)) == known < 4
    output.write_bytes(whole[:-5])
    watch(nothing, nothing, output=output)
    again = records(output)
    assert len(again) == again["file"].nunique() == 4


def test_an_output_that_is_removed_or_replaced_ends_the_watch(watch, folder, tmp_path, asked):
    output, new = tmp_path / "answers.csv", tmp_path / "new.csv"
    write(folder / "a.wav", tone(500, 0))
    watch(nothing, nothing, output=output)
    write(folder / "b.wav", tone(501, 1))
    with opened(output, asked) as ledger:
        known = dict(ledger.done)
        for change in (output.unlink, lambda: (new.touch(), new.rename(output))):
            change()
            with pytest.raises(RecipeError, match="removed or replaced during the watch"):
                ledger.add([], asked)
        assert ledger.done == known
    assert output.read_bytes() == b""


def test_records_of_one_file_are_all_there_or_none(plain, watch, folder, tmp_path):
    answers = Answers(load_run(plain / "run"), "student", step=800)
    write(folder / "long.wav", np.concatenate([tone(510 + i, 0) for i in range(4)]))
    write(folder / "one.wav", tone(520, 0))
    os.utime(folder / "long.wav", (1, 1))
    output = tmp_path / "answers.csv"
    watch(nothing, nothing, answers=answers)
    found = records(output)
    assert found["records"].tolist() == [8] * 8 + [2] * 2
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:5]))
    _, _, tally = watch(nothing, nothing, answers=answers)
    assert tally.files == 2
    assert len(records(output)) == 10


def test_an_output_of_something_else_is_refused_and_left(plain, asked, watch, folder, tmp_path):
    write(folder / "a.wav", tone(530, 0))
    output, lines = tmp_path / "answers.csv", tmp_path / "answers.jsonl"
    watch(nothing, nothing)
    watch(nothing, nothing, output=lines)
    good, good_lines = output.read_bytes(), lines.read_bytes()
    other = shutil.copytree(plain / "run", tmp_path / "other")
    (other / "run.json").write_text((other / "run.json").read_text() + "\n")
    mine, theirs = (identity(one)["run"] for one in (asked, Answers(load_run(other), "student")))
    assert mine != theirs
    cases = [
        (output, b"mine", "it holds something else"),
        (output, b"name,answer\nx,1\n", "it has other columns"),
        (output, good + b"a,b\n", "record 3 is damaged"),
        (output, good.replace(mine.encode(), theirs.encode()), f"of run {theirs}, not {mine}"),
        (output, good.replace(b",student", b",teacher"), "of role teacher, not student"),
        (lines, b'{"other": 1', "it holds something else"),
        (lines, b'{"other": 1}\n', "it has other columns"),
        (lines, good_lines + b"[1]\n", "record 2 is damaged"),
        (lines, good_lines + b"\xff\n", "record 2 is damaged"),
    ]
    for path, content, words in cases:
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"is not the output of such a watch") as refused:
            watch(nothing, output=path)
        assert words in str(refused.value)
        assert path.read_bytes() == content
    output.write_bytes(good)
    with opened(output, asked), pytest.raises(RecipeError, match="another process writes it"):
        watch(nothing)
    for part in (b"", b"file,r", b"file"):  # killed while it was made
        output.write_bytes(part)
        watch(nothing, nothing)
        assert len(records(output)) == 1


def test_a_full_disk_leaves_no_half_record(watch, folder, tmp_path, monkeypatch):
    write(folder / "a.wav", tone(540, 0))
    watch(nothing, nothing)
    before = (tmp_path / "answers.csv").read_bytes()
    write(folder / "b.wav", tone(541, 0))
    real = Ledger._append

    def append(ledger, data):
        class Full:
            fileno, truncate = ledger._file.fileno, ledger._file.truncate

            def write(self, view):
                if len(view) < len(data):
                    raise OSError(28, "No space left on device")
                return os.write(self.fileno(), view[:10])

        file, ledger._file = ledger._file, Full()
        try:
            real(ledger, data)
        finally:
            ledger._file = file

    monkeypatch.setattr(Ledger, "_append", append)
    with pytest.raises(RecipeError, match=r"cannot be written \(No space left on device\)"):
        watch(nothing, nothing)
    assert (tmp_path / "answers.csv").read_bytes() == before


# ---- a line that runs ---------------------------------------------------------------------------
def test_what_changes_while_it_is_read_waits_and_what_is_gone_is_said(
    watch, folder, tmp_path, monkeypatch
):
    names = ["gone.wav", "grows.wav", "moved.wav", "x.wav"]
    for i, name in enumerate(names):
        write(folder / name, tone(550 + i, 0))
    real = watching.Answers.each

    def each(self, files):
        for file, _ in files:
            if file.endswith("gone.wav"):
                os.unlink(file)
            (batch,) = real(self, [(file, None)])
            if file.endswith("grows.wav"):
                os.truncate(file, 600)
            if file.endswith("moved.wav"):
                os.unlink(file)
            yield batch

    monkeypatch.setattr(watching.Answers, "each", each)
    said, errors, tally = watch(nothing, nothing, nothing)
    found = records(tmp_path / "answers.csv")
    assert [Path(name).name for name in found["file"]] == ["moved.wav", "x.wav"]
    assert errors == [f"removed before they were answered: 1 ({folder / 'gone.wav'})."]
    assert tally.files == len(said) == 2


def test_a_folder_that_vanishes_is_waited_for(watch, folder, tmp_path):
    away = tmp_path / "away"
    (folder / "notes.txt").write_text("x")
    (folder / "deep").mkdir()

    def arrive():
        away.rename(folder)
        write(folder / "deep" / "x.wav", tone(560, 0))

    said, errors, _ = watch(nothing, lambda: folder.rename(away), nothing, arrive, nothing, nothing)
    assert [line.partition(":")[0] for line in said] == [str(folder / "deep" / "x.wav")]
    assert errors == [
        f"left out, as they are links or not .mat, .wav or .flac: 1 ({folder / 'notes.txt'}).",
        f"{folder} is not there any more; waiting for it.",
        f"{folder} is back.",
    ]


def test_what_is_said_of_answers(plain, watch, folder, tmp_path, monkeypatch):
    for i in range(3):
        write(folder / f"{i}.wav", tone(570 + i, 0))
    write(folder / "long.wav", np.tile(tone(1, 0), 4))
    (folder / "bad.wav").write_bytes(b"text")
    said, errors, tally = watch(nothing, nothing)
    assert len(said) == 4
    (long,) = [line for line in said if "long" in line]
    assert "75% of it was not looked at (see --windows)" in long
    assert len(errors) == 1
    assert "bad.wav: is a text" in errors[0]
    assert tally.answers["not read"] == 1
    monkeypatch.setattr(watching, "EACH", 2)
    said, errors, _ = watch(nothing, nothing, output=folder / "b.csv")
    assert len(said) == len(errors) == 1, "its own files are not left out"
    assert said[0].startswith("5 files: ")


def test_the_command_ends_by_ctrl_c_with_a_summary(plain, hfld, folder, tmp_path, monkeypatch):
    write(folder / "a.wav", tone(580, 0))
    (folder / "bad.wav").write_bytes(b"")
    output, real = tmp_path / "answers.csv", watching.Ledger.add

    def add(*arguments):
        real(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(watching.Ledger, "add", add)
    before = signal.getsignal(signal.SIGINT)
    arguments = ("watch", folder, "--run", plain / "run", "--output", output, "--poll", "0.02")
    out, err = hfld(*arguments)
    assert signal.getsignal(signal.SIGINT) is before
    lines = out.splitlines()
    assert lines[0].startswith(f"Watching {folder} every 0.02 s; the student's answers go to")
    assert lines[-1].startswith("2 files in ")
    assert "not read 1" in lines[-1]
    assert lines[-1].endswith(f"{output} holds 2 files.")
    assert "bad.wav: is empty" in err
    found = records(output)
    assert {*found["role"]} == {"student"}
    output.write_bytes(output.read_bytes()[:-3])
    out, err = hfld(*arguments)
    assert f"note: {output} ended in half a record, which is answered again." in err
    assert "which holds 1 file. Ctrl-C ends." in out
    assert records(output)["file"].nunique() == len(records(output)) == 2


def test_the_command_refuses_what_cannot_be_watched(plain, hfld, folder, tmp_path):
    run = ("--run", plain / "run")
    output = ("--output", tmp_path / "a.csv")
    for arguments, words in (
        ((tmp_path / "no", *run, *output), "no: is not there; expected the folder that files"),
        ((plain / "run" / "run.json", *run, *output), "run.json: is a file; expected the folder"),
        ((folder, *run, "--output", tmp_path / "a.txt"), "give a name that ends in .csv or .jsonl"),
        ((folder, *run, *output, "--role", "nobody"), "There is no 'nobody' here"),
        ((folder, *run, *output, "--hop", "8"), "--hop is for --windows"),
        ((folder, *run, *output, "--poll", "0"), "--poll"),
        ((folder, *run), "--output"),
    ):
        assert words in hfld("watch", *arguments, code=2)[1]
    assert not (tmp_path / "a.csv").exists()


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which a shell switches off for what it starts behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_interrupts():
    with stop_by_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_burst_with_kills_gives_each_file_one_answer_or_one_reason():
    program = Path(__file__).parent / "soak.py"
    done = subprocess.run(
        [sys.executable, program, "--burst", "300", "--kills", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "294 answers, 6 reasons, 0 twice, 0 lost, 0 of 50 unlike a single answer" in done.stdout
    assert "the last half" in done.stdout, "killed in the middle of a record"


def test_json_lines_are_whole_objects(watch, folder, tmp_path):
    write(folder / "a.wav", tone(590, 0))
    watch(nothing, nothing, output=tmp_path / "a.jsonl")
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert row["error"] is None
    assert isinstance(row["probability"], float)
    assert row["records"] == 1
