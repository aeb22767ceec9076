"""Baselines: the mel bands against known tones, the choice by validation, sentences, failures."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from hfld_lite.app.compared import Comparison, compared, compared_on, wanted_baselines
from hfld_lite.app.runs import load_run
from hfld_lite.data.examples import Examples
from hfld_lite.data.parts import Part
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, split
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.evaluation import baselines as module
from hfld_lite.evaluation.baselines import (
    BANDS,
    BASELINES,
    MEL,
    NETWORKS_VIEW,
    compare,
    fit_baselines,
    log_mel_bands,
)
from hfld_lite.recipes import Recipe


def centre(band, rate):
    """The frequency of a band's peak, by the mel scale's definition."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    return 700 * (10 ** ((band + 1) * top / (BANDS + 1) / 2595) - 1)


@pytest.mark.parametrize(
    ("rate", "samples"), [(8000, 800), (44_100, 44_100), (64, 64), (12_000, 2048), (192_000, 9600)]
)
def test_a_tone_is_strongest_in_its_band_at_any_rate_and_length(rate, samples):
    bands = [20, 40, 60]
    t = np.arange(samples) / rate
    tones = np.array([np.sin(2 * np.pi * centre(band, rate) * t) for band in bands], np.float32)
    levels = log_mel_bands(tones, rate)
    assert levels.shape == (3, BANDS)
    assert levels.dtype == np.float32
    assert np.abs(levels.argmax(1) - bands).max() <= (1 if samples > 64 else 2)
    assert (levels.max(1) - levels.min(1)).max() <= 80.01


def test_levels_are_kept_and_white_noise_is_flat_at_its_density():
    rng, rate = np.random.default_rng(0), 16_000
    noise = rng.standard_normal((20, 16_000)).astype(np.float32)
    levels = log_mel_bands(noise, rate)
    density = 10 * np.log10(1 / (rate / 2))
    np.testing.assert_allclose(levels.mean(0)[1:], density, atol=0.4)  # 0 has lost its mean
    np.testing.assert_allclose(log_mel_bands(10 * noise, rate), levels + 20, atol=1e-3)
    np.testing.assert_allclose(log_mel_bands(noise + 50, rate), levels, atol=0.1)  # no offset
    silent = np.zeros((1, 700), np.float32)
    silent[0, -1] = 1.0  # in no frame
    assert np.isfinite(log_mel_bands(silent, rate)).all()


def loud_and_quiet(counts=(40, 40), seed=0):
    """Two classes of noise that differ in level only; groups of two."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    signals = rng.standard_normal((len(labels), 1024)) * np.where(labels, 2.0, 1.0)[:, None]
    groups = [f"{label} {row // 2}" for row, label in enumerate(labels)]
    return Recordings(signals, labels, np.array(groups), 8000, ("quiet", "loud"), ("quiet",))


@pytest.fixture(scope="module")
def fitted(tiny_recipe):
    recordings = loud_and_quiet()
    parts = split(recordings, seed=1)
    return recordings, parts, fit_baselines(recordings, parts, tiny_recipe.replace(bins=400))


def test_each_baseline_reads_both_inputs_and_only_the_bands_know_the_level(fitted):
    recordings, parts, found = fitted
    assert list(found.table) == [
        *("baseline", "input", "validation_accuracy", "accuracy", "low", "high"),
        *("miss_rate", "false_alarm_rate", "macro_recall", "seconds"),
    ]
    rows = found.table.set_index(["baseline", "input"])
    assert len(rows) == 4
    for name in ("logistic regression", "forest"):
        assert rows.loc[(name, MEL), "accuracy"] == 1.0
        assert rows.loc[(name, NETWORKS_VIEW), "accuracy"] < 0.9  # min-max scaled
    assert (rows["low"] < rows["high"]).all()
    assert found.best.title == "logistic regression on 64 log-mel bands"
    assert list(found.predictions["recording"]) == list(recordings.origins[parts.test])
    right = found.predictions[found.best.title] == found.predictions["class"]
    assert right.all()


def test_the_same_seed_gives_the_same_and_the_test_part_teaches_nothing(fitted, tiny_recipe):
    recordings, parts, found = fitted
    recipe = tiny_recipe.replace(bins=400)
    again = fit_baselines(recordings, parts, recipe)
    pd.testing.assert_frame_equal(again.predictions, found.predictions)
    signals = recordings.signals.copy()
    signals[parts.test] = signals[parts.test][::-1] * 3
    other = fit_baselines(replace(recordings, signals=signals), parts, recipe)
    for one, two in zip(found.fitted, other.fitted, strict=True):
        assert one.validation_accuracy == two.validation_accuracy
    assert not other.predictions.equals(found.predictions)


def test_they_are_measured_on_other_recordings_of_the_same_kind_only(fitted):
    found = fitted[2]
    others = loud_and_quiet((6, 4), seed=5)
    tested = found.test(others)
    assert len(tested.predictions) == 10
    assert tested.table.set_index(["baseline", "input"]).loc[("forest", MEL), "accuracy"] == 1.0
    for change in (
        {"class_names": ("quiet", "louder")},
        {"sample_rate": 4000},
        {"signals": others.signals[:, :1000]},
    ):
        with pytest.raises(DataError, match="as in training"):
            found.test(replace(others, **change))


def test_candidates_are_chosen_by_validation_and_ties_take_the_first(monkeypatch, tiny_recipe):
    class Fixed:
        def __init__(self, answer):
            self.answer = answer

        def get_params(self, deep=True):
            return {"answer": self.answer}

        def fit(self, x, y):
            return self

        def predict(self, x):
            return np.full(len(x), self.answer)

    monkeypatch.setitem(BASELINES, "fixed", lambda *_: [Fixed(0), Fixed(1), Fixed(1)])
    recordings = loud_and_quiet()
    rows = np.arange(80)
    parts = Split(rows[::2], [1, *range(41, 49, 2)], rows[51::2])  # one quiet and four loud
    found = fit_baselines(recordings, parts, tiny_recipe.replace(bins=400), ("fixed",))
    assert [one.validation_accuracy for one in found.fitted] == [0.8, 0.8]
    assert [one.classifier.answer for one in found.fitted] == [1, 1]
    assert found.best.reads == NETWORKS_VIEW
    nothing = replace(parts, validation=[])
    found = fit_baselines(recordings, nothing, tiny_recipe.replace(bins=400), ("fixed",))
    assert np.isnan(found.table["validation_accuracy"]).all()
    assert found.best is found.fitted[0]


@pytest.mark.parametrize(("counts", "weights"), [((40, 20), None), ((64, 16), "balanced")])
def test_classes_that_differ_by_more_than_three_to_one_are_balanced(
    counts, weights, monkeypatch, tiny_recipe
):
    asked, usual = [], BASELINES["logistic regression"]
    monkeypatch.setitem(
        BASELINES, "spy", lambda given, seed: asked.append((given, seed)) or usual(given, seed)
    )
    recordings = loud_and_quiet(counts)
    parts = split(recordings, seed=0)
    fit_baselines(recordings, parts, tiny_recipe.replace(bins=400, seed=7), ("spy",))
    assert asked == [(weights, 7)]
    for name in ("logistic regression", "forest"):
        made = BASELINES[name]("balanced", 3)[-1]
        made = made[-1] if name != "forest" else made
        assert made.class_weight == "balanced"


def test_a_dataset_is_read_as_the_networks_do(tiny_recipe):
    rng = np.random.default_rng(0)
    labels = torch.arange(60) % 2
    images = torch.from_numpy(rng.normal(size=(60, 1, 5, 4))) + labels[:, None, None, None]
    data = TensorDataset(images, labels)
    examples = Examples.of(data, tiny_recipe)
    rows = np.arange(60)
    parts = Split(rows[:30], rows[30:44], rows[44:])
    found = fit_baselines(examples, parts, tiny_recipe)
    assert list(found.table["input"]) == [NETWORKS_VIEW] * 2
    assert found.table["accuracy"].min() > 0.8
    outside = Examples.of(data, tiny_recipe, in_memory=False)
    with pytest.raises(ArgumentError, match="larger than memory allows"):
        fit_baselines(outside, parts, tiny_recipe)


def sentence(student, best, groups=None):
    """What is said of answers of a student and of the preferred baseline, 1 for right."""
    count = len(student)
    groups = np.arange(count) if groups is None else groups
    names = np.array(["wrong", "right"])
    columns = {"recording": np.arange(count), "group": groups, "class": "right"}
    title = "forest on 64 log-mel bands"
    one = module.Fitted("forest", MEL, None, 0.9, 1.0)
    other = module.Fitted("logistic regression", MEL, None, 0.8, 1.0)
    table = pd.DataFrame(columns | {title: names[best], other.title: "right"})
    found = module.Baselines(pd.DataFrame(), table, (other, one), None, ())
    return compare(pd.DataFrame(columns | {"student": names[student]}), found)


def test_the_sentence_says_which_is_better_and_claims_nothing_else():
    good, bad = np.repeat([1, 0], (90, 10)), np.repeat([0, 1], (50, 50))
    said = sentence(good, bad)
    assert said.startswith(
        "The student beats the best baseline, forest on 64 log-mel bands (90.0 %"
    )
    assert "difference +40.0 points, +2" in said
    said = sentence(bad, good)
    assert said.startswith(
        "Forest on 64 log-mel bands is better than the student (90.0 % against 5"
    )
    assert "train the student longer" in said
    said = sentence(good, np.roll(good, 3))
    assert said.startswith("Forest on 64 log-mel bands is as good as the student, as far as 100 te")
    assert "(90.0 % against 90.0 %; difference +0.0 points, -" in said
    said = sentence(good, bad, np.zeros(100))
    assert "all of one group: that cannot tell them apart" in said
    # Two groups of 50 say less than 100 recordings: the interval is by group.
    assert "is as good as" in sentence(
        np.tile([1, 0], 50), np.tile([0, 1], 50), np.arange(100) // 2
    )


def test_other_recordings_cannot_be_compared(fitted):
    found = fitted[2]
    with pytest.raises(ArgumentError, match="other recordings"):
        compare(found.predictions.iloc[::-1].reset_index().assign(student="quiet"), found)


def test_names(monkeypatch):
    assert wanted_baselines(None) == ("logistic regression", "forest")
    assert wanted_baselines(["none"]) == ()
    assert wanted_baselines(["forest"]) == ("logistic regression", "forest")
    with pytest.raises(ArgumentError, match="none alone"):
        wanted_baselines(["none", "minirocket"])
    with pytest.raises(ArgumentError, match="'minirokcet' is unknown; the nearest name is minir"):
        wanted_baselines(["minirokcet"])
    monkeypatch.setitem(sys.modules, "aeon", None)  # as if it were not installed
    with pytest.raises(ArgumentError, match=r"pip install 'hfld_lite\[baselines\]'"):
        wanted_baselines(["minirocket"])


def test_minirocket_reads_raw_samples(fitted, tiny_recipe):
    pytest.importorskip("aeon")
    recordings, parts, _ = fitted
    found = fit_baselines(recordings, parts, tiny_recipe.replace(bins=400), ("minirocket",))
    assert list(found.table["input"]) == ["raw samples"]
    assert found.table["accuracy"][0] > 0.7


def test_a_failure_costs_the_training_nothing(saved_run, monkeypatch):
    run, recordings = load_run(saved_run[0]), saved_run[1]
    tested = run.detector.test(recordings.select(run.split.test)).predictions

    def fail(*_):
        raise ZeroDivisionError("in another package")

    monkeypatch.setitem(BASELINES, "forest", fail)
    with pytest.warns(UserWarning, match=r"left out; .* ZeroDivisionError: in another package"):
        assert compared(run, recordings, tested, ("forest",)) is None


def test_what_is_saved_is_loaded_and_damage_is_a_note(saved_run, tmp_path):
    said, recordings, run = [], saved_run[1], load_run(saved_run[0])
    tested = run.detector.test(recordings.select(run.split.test)).predictions
    found = compared(run, recordings, tested, ("logistic regression",), said.append)
    assert said[0].startswith("baselines: logistic regression, on the same split, ")
    found.save(tmp_path)
    loaded = Comparison.load(tmp_path)
    assert loaded.sentence == found.sentence
    pd.testing.assert_frame_equal(loaded.table, found.table)
    assert len(pd.read_csv(tmp_path / "baselines.csv", comment="#")) == 2
    (tmp_path / "baselines.csv").write_text("# x\na,b\n1,2\n")
    with pytest.warns(UserWarning, match="the column accuracy is missing"):
        assert Comparison.load(tmp_path) is None
    assert Comparison.load(tmp_path / "nowhere") is None


def test_other_recordings_are_compared_by_the_runs_own_training_part(saved_run, monkeypatch):
    folder, recordings = saved_run
    run = load_run(folder)
    others = recordings.select(run.split.test[::2])
    result = run.detector.test(others)
    found = compared_on(run, others, result, ("logistic regression",))
    straight = fit_baselines(recordings, run.split, run.detector.recipe, ("logistic regression",))
    assert list(found.table["accuracy"]) == list(straight.test(others).table["accuracy"])
    assert "the student" in found.sentence.lower()
    run.facts["fingerprint"] = "of other data"
    run.__dict__["sketch"] = run.sketch + 1
    with pytest.warns(UserWarning, match="left out; .* have changed since the training"):
        assert compared_on(run, others, result, ("forest",)) is None


def test_the_module_loads_no_scikit_learn():
    program = "import sys, hfld_lite.evaluation.baselines; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_windows_are_averaged_by_recording_as_the_networks_are():
    rng = np.random.default_rng(0)
    count, windows = 24, 3
    labels = np.repeat(np.arange(count) % 2, windows)
    wholes = np.repeat([f"file {i}" for i in range(count)], windows)
    tone = np.sin(2 * np.pi * np.outer(0.05 + 0.05 * labels, np.arange(600)))
    recordings = Recordings(
        tone + 2 * rng.standard_normal(tone.shape),
        labels,
        wholes,
        8000,
        ("ok", "bad"),
        ("ok",),
        part=Part("windows", 600),
        wholes=wholes,
    )
    parts = split(recordings, seed=0)
    found = fit_baselines(recordings, parts, Recipe())
    expected = list(dict.fromkeys(wholes[parts.test]))
    assert list(found.predictions["recording"]) == expected
    assert list(found.predictions["group"]) == expected
    one = found.fitted[0]
    read = Examples.of(recordings.select(parts.test), Recipe()).inputs.flatten(1).numpy()
    means = one.classifier.predict_proba(read).reshape(-1, windows, 2).mean(1)
    assert list(found.predictions[one.title]) == ["ok" if a > b else "bad" for a, b in means]
