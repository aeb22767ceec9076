"""Recordings of an unknown class: how users say it, and what becomes of them."""

import re
import sys
import warnings

import numpy as np
import pytest
import scipy.io
import soundfile
import torch

from hfld_lite import Recordings, distill_chain, read_folder, split
from hfld_lite.app import cli
from hfld_lite.app.checks import said_of_unlabelled
from hfld_lite.app.runs import load_run
from hfld_lite.course.widgets import explore_guess
from hfld_lite.course.workshop import check_folder, write_wav_folder
from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import UNLABELLED, labelled
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.evaluation.baselines import fit_baselines
from hfld_lite.evaluation.choice import check_choice
from hfld_lite.evaluation.detector import trust_of

CLASSES = ("good", "bad")


def put(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 60), 8000)


def make(labels, **fields) -> Recordings:
    signals = np.random.default_rng(0).standard_normal((len(labels), 300)).astype(np.float32)
    groups = [f"tile{i // 2}" for i in range(len(labels))]
    given = {"signals": signals, "labels": np.array(labels), "groups": groups}
    return Recordings(**given | {"sample_rate": 8000, "class_names": CLASSES} | fields)


@pytest.fixture(scope="module")
def mixed(tiny_recordings):
    """Tiles of two drops: some have labels, some do not, and of some one drop has."""
    labels = tiny_recordings.labels.copy()
    labels[np.arange(len(labels)) % 20 >= 10] = UNLABELLED
    labels[1::20] = UNLABELLED
    names = ("signals", "groups", "sample_rate", "class_names", "normal_classes", "origins")
    return Recordings(labels=labels, **{name: getattr(tiny_recordings, name) for name in names})


class TestSaid:
    @pytest.mark.parametrize("empty", ["", " ", "-1", "-1.0", "unlabelled"])
    def test_in_a_manifest(self, tmp_path, empty):
        for i in range(4):
            put(tmp_path / f"{i}.wav", i)
        rows = f"file,label\n0.wav,good\n1.wav,bad\n2.wav,{empty}\n3.wav,good\n"
        (tmp_path / "manifest.csv").write_text(rows)
        read = read_folder(tmp_path)
        assert (read.class_names, read.labels.tolist()) == (CLASSES, [0, 1, -1, 0])
        assert "classes: good 2 (normal), bad 1, unlabelled 1" in read.summary()

    @pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
    def test_by_a_folder_beside_the_classes(self, tmp_path, name):
        for i, folder in enumerate(("good", "bad", name, name)):
            put(tmp_path / folder / f"{i}.wav", i)
        read = read_folder(tmp_path, part="first", samples=50)
        assert (read.class_names, sorted(read.labels)) == (CLASSES, [-1, -1, 0, 1])
        assert set(read.groups[read.labels == UNLABELLED]) == {f"{name}/2.wav", f"{name}/3.wav"}

    @pytest.mark.parametrize(
        ("names", "part"), [(("AN", "AD"), "first"), (("AN", "AD"), "windows")]
    )
    def test_by_the_name_of_a_mat_file(self, tmp_path, names, part):
        for i, name in enumerate((*names, "unlabelled")):
            rows = np.random.default_rng(i).standard_normal((2, 60))
            scipy.io.savemat(tmp_path / f"{name}.mat", {"data": rows})
        read = read_folder(tmp_path, samples=20, part=part)
        assert (read.class_names, read.normal_classes) == (names, ("AN",))
        assert read.counts.tolist() == [len(read) // 3] * 2

    def test_by_the_class_of_a_long_mat_file(self, tmp_path):
        for i, name in enumerate(("IR", "OR", "unlabelled")):
            x = np.random.default_rng(i).standard_normal((400, 1))
            scipy.io.savemat(tmp_path / f"{name}_load0.mat", {"X_DE_time": x})
        read = read_folder(tmp_path, window=20, blocks=4)
        assert (read.class_names, read.counts.tolist()) == (("IR", "OR"), [20, 20])
        assert (read.labels == UNLABELLED).sum() == 20

    def test_a_prepared_folder_keeps_it(self, tmp_path, mixed):
        loaded = Recordings.load(mixed.save(tmp_path / "data"))
        assert loaded.labels.tolist() == mixed.labels.tolist()
        assert loaded.fingerprint() == mixed.fingerprint()

    def test_wav_folders_of_the_course_keep_it(self, tmp_path, mixed):
        read = read_folder(write_wav_folder(mixed, tmp_path / "wav"), part="whole")
        assert read.counts.tolist() == mixed.counts.tolist()
        assert len(list((tmp_path / "wav" / "unlabelled").iterdir())) == len(read) - 36

    def test_in_a_dataset(self, tiny_recipe):
        x = torch.randn(8, 300)
        y = torch.tensor([0, 1, -1, -1, 0, 1, -1, -1])
        examples = Examples.of(torch.utils.data.TensorDataset(x, y), tiny_recipe)
        assert (examples.class_names, examples.labels.tolist()) == (("0", "1"), y.tolist())


class TestRefused:
    def data(self, y):
        return torch.utils.data.TensorDataset(torch.randn(len(y), 300), torch.tensor(y))

    @pytest.mark.parametrize(
        ("y", "words"),
        [
            ([0, 1, -2], r"\[2\]: y is -2; .* or -1 where the class is not known"),
            ([-1, -1], r"all 2 items are unlabelled \(y is -1\)"),
            ([0, 2, 0, -1], "no item has the label 1"),
            ([0, 3, -1, -1], "labels run to 3"),
        ],
    )
    def test_datasets(self, tiny_recipe, y, words):
        with pytest.raises(DataError, match=words):
            Examples.of(self.data(y), tiny_recipe)

    def test_recordings(self):
        with pytest.raises(DataError, match=r"label is -2; .* or -1 where the class is not known"):
            make([0, 1, -2])
        with pytest.raises(DataError, match="none of the 4 has a label"):
            make([-1] * 4)
        with pytest.raises(DataError, match="the class 'bad' has no labelled recording"):
            split(make([0] * 20 + [-1] * 20))
        with pytest.raises(DataError, match="'bad' has 1 labelled group to draw"):
            split(make([0] * 20 + [-1] * 20 + [1, 1]))

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (["", "-1", "unlabelled"], "only unlabelled recordings, and no class"),
            (["good", "", ""], "only the class 'good' beside unlabelled recordings"),
            (["-1", "-2", "0"], "labels -1 and -2; expected -1 as the only negative label"),
        ],
    )
    def test_manifests(self, tmp_path, labels, words):
        for i in range(3):
            put(tmp_path / f"{i}.wav", i)
        rows = [f"{i}.wav,{label}" for i, label in enumerate(labels)]
        (tmp_path / "manifest.csv").write_text("\n".join(["file,label", *rows]))
        with pytest.raises(DataError, match=words):
            read_folder(tmp_path)

    def test_a_negative_number_alone_is_a_name(self, tmp_path):
        for i, folder in enumerate(("-10", "10")):
            put(tmp_path / folder / f"{i}.wav", i)
        assert read_folder(tmp_path, samples=50).class_names == ("-10", "10")


def test_the_summary_counts_groups_by_their_known_classes():
    said = make([0, -1, 1, 0, 1, 1, -1, -1]).summary()
    assert "groups: 4, 1 of them in more than one class" in said
    assert "unlabelled 4" in make([0, 1, 0, 1, -1, -1, -1, -1]).select(np.arange(4, 8)).summary()


def test_a_split_leaves_out_unlabelled_members_of_a_validation_or_test_group(mixed):
    parts = split(mixed, seed=1)
    apart = set(mixed.groups[np.concatenate([parts.validation, parts.test])])
    lost = {*range(len(mixed))} - {*np.concatenate([*parts.parts().values()]).tolist()}
    assert lost == {
        i for i in range(len(mixed)) if mixed.labels[i] == -1 and mixed.groups[i] in apart
    }
    assert lost, "the test needs a group of both kinds in validation or test"
    assert (mixed.labels[parts.train] == UNLABELLED).any()


def test_what_measures_reads_labelled_recordings_only(mixed, tiny_recipe):
    parts = split(mixed, validation=0.4)
    recipe = tiny_recipe.replace(secondary_teachers=())
    chain = distill_chain(mixed, recipe, parts, controls=(), progress=False)
    known = mixed.select(labelled(mixed))
    with pytest.warns(UserWarning, match="44 of 80 recordings are unlabelled; .* 36 are measured"):
        found = chain.detector.test(mixed)
    assert found.predictions.equals(chain.detector.test(known).predictions)
    with pytest.raises(DataError, match="all 44 recordings are unlabelled"):
        chain.detector.evaluate(mixed.select(mixed.labels == UNLABELLED))
    predict = chain.detector.predictor("student")
    trust = trust_of(chain.detector, mixed, parts, predict)
    assert len(trust.means) == len(mixed.class_names), "the unlabelled ones are no class"
    baselines = fit_baselines(mixed, parts, recipe, ["logistic regression"])
    assert all(UNLABELLED not in one.classifier.classes_ for one in baselines.fitted)
    with pytest.warns(UserWarning, match="44 of 80"):
        assert len(baselines.test(mixed).predictions) == 36
    check_choice(mixed, recipe, parts, budget=100)
    with pytest.raises(ArgumentError, match="unlabelled"):
        explore_guess(mixed, [0, 1], {})


def test_words_about_a_training(mixed, tiny_recordings, tiny_recipe, tmp_path):
    assert said_of_unlabelled(tiny_recordings, tiny_recipe) == []
    assert (
        "no effect" in said_of_unlabelled(tiny_recordings, tiny_recipe.replace(unlabelled=0.3))[0]
    )
    (training, left_out) = said_of_unlabelled(mixed, tiny_recipe)
    assert re.match(r"Training part: (\d+) recordings, \d+ labelled, \d+ unlabelled: ", training)
    assert "4 of the 8 in a batch are unlabelled" in training
    assert re.match(r"\d+ unlabelled recordings are left out, since their group", left_out)
    alone = said_of_unlabelled(mixed, tiny_recipe.replace(unlabelled=0))[0]
    assert "learn from the labelled ones only" in alone
    meta = said_of_unlabelled(mixed, tiny_recipe.replace(meta_share=0.33))
    assert "in the meta, validation or test part" in meta[1]
    folder = write_wav_folder(mixed, tmp_path / "wav")
    assert training in check_folder(folder, tiny_recipe, part="whole").notes


@pytest.fixture
def hfld(monkeypatch, capsys):
    """The command in this process: what it printed."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said
        return " ".join((said.out + said.err).split())

    return run


def test_the_commands_from_a_folder_to_the_report(tmp_path, mixed, tiny_recipe, hfld):
    data, run = tmp_path / "wav", tmp_path / "run"
    for row, (signal, group) in enumerate(zip(mixed.signals, mixed.groups, strict=True)):
        name = (*mixed.class_names, "unlabelled")[mixed.labels[row]]  # -1 is the last one
        (data / name).mkdir(parents=True, exist_ok=True)
        soundfile.write(data / name / f"{group}_{row}.wav", signal, mixed.sample_rate, "FLOAT")
    tiny_recipe.replace(secondary_teachers=()).save(tmp_path / "tiny.json")
    said = hfld(
        *("train", "--data", data, "--recipe", tmp_path / "tiny.json", "--quiet"),
        *("--group-pattern", "(.+)_", "--part", "whole", "--baselines", "none"),
        *("--unlabelled", 0.25, "--out", run),
    )
    loaded = load_run(run)
    facts, train = loaded.facts, len(loaded.split.train)
    counts = (train, train - facts["unlabelled"], facts["unlabelled"])
    assert "Training part: {} recordings, {} labelled, {} unlabelled: ".format(*counts) in said
    assert "2 of the 8 in a batch are unlabelled" in said
    assert f"{facts['unlabelled_left_out']} unlabelled recordings are left out" in said
    assert loaded.detector.class_names == mixed.class_names
    assert loaded.detector.recipe.unlabelled == 0.25
    both = "train {} ({} labelled, {} unlabelled)".format(*counts)
    left_out = f"{facts['unlabelled_left_out']} unlabelled left out"
    for page in (hfld("info", run), " ".join((run / "report.html").read_text().split())):
        assert both in page
        assert left_out in page

    said = hfld("evaluate", run, "--data", data, "--training")
    assert "44 of 80 recordings are unlabelled; these are left out" in said
    folder = data / "unlabelled"
    assert hfld("predict", folder, "--run", run).count("_") >= 44, "every file is answered"


def test_too_few_labelled_groups_for_meta_batches_name_the_share(mixed, tiny_recipe):
    recipe = tiny_recipe.replace(meta_share=0.05)
    with pytest.raises(
        DataError, match=r"meta batches: in the training part the class .* raise `me"
    ):
        distill_chain(mixed, recipe, progress=False)
