import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.io
import soundfile
import torch

from hfld_lite import Recipe, preset
from hfld_lite.app import cli, cli_train
from hfld_lite.app.runs import load_run
from hfld_lite.app.unfinished import begin_run
from hfld_lite.errors import ArgumentError, HfldError
from hfld_lite.evaluation.baselines import USUAL
from hfld_lite.networks import count_parameters


def hfld(*arguments, code=0):
    """Run the command as a user does, and give what it printed on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "hfld_lite.app.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def mistake(monkeypatch, capsys):
    """The command in this process: what it says when the user has made a mistake."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2, said
        return said

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_recordings, tiny_recipe):
    """A folder with prepared data, a recipe and a run trained from them by the command."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_recordings.save(folder / "data")
    tiny_recipe.save(folder / "tiny.json")
    said = hfld(
        *("train", "--data", folder / "data", "--recipe", folder / "tiny.json"),
        *("--out", folder / "run"),
    )
    (folder / "said.txt").write_text(said)
    return folder


def test_train_shows_progress_of_each_stage_and_ends_with_the_table(place):
    said = (place / "said.txt").read_text()
    for stage in (
        "teacher ← labels",
        "secondary teacher ← labels and teacher",
        "student ← labels and secondary teacher",
        "student alone ← labels",
    ):
        assert stage in said
    last = re.findall(r"epoch 2/2 \| feature [\d.]+ tckd [\d.]+ nckd [\d.]+ cross_entropy", said)
    assert last, "the bar tells epoch and terms"
    assert re.search(r"validation \d+\.\d%", said)
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", said), "the bar tells the time left"
    for word in ("parameters", "MACs", "size in kB", "test accuracy", "miss rate", "balanced"):
        assert word in said
    assert "latency" not in said, "a busy machine makes it noise; hfld edge measures it"
    assert re.search(r"4 networks, 12 steps each: about \d+ s on this machine\.", said)
    assert "simulated" in said


def test_run_folder_holds_what_was_promised(place):
    run = place / "run"
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "recipe.json",
        "run.json",
        "split.json",
        "history.csv",
        "results.csv",
        "predictions.csv",
        "baselines.csv",
        "report.html",
        "teacher.safetensors",
        "secondary_teacher.safetensors",
        "student.safetensors",
        "student_alone.safetensors",
        "figures/curves.png",
        "figures/confusions.png",
    }
    assert Recipe.load(run / "recipe.json") == Recipe.load(place / "tiny.json")
    assert len(pd.read_csv(run / "history.csv")) == 8
    assert list(pd.read_csv(run / "results.csv")) == [
        *("role", "network", "parameters", "macs", "size_kb", "accuracy", "low", "high"),
        *("miss_rate", "false_alarm_rate", "macro_recall", "recordings"),
    ]
    assert [path.name for path in place.glob(".run*")] == [], "no temporary folder is left"


def test_loaded_networks_give_the_predictions_of_the_training(place, tiny_recordings):
    run = load_run(place / "run")
    rows = pd.read_csv(place / "run" / "predictions.csv")
    test = tiny_recordings.select(run.split.test)
    for role in run.detector.networks:
        found = run.detector.predict(test.signals, 40_000, role)
        assert list(np.array(run.detector.class_names)[found.argmax(1)]) == list(rows[role])
        np.testing.assert_allclose(found.max(1), rows[f"{role}_probability"], rtol=1e-5)


def test_evaluate_repeats_the_results(place):
    said = hfld("evaluate", place / "run", "--role", "student")
    accuracy = pd.read_csv(place / "run" / "results.csv").set_index("role")["accuracy"]["student"]
    assert f"{100 * accuracy:.1f} %" in said
    assert "rows are true classes" in said
    assert "teacher" not in said.replace("secondary teacher", "")


def test_evaluate_on_other_recordings(place, tiny_recordings):
    tiny_recordings.select(np.arange(0, 80, 2)).save(place / "other", overwrite=True)
    assert "student alone" in hfld("evaluate", place / "run", "--data", place / "other")


def test_baselines_stand_beside_the_networks(place):
    said, run = (place / "said.txt").read_text(), place / "run"
    assert re.search(r"baselines: logistic regression, forest, on the same split, [\d.]+ s", said)
    stored = (run / "baselines.csv").read_text().splitlines()
    sentence = stored[0].removeprefix("# ")
    table = pd.read_csv(run / "baselines.csv", comment="#")
    assert len(table) == 4
    words = " ".join(said.split())
    assert sentence in words
    assert "student" in sentence
    assert sentence.split(";")[0] in (run / "report.html").read_text()
    again = " ".join(hfld("evaluate", run).split())
    assert sentence in again, "the test part's own table is stored"
    for accuracy in table["accuracy"]:
        assert f"{100 * accuracy:.1f} %" in again


def test_a_run_of_0_2_0_is_evaluated_without_baselines_and_digests(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    (run / "baselines.csv").unlink()
    facts = json.loads((run / "run.json").read_text())
    for name in ("seen", "labelling", "made", "baselines"):
        del facts[name]
    (run / "recordings.safetensors").unlink()
    for trust in facts["trust"].values():
        del trust["groups"]
    (run / "run.json").write_text(json.dumps(facts))
    said = hfld("evaluate", run, "--role", "student")
    assert "forest" not in said
    said = " ".join(hfld("evaluate", run, "--data", place / "data", "--role", "student").split())
    assert "trained or validated on 64 of 80 recordings (" in said, "its own data tell"
    facts["data"]["folder"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(facts))
    said = " ".join(hfld("evaluate", run, "--data", place / "data", "--role", "student").split())
    assert "Whether the networks were trained on some of these is unknown" in said
    assert "note: The baselines are left out; the networks' figures stand." in said


def test_training_recordings_are_left_out_of_other_data(place, tiny_recordings, mistake):
    split = load_run(place / "run").split
    said = " ".join(hfld("evaluate", place / "run", "--data", place / "data").split())
    assert re.search(r"validated on 64 of 80 recordings \(.*\); these are left out, and 16", said)
    table = pd.read_csv(place / "run" / "results.csv").set_index("role")
    for row in table.itertuples():
        assert f"{100 * row.accuracy:.1f} %" in said, "what is left is the test part"
    stored = (place / "run" / "baselines.csv").read_text().splitlines()[0].removeprefix("# ")
    assert stored in said, "and the baselines, fitted again, say the same"
    tiny_recordings.select(split.test).save(place / "only-test")
    assert "left out" not in hfld("evaluate", place / "run", "--data", place / "only-test")
    rows = np.concatenate([split.train[:40], split.validation])
    tiny_recordings.select(rows).save(place / "only-known")
    said = mistake("evaluate", place / "run", "--data", place / "only-known")
    assert re.search(rf"trained or validated on all {len(rows)} recordings \(.*\); give", said)


def test_no_baselines_if_none_is_asked_for_and_unknown_ones_are_refused(place, mistake):
    options = ("--recipe", place / "tiny.json", "--data", place / "data", "--quiet")
    said = hfld("train", *options, "--out", place / "bare", "--baselines", "none")
    assert "forest" not in said
    assert not (place / "bare" / "baselines.csv").exists()
    assert "nearest name is forest" in mistake(
        "train", *options, "--out", place / "new", "--baselines", "forrest"
    )
    assert not (place / "new").exists()
    assert not (place / "new.unfinished").exists()


def test_baselines_that_fail_lose_no_training_and_resume_knows_their_names(
    place, mistake, monkeypatch, capsys
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli_train, "save_run", full)
    mistake(*started(place, "broken"), "--quiet", "--baselines", "none")
    assert json.loads((place / "broken.unfinished" / "begun.json").read_text())["baselines"] == []
    mistake(*started(place, "broken"), "--quiet", "--fresh")
    monkeypatch.undo()

    def fail(*_, **__):
        raise ValueError("scikit-learn has changed")

    monkeypatch.setattr("sklearn.ensemble.RandomForestClassifier.fit", fail)
    monkeypatch.setattr(
        sys, "argv", ["hfld", "train", "--resume", str(place / "broken"), "--quiet"]
    )
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    err = capsys.readouterr().err
    assert "note: The baselines are left out; the networks' figures stand." in err
    assert "ValueError: scikit-learn has changed" in err
    assert (place / "broken" / "report.html").is_file()
    assert load_run(place / "broken").detector.networks


def test_evaluate_refuses_data_that_changed(place, tiny_recordings):
    run = place / "moved"
    subprocess.run(["cp", "-r", place / "run", run], check=True)
    facts = json.loads((run / "run.json").read_text())
    tiny_recordings.select(np.arange(79)).save(place / "changed", overwrite=True)
    facts["data"]["folder"] = str(place / "changed")
    (run / "run.json").write_text(json.dumps(facts))
    assert "changed since the training" in hfld("evaluate", run, code=2)


def test_predict_wav_and_mat(place, tiny_recordings):
    signal = tiny_recordings.signals[0]
    soundfile.write(place / "one.wav", signal, 40_000, subtype="FLOAT")
    scipy.io.savemat(place / "two.mat", {"data": tiny_recordings.signals[:2]})
    said = hfld("predict", place / "one.wav", place / "two.mat", "--run", place / "run")
    probabilities = load_run(place / "run").detector.predict(signal[None], 40_000)[0]
    assert said.count(f"{probabilities.max():.3f}") >= 2, said  # from the WAV and from row 0
    assert tiny_recordings.class_names[probabilities.argmax()] in said
    assert "ms" in said


def test_info_tells_data_recipe_and_figures(place):
    said = hfld("info", place / "run")
    for word in ("preset tiny", "simulated tiles", "AN, AD, BN, BD", "best epoch", "miss rate"):
        assert word in said
    network = load_run(place / "run").detector.networks["student"]
    assert f"{count_parameters(network):,}" in said
    count = torch.get_num_threads()
    assert f"Trained with {count} thread{'s' * (count > 1)}: OMP_NUM_THREADS; a run keeps" in said


def test_training_on_a_folder_of_wav_files_directly(place, tiny_recordings):
    for row in range(len(tiny_recordings)):
        name = tiny_recordings.class_names[tiny_recordings.labels[row]]
        (place / "wav" / name).mkdir(parents=True, exist_ok=True)
        path = place / "wav" / name / f"{tiny_recordings.groups[row]}_{row}.wav"
        soundfile.write(path, tiny_recordings.signals[row], 40_000)
    said = hfld(
        *("train", "--data", place / "wav", "--recipe", place / "tiny.json", "--quiet"),
        *("--group-pattern", "(.+)_", "--out", place / "from-wav"),
    )
    assert "false-alarm" in said
    assert "%|" not in said, "--quiet shows no bars"
    assert hfld("evaluate", place / "from-wav", "--role", "teacher")


def test_training_on_the_published_mat_layout_directly(place, tiny_recordings):
    (place / "mat").mkdir()
    for label, name in enumerate(tiny_recordings.class_names):
        rows = tiny_recordings.signals[tiny_recordings.labels == label]
        scipy.io.savemat(place / "mat" / f"{name}.mat", {"sounds": rows})
    hfld(
        *("train", "--data", place / "mat", "--variable", "sounds", "--quiet"),
        *("--recipe", place / "tiny.json", "--out", place / "from-mat"),
    )
    assert load_run(place / "from-mat").detector.class_names == ("AN", "AD", "BN", "BD")


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "watch", "info"])
def test_help_has_an_example(command):
    assert f"hfld {command}" in hfld(command, "--help")


def test_a_run_is_not_overwritten_unless_asked(place):
    recipe = ("--recipe", place / "tiny.json", "--data", place / "data", "--quiet")
    before = (place / "run" / "run.json").stat().st_mtime_ns
    said = hfld("train", *recipe, "--out", place / "run", code=2)
    assert "holds a run already" in said
    assert "--fresh" in said
    assert (place / "run" / "run.json").stat().st_mtime_ns == before
    subprocess.run(["cp", "-r", place / "run", place / "again"], check=True)
    hfld("train", *recipe, "--out", place / "again", "--fresh")
    assert (place / "again" / "report.html").is_file()


def test_options_replace_the_attributes_of_the_recipe(place, monkeypatch):
    found = []

    def look(_, recipe, *__, **___):
        found.append(recipe)
        raise HfldError("Enough.")

    monkeypatch.setattr(cli_train, "distill_chain", look)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    usual = ("train", "--data", place / "data", "--quiet", "--fresh", "--out", place / "options")
    for arguments in (
        ("--steps", 70, "--learning-rate", 0.02, "--batch-size", 9, "--seed", 4),
        ("--view", "log-spectrum", "--bins", 300, "--level", "kept", "--method", "kd"),
        ("--epochs", 3, "--recipe", place / "tiny.json"),
        ("--steps", 70, "--recipe", place / "tiny.json"),
    ):
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, (*usual, *arguments))])
        with pytest.raises(SystemExit):
            cli.main()
    first, second, epochs, steps = found
    classroom, tiny = preset("classroom"), Recipe.load(place / "tiny.json")
    assert first == classroom.replace(steps=70, learning_rate=0.02, batch_size=9, seed=4)
    changes = {"view": "log-spectrum", "bins": 300, "level": "kept", "method": "kd"}
    assert second == classroom.replace(**changes)
    for recipe, number in ((epochs, 3), (steps, None)):
        assert {network.epochs for network in recipe.chain.values()} == {number}
    assert epochs.steps == tiny.steps
    assert steps.steps == 70


def test_seeds_give_a_run_each_and_a_table_and_resume_as_a_whole(place):
    out, recipe = place / "seeds", ("--recipe", place / "tiny.json", "--data", place / "data")
    said = hfld("train", *recipe, "--out", out, "--seeds", 2, "--seed", 5, "--quiet")
    assert {path.name for path in out.iterdir()} == {"seed_0", "seed_1", "seeds.csv", "seeds.html"}
    assert [load_run(out / f"seed_{i}").detector.recipe.seed for i in (0, 1)] == [5, 6]
    splits = [load_run(out / f"seed_{i}").split.test.tolist() for i in (0, 1)]
    assert splits[0] != splits[1]
    table = pd.read_csv(out / "seeds.csv").set_index("method")
    each = [pd.read_csv(out / f"seed_{i}" / "results.csv").set_index("role") for i in (0, 1)]
    for role in ("teacher", "student", "student_alone"):
        mine = [one.loc[role, "accuracy"] for one in each]
        assert table.loc[role, "accuracy"] == pytest.approx(np.mean(mine))
        assert table.loc[role, "deviation"] == pytest.approx(np.std(mine, ddof=1))
    assert table.loc["student_alone", ["student_minus", "low", "high"]].notna().all()
    assert "points" in said
    assert "student alone" in said
    baselines = table.drop(index=list(each[0].index))
    assert len(baselines) == 4
    assert (baselines["seeds"] == 2).all()
    assert "seed_1/report.html" in (out / "seeds.html").read_text()
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    table = (out / "seeds.csv").read_text()
    assert "is finished" in hfld("train", "--resume", out, code=2)
    assert "add --fresh" in hfld("train", *recipe, "--out", out, "--seeds", 2, code=2)
    # As if the command had been killed when it had begun the second run.
    shutil.rmtree(out / "seed_1")
    for name in ("seeds.csv", "seeds.html"):
        (out / name).unlink()
    part = out / "seed_1.unfinished"
    part.mkdir()
    origin = {"folder": str(place / "data"), "options": {}}
    second = Recipe.load(place / "tiny.json").replace(seed=6)
    begin_run(part, second, origin, "hfld train", baselines=USUAL)
    hfld("train", "--resume", out, "--quiet")
    assert (out / "seeds.csv").read_text() == table
    assert {path: path.read_bytes() for path in before} == before


def test_a_stopped_series_says_how_to_resume_all_of_it(place, mistake, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(cli_train, "distill_chain", fail)
    said = mistake(*started(place, "stopped-seeds"), "--seeds", 3, "--quiet")
    assert said.endswith(f"Resume with: hfld train --resume {place / 'stopped-seeds'}")
    parts = sorted(path.name for path in (place / "stopped-seeds").glob("seed_?.unfinished"))
    assert parts == [f"seed_{i}.unfinished" for i in range(3)]
    seeds = [Recipe.load(place / "stopped-seeds" / part / "recipe.json").seed for part in parts]
    assert seeds == [0, 1, 2]


def test_auto_chooses_keeps_the_table_and_resumes_with_the_same_choice(place, mistake, monkeypatch):
    # Only a student alone and two rates, so that the test takes seconds.
    monkeypatch.setattr("hfld_lite.evaluation.choice.VIEWS", (("log-spectrum", "kept"),))
    monkeypatch.setattr("hfld_lite.evaluation.choice.RATES", ())
    monkeypatch.setattr("hfld_lite.evaluation.choice.FEW", 0)

    def fail(*_, **__):
        raise MemoryError

    usual = cli_train.distill_chain
    monkeypatch.setattr(cli_train, "distill_chain", fail)
    assert "Resume with" in mistake(*started(place, "auto"), "--auto", "--budget", 9, "--quiet")
    table = pd.read_csv(place / "auto.unfinished" / "auto.csv")
    assert table["chosen"].sum() == 1
    # What the file says is taken: it is not chosen again.
    table["chosen"] = table["view"] == "log-spectrum"
    table.to_csv(place / "auto.unfinished" / "auto.csv", index=False)
    monkeypatch.setattr("hfld_lite.app.chosen.choose_recipe", None)
    monkeypatch.setattr(cli_train, "distill_chain", usual)
    monkeypatch.setattr(sys, "argv", ["hfld", "train", "--resume", str(place / "auto"), "--quiet"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    recipe = load_run(place / "auto").detector.recipe
    assert (recipe.view, recipe.level) == ("log-spectrum", "kept")
    assert (place / "auto" / "auto.csv").is_file()
    page = (place / "auto" / "report.html").read_text()
    assert "What was tried before" in page
    assert "log-spectrum, level kept, rate 0.003" in page


def test_users_mistakes_end_in_one_sentence_and_status_2(place, mistake):
    (place / "file").write_text("x")
    (place / "full").mkdir()
    (place / "full" / "letter.txt").write_text("x")
    new = place / "new"
    for arguments, words in (
        (("train", "--out", new, "--preset", "demoo"), "the nearest name is demo"),
        (("train", "--out", new, "--data", place / "nowhere"), "nowhere"),
        (("train", "--out", new, "--data", place / "full"), "letter.txt"),
        (("train", "--out", place / "file" / "run"), "cannot be written"),
        (("train", "--out", place / "file"), "is a file"),
        (("train", "--out", place / "full"), "holds other files"),
        (("train", "--out", new, "--recipe", place / "no.json"), "no.json"),
        (("train", "--out", new, "--window", "2048"), "--window needs --data"),
        (("train", "--out", new, "--steps", "9", "--epochs", "9"), "--steps and --epochs both say"),
        (("train", "--out", new, "--steps", "0"), "hfld: --steps is 0; expected 1 or more"),
        (("train", "--out", new, "--epochs", "0"), "hfld: --epochs is 0; expected 1 or more"),
        (("train", "--out", new, "--learning-rate", "-1"), "hfld: --learning-rate is -1"),
        (("train", "--out", new, "--batch-size", "1"), "hfld: --batch-size is 1; expected 2"),
        (("train", "--out", new, "--view", "ears"), "hfld: --view is 'ears'; expected 'spectrum'"),
        (("train", "--out", new, "--bins", "9"), "hfld: --bins is 9; expected 257 or more"),
        (("train", "--out", new, "--view", "time", "--level", "kept"), "--level is 'kept', but"),
        (("train", "--out", new, "--seeds", "0"), "--seeds is 0; expected 1 or more"),
        (("train", "--out", place / "run", "--seeds", "2"), "holds other files or a run"),
        (("train", "--out", new, "--budget", "2"), "--budget is that of --auto"),
        (("train", "--out", new, "--auto", "--teacher", place / "run"), "--auto may change what"),
        (("info", place / "full"), "holds no run"),
        (("predict", place / "no.wav", "--run", place / "run"), "no.wav"),
        (("evaluate", place / "run", "--role", "pupil"), "'pupil'"),
    ):
        said = mistake(*arguments)
        assert words in said, said
        assert len(said.splitlines()) == 1, said
        assert not new.exists()
    assert "No such option" in mistake("train", "--nonsense")
    assert "holds no run" in hfld("info", place / "full", code=2)  # and as a program of its own


def test_predict_refuses_what_training_did_not_see(place, tiny_recordings, mistake):
    for name, signal, rate, words in (
        ("rate.wav", tiny_recordings.signals[0], 44_100, "44100 Hz; expected 40000 Hz"),
        ("short.wav", tiny_recordings.signals[0, :500], 40_000, "500 samples"),
        ("silent.wav", np.zeros(7000), 40_000, "constant"),
    ):
        soundfile.write(place / name, signal, rate)
        said = mistake("predict", place / name, "--run", place / "run")
        assert words in said
        assert name in said


def test_info_shows_brackets_in_names_and_names_a_damaged_table(place, mistake, capsys, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    facts = json.loads((run / "run.json").read_text())
    facts["source"] = "folder [/x] [red]loud[/red]"
    (run / "run.json").write_text(json.dumps(facts))
    assert "folder [/x] [red]loud[/red]" in hfld("info", run)
    (run / "results.csv").write_text("a,b\n1,2\n")
    assert "results.csv: the column accuracy is missing" in mistake("info", run)
    shutil.copytree(run, tmp_path / "many" / "seed_0")
    said = mistake("info", tmp_path / "many")
    assert said.endswith(f"give one, such as {tmp_path / 'many' / 'seed_0'}."), "no page is there"
    (tmp_path / "many" / "seeds.html").touch()
    assert "seeds.html for all of them together" in mistake("info", tmp_path / "many")


# Runs that stop


def started(place, name, recipe="tiny.json"):
    return ("train", "--data", place / "data", "--recipe", place / recipe, "--out", place / name)


def test_going_on_takes_no_other_choices(place, mistake):
    for option, value in (
        ("seeds", "2"),
        ("steps", "100"),
        ("epochs", "100"),
        ("learning-rate", "0.1"),
        ("batch-size", "8"),
        ("view", "time"),
        ("bins", "300"),
        ("level", "kept"),
        ("budget", "3"),
        ("data", place),
        ("preset", "demo"),
        ("recipe", place / "tiny.json"),
        ("seed", "0"),
        ("part", "first"),
        ("samples", "100"),
        ("sample-rate", "100"),
        ("variable", "x"),
        ("window", "100"),
        ("group-pattern", "x"),
        ("baselines", "none"),
        ("label-pattern", "x"),
        ("normal", "x"),
    ):
        said = mistake("train", "--resume", place / "run", f"--{option}", value)
        assert said == f"hfld: --resume uses the run's own options; leave --{option} out."
    for flag in ("augment", "auto", "fresh", "resample", "pad"):
        assert f"leave --{flag} out" in mistake("train", "--resume", place / "run", f"--{flag}")
    needed = "needs --out FOLDER for a new run, or --resume FOLDER"
    assert needed in mistake("train")
    assert needed in mistake("train", "--resume", place / "run", "--out", place / "run")
    assert "run is finished" in mistake("train", "--resume", place / "run")
    assert "no unfinished run" in mistake("train", "--resume", place / "nothing")


def test_divergence_is_told_with_what_to_try(place, tiny_recipe, mistake):
    changes = {"optimizer": "sgd", "learning_rate": 1e30, "schedule": "drops", "drops": ()}
    tiny_recipe.replace(**changes).save(place / "absurd.json")
    said = mistake(*started(place, "diverged", "absurd.json"), "--quiet")
    pattern = (
        r"hfld: teacher ← labels: .* is not finite at step 2 of \d+ of epoch 1 \(cross_entropy "
        r"\S+, total \S+; learning rate 1e\+30\)\. .*There is no checkpoint in .* yet\. Try .*"
        r"lower learning_rate.*--detect-anomaly\)\. Resumed, it diverges again: hfld train "
        r"--resume .*diverged --detect-anomaly tells where\."
    )
    assert re.fullmatch(pattern, said), said
    assert not (place / "diverged").exists()
    said = mistake("info", place / "diverged")
    assert f"one is unfinished, resume it with `hfld train --resume {place / 'diverged'}`" in said
    assert "add --fresh" in mistake(*started(place, "diverged"))


def test_anomaly_detection_is_on_if_asked_for(place, mistake, monkeypatch):
    found = []

    def look(*_, **__):
        found.append(torch.is_anomaly_enabled())
        raise HfldError("Enough.")

    monkeypatch.setattr(cli_train, "distill_chain", look)
    mistake(*started(place, "a"), "--detect-anomaly")
    said = mistake("train", "--resume", place / "a.unfinished", "--detect-anomaly")
    assert said.endswith(f"Enough. Resume with: hfld train --resume {place / 'a'}")
    mistake("train", "--resume", place / "a")
    assert found == [True, True, False]
    assert not torch.is_anomaly_enabled()


def test_a_full_disk_after_the_training_costs_nothing(place, mistake, monkeypatch):
    name = "full-disk"

    def save(part, *_, **__):
        (part / "figures").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli_train, "save_run", save)
    found = mistake(*started(place, name), "--quiet")
    assert re.match(r"hfld: The disk or memory failed \(.*No space left on device\)\. R", found)
    assert found.endswith(f"Resume with: hfld train --resume {place / name}")
    assert not (place / name).exists()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["hfld", "train", "--resume", str(place / name), "--quiet"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("hfld_lite.training._Loop.run_epoch", None)  # nothing is trained again
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    kept = {path.name for path in (place / name).iterdir()}
    assert kept == {path.name for path in (place / "run").iterdir()}
    for role in ("teacher", "student"):
        weights = [place / run / f"{role}.safetensors" for run in (name, "run")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    page = (place / name / "report.html").read_text()
    assert f"--out {place / name}" in page, "the page tells the command that began the run"


def test_a_report_that_fails_loses_no_run_and_is_made_again(place, mistake, monkeypatch):
    def fail(*_, **__):
        raise ValueError("'yerr' must not contain negative values")

    name = place / "unreported"
    monkeypatch.setattr("hfld_lite.app.report.size_against_accuracy", fail)
    said = mistake(*started(place, name), "--quiet")
    assert said == (
        f"hfld: {name}: the report failed (ValueError: 'yerr' must not contain negative values); "
        f"the run is finished and safe; make the report again with: hfld report {name}"
    )
    assert not list(place.glob("unreported.*"))
    assert "make its report again with `hfld report" in mistake("train", "--resume", name)
    monkeypatch.undo()
    assert load_run(name).detector.networks
    assert "see" in hfld("report", name)
    kept = {path.name for path in name.iterdir()}
    assert kept == {path.name for path in (place / "run").iterdir()}
    page = (name / "report.html").read_text()
    assert f"--out {name}" in page
    assert page.count("<img") == 4


def test_what_cannot_be_trained_leaves_nothing(place, tiny_recordings, tiny_recipe, mistake):
    """Too few groups, too short inputs, heads that do not fit; for one run and for many."""
    few = tiny_recordings.select(np.flatnonzero(tiny_recordings.labels != 3)[:12])
    few.save(place / "few")
    tiny_recipe.replace(heads=7).save(place / "heads.json")
    tiny_recipe.replace(warmup=999).save(place / "warm.json")
    before = sorted(place.iterdir())
    for options, words in (
        (("--data", place / "few"), "missing from|has . groups? to draw"),
        (("--bins", 5000), "bins is 5000"),
        (("--recipe", place / "heads.json"), "heads is 7"),
        (("--recipe", place / "warm.json"), "warmup is 999 steps"),
        (("--auto", "--budget", "0.001"), "budget of the automatic choice"),
        (("--auto", "--data", place / "few"), "missing from|has . groups? to draw"),
    ):
        for more in ((), ("--seeds", 2)):
            said = mistake(*started(place, place / "new"), "--quiet", *options, *more)
            assert re.search(words, said), said
            assert "resume" not in said.lower()
            assert sorted(place.iterdir()) == before


def test_what_cannot_go_on_is_not_told_to_resume(place, mistake, monkeypatch):
    """A loss that fails with the student, when the teacher is trained already."""

    def fail(*_, **__):
        raise ArgumentError("The loss of mine failed.")

    monkeypatch.setattr("hfld_lite.app.checks.estimate", lambda *_, **__: None)
    monkeypatch.setattr("hfld_lite.hierarchy.Trainer.distil", fail)
    said = mistake(*started(place, place / "hopeless"), "--quiet")
    assert said.startswith("hfld: The loss of mine failed. It would end so again; start ")
    assert "resume" not in said


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt, 130, "Stopped."),
        (MemoryError, 2, "The disk or memory failed (MemoryError)."),
    ],
)
def test_what_happens_before_the_training_is_said_too(
    place, capsys, monkeypatch, error, status, said
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli_train, "read_origin", fail)
    monkeypatch.setattr(sys, "argv", ["hfld", *map(str, started(place, "early"))])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == status
    assert capsys.readouterr().err.strip() == f"hfld: {said} Training had not started."
    assert not list(place.glob("early*"))


def test_recordings_of_another_kind_are_refused(place, tiny_recordings, mistake):
    names = ("AN", "AD", "BN", "CD")
    for name, change, words in (
        ("rate", {"sample_rate": 44_100}, "44100 Hz; expected 40000 Hz, as in training"),
        (
            "classes",
            {"class_names": names, "normal_classes": ("AN", "BN")},
            "the classes are AN, AD, BN, CD; expected AN, AD, BN, BD, as in training",
        ),
        ("short", {"signals": tiny_recordings.signals[:, :5000]}, "5000 samples; expected 7000"),
    ):
        replace(tiny_recordings, **change).save(place / name)
        assert words in mistake("evaluate", place / "run", "--data", place / name)


def test_runs_of_other_versions_are_refused_by_every_command(place, mistake):
    subprocess.run(["cp", "-r", place / "run", place / "older"], check=True)
    facts = json.loads((place / "run" / "run.json").read_text())
    soundfile.write(place / "noise.wav", np.random.default_rng(0).normal(size=7000) / 9, 40_000)
    other = facts["preprocessing"] | {"scaling": "none"}
    for change, words in (
        ({"format": 1}, "the format is 1"),
        ({"preprocessing": other}, "'scaling': 'none'"),
    ):
        (place / "older" / "run.json").write_text(json.dumps(facts | change))
        for command in (
            ("info", place / "older"),
            ("evaluate", place / "older"),
            ("predict", place / "noise.wav", "--run", place / "older"),
        ):
            assert words in mistake(*command)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_output_that_cannot_be_written_is_one_sentence(place):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hfld_lite.app.cli", "info", str(place / "run")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "hfld: the output cannot be written: No space left on device.\n"
