"""The development sets: the same for the same seed, groups whole, neither trivial nor hopeless."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SCRIPTS = Path(__file__).parent.parent / "data_scripts"
REAL = os.environ.get("HFLD_REAL_DATA")

COUNTS = {
    "tiles-80": [20] * 4,
    "tiles-240": [60] * 4,
    "tiles-504": [84] * 6,
    "tiles-2808": [468] * 6,
    "chirps": [50] * 4,
    "impacts": [100] * 2,
    "modulation": [100] * 2,
    "level": [100] * 2,
    "late-impacts": [100] * 2,
    "imbalance": [320, 40],
}
"""Recordings of each class; those of digits are drawn."""

FAMILIES = ("chirps", "impacts", "modulation", "level", "late-impacts", "imbalance")


@pytest.fixture(scope="module")
def development():
    """The module, with the bearings where HFLD_REAL_DATA names their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import _development

        yield _development


def check(recordings, parts):
    """All recordings in one part each, groups whole, every class in every part."""
    sides = np.full(len(recordings), -1)
    for side, rows in enumerate(parts.parts().values()):
        assert (sides[rows] == -1).all()
        sides[rows] = side
        assert set(recordings.labels[rows]) == set(range(len(recordings.class_names)))
    assert (sides >= 0).all()
    for group in np.unique(recordings.groups):
        assert len(set(sides[recordings.groups == group])) == 1, group


@pytest.mark.parametrize("name", [*COUNTS, "digits"])
def test_a_set_is_complete_and_its_groups_are_whole(development, name):
    recordings, parts = development.SETS[name](0)
    check(recordings, parts)
    if name in COUNTS:
        assert np.bincount(recordings.labels).tolist() == COUNTS[name]
        assert len(np.unique(recordings.groups)) < len(recordings)
    else:
        assert len(recordings) == 600
        assert np.bincount(recordings.labels).min() > 40


@pytest.mark.parametrize("name", [name for name in [*COUNTS, "digits"] if name != "tiles-2808"])
def test_the_seed_decides_everything(development, name):
    (once, parts), (again, same), (other, _) = map(development.SETS[name], (1, 1, 2))
    assert once.fingerprint() == again.fingerprint() != other.fingerprint()
    assert parts.to_dict() == same.to_dict()


def test_no_test_digit_of_any_seed_is_known_at_another(development):
    known, tested = set(), set()
    for seed in range(5):
        recordings, parts = development.SETS["digits"](seed)
        tested |= set(recordings.groups[parts.test])
        known |= set(recordings.groups[np.concatenate([parts.train, parts.validation])])
    assert not known & tested
    assert len(tested) > 300, "each seed draws its own"


@pytest.mark.parametrize("name", FAMILIES)
def test_logistic_regression_is_neither_lost_nor_perfect(development, name):
    scores = []
    for seed in range(4):
        recordings, parts = development.SETS[name](seed)
        signals, labels = recordings.signals, recordings.labels
        if name == "modulation":  # its envelope has a spectrum, the noise itself has none
            signals = signals**2
        magnitudes = np.abs(np.fft.rfft(signals))[:, 1:]
        if name == "modulation":
            magnitudes = magnitudes[:, :100]
        balanced = "balanced" if name == "imbalance" else None
        model = LogisticRegression(C=0.01, max_iter=300, class_weight=balanced)
        model = make_pipeline(StandardScaler(), model).fit(
            magnitudes[parts.train], labels[parts.train]
        )
        answers = model.predict(magnitudes[parts.test])
        scores.append(balanced_accuracy_score(labels[parts.test], answers))
    assert 0.8 <= np.mean(scores) <= 0.97, scores


def test_only_the_level_tells_the_level_classes_apart(development):
    recordings, _ = development.SETS["level"](0)
    spectra = np.abs(np.fft.rfft(recordings.signals)) ** 2
    spectra /= spectra.sum(1, keepdims=True)
    soft, loud = (spectra[recordings.labels == label].mean(0) for label in (0, 1))
    bands = [np.add.reduceat(mean, np.arange(0, len(mean), 100)) for mean in (soft, loud)]
    np.testing.assert_allclose(*bands, rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_without_bearings_a_sentence_says_so(development, monkeypatch, capsys, folder):
    if folder:
        monkeypatch.setenv("HFLD_REAL_DATA", folder)
    else:
        monkeypatch.delenv("HFLD_REAL_DATA", raising=False)
    assert development._bearings_sets() == {}
    said = capsys.readouterr().err
    assert said.startswith("The bearings are left out: HFLD_REAL_DATA")
    assert said.count("\n") == 1


@pytest.mark.skipif(not REAL, reason="HFLD_REAL_DATA names no folder with real recordings")
def test_bearings_are_tested_on_what_the_condition_says(development):
    for name in ("block-noise", "block-clean", "load-noise", "size-noise"):
        recordings, parts = development.SETS[f"bearings-{name}"](1)
        check(recordings, parts)
        again, _ = development.SETS[f"bearings-{name}"](1)
        assert recordings.fingerprint() == again.fingerprint()
        assert 500 <= len(recordings) <= 700
        tested = recordings.groups[parts.test]
        _, other = development.SETS[f"bearings-{name}"](2)
        if name.startswith("size"):
            assert recordings.class_names == ("B", "IR", "OR")
            assert all("014_" in group for group in tested)
        else:
            assert np.array_equal(other.test, parts.test), "the same test part at each seed"
        if name.startswith("load"):
            assert all("_load3" in group for group in tested)
