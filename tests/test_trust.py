"""When not to trust an answer: limits worked out by hand, and what must bring a warning."""

import json

import numpy as np
import pytest

from hfld_lite.data.plausibility import longest_run
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.trust import (
    BANDS,
    CLIPPED,
    NOVEL,
    Trust,
    band_levels,
    make_trust,
    suspicion,
)


@pytest.fixture(scope="module")
def tiles():
    return simulate_tiles("A", tiles_per_class=40, drops=2, seed=3)


@pytest.fixture(scope="module")
def parts(tiles):
    order = np.random.default_rng(0).permutation(len(tiles))
    train, validation = order[:100], order[100:]
    return [(tiles.signals[rows], tiles.labels[rows]) for rows in (train, validation)]


def sure(labels):
    return np.eye(2)[labels] * 0.9 + 0.05


def test_suspicion_is_the_probability_of_a_defect():
    found = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    np.testing.assert_allclose(suspicion(found, (0, 2)), [0.2, 0.8])
    np.testing.assert_allclose(suspicion(found, ()), [0.5, 0.2])


def test_the_limit_is_the_kth_smallest_suspicion_of_defective_recordings(parts):
    train, (signals, labels) = parts
    defective = labels == 1
    n = defective.sum()
    probabilities = np.full((len(labels), 2), 0.5)
    probabilities[defective, 1] = np.linspace(0.2, 0.9, n)  # sorted: the k-th is known
    probabilities[:, 0] = 1 - probabilities[:, 1]
    k = 3
    trust = make_trust(train, (signals, labels), probabilities, (0,), rate=k / (n + 1))
    assert trust.limit == pytest.approx(np.linspace(0.2, 0.9, n)[k - 1])
    assert trust.harmful == n
    below, above = trust.limit - 0.01, trust.limit + 0.01
    answers = np.array([[1 - below, below], [1 - above, above], [0.1, 0.9]])
    assert trust.unsure(answers).tolist() == [False, True, False], "a defect is told as it is"


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_new_defective_recordings_are_missed_at_the_stated_rate(parts, rate):
    # The promise holds on average over validation parts, so many are drawn.
    train, rng, missed = parts[0], np.random.default_rng(1), []
    some = rng.standard_normal((60, 200)), np.ones(60, int)
    for _ in range(300):
        old, new = rng.beta(2, 2, 60), rng.beta(2, 2, 50)
        trust = make_trust((train[0][:, :200], train[1]), some, _of(old), (0,), rate)
        answers = trust.unsure(_of(new)) | (new > 0.5)
        missed.append(np.mean(~answers))
    assert np.mean(missed) <= rate
    assert np.mean(missed) > 0.6 * rate, "and it is not all unsure"


def _of(suspicions):
    return np.stack([1 - suspicions, suspicions], 1)


def test_a_rate_that_the_data_cannot_promise_is_refused(parts):
    train, (signals, labels) = parts
    n = int((labels == 1).sum())
    with pytest.raises(ArgumentError, match=f"{n} validation recordings can promise"):
        make_trust(train, (signals, labels), sure(labels), (0,), rate=0.5 / (n + 1))
    usual = make_trust(train, (signals, labels), sure(labels), (0,))
    assert usual.rate == pytest.approx(1 / (n + 1)), "the lowest that so few can promise"


def test_without_normal_classes_wrong_answers_set_the_limit(parts):
    train, (signals, labels) = parts
    probabilities = sure(labels)
    probabilities[:3] = [[0.6, 0.4], [0.4, 0.6], [0.7, 0.3]]
    probabilities[:3][np.arange(3), labels[:3]] = 0.3
    probabilities[:3][np.arange(3), 1 - labels[:3]] = 0.7
    trust = make_trust(train, (signals, labels), probabilities, ())
    assert trust.harmful == 3
    assert trust.limit == pytest.approx(0.3)
    assert trust.unsure(np.array([[0.7, 0.3], [0.05, 0.95]])).tolist() == [True, False]
    never = make_trust(train, (signals, labels), sure(labels), ())
    assert never.harmful == 0
    assert not never.unsure(np.array([[0.5, 0.5]])).any()


def test_one_group_promises_nothing(parts):
    train, (signals, labels) = parts
    n = int((labels == 1).sum())
    groups = np.where(labels == 1, "one tile", np.arange(len(labels)).astype(str))
    trust = make_trust(train, (signals, labels), sure(labels), (0,), groups=groups)
    assert trust.groups == 1
    assert trust.promise.startswith(f"No promise can be made: {n} defective recordings of the val")
    assert "unsure" not in trust.promise
    with pytest.raises(ArgumentError, match=rf"rate 0\.5 cannot be promised: {n} defective rec"):
        make_trust(train, (signals, labels), sure(labels), (0,), 0.5, groups)
    groups[np.flatnonzero(labels == 1)[0]] = "another"
    two = make_trust(train, (signals, labels), sure(labels), (0,), 0.5, groups)
    assert two.groups == 2
    assert two.promise.startswith('"unsure" keeps defective recordings called sound at 50.0%')
    assert make_trust(train, (signals, labels), sure(labels), (0,)).groups == n


def test_no_wrong_answer_in_one_group_is_no_promise_either(parts):
    train, (signals, labels) = parts
    groups, count = np.zeros(len(labels), int), len(labels)
    never = make_trust(train, (signals, labels), sure(labels), (), groups=groups)
    assert never.promise.startswith(f"No promise can be made: {count} recordings of the validati")
    groups[0] = 1
    never = make_trust(train, (signals, labels), sure(labels), (), groups=groups)
    assert never.promise.endswith("so nothing is doubted.")
    wrong = sure(labels)
    wrong[5] = wrong[5][::-1]
    once = make_trust(train, (signals, labels), wrong, (), groups=groups)
    assert "1 wrongly answered recording of the validation part, of one group, says" in once.promise


def test_the_limits_of_an_older_run_promise_as_they_did(parts):
    train, (signals, labels) = parts
    values = make_trust(train, (signals, labels), sure(labels), (0,)).to_dict()
    before = Trust.from_dict(values).promise
    del values["groups"]
    assert Trust.from_dict(values).promise == before


def test_another_microphone_and_clipping_bring_warnings_and_loudness_does_not(parts):
    train, (signals, labels) = parts
    trust = make_trust(train, (signals, labels), sure(labels), (0,))
    usual = sum(bool(said) for said in trust.warnings(signals))
    assert usual <= 1 + 0.02 * len(signals)
    assert trust.warnings(100 * signals) == trust.warnings(signals), "loudness does not matter"
    dull = np.cumsum(signals, axis=1)  # −6 dB an octave
    assert all(NOVEL in said for said in trust.warnings(dull))
    limit = 0.2 * np.abs(signals).max(1, keepdims=True)
    assert all(CLIPPED in said for said in trust.warnings(np.clip(signals, -limit, limit)))


def test_the_longest_run_at_an_extreme():
    rows = np.array(
        [
            [0, 1, 1, 1, 0, -1, -1],
            [0, 3, 0, 3, 3, 0, -1],
            [0, 1, 2, 3, 4, 5, 6],
            [2, 2, 2, 2, 2, 2, 2],
        ]
    )
    assert longest_run(rows).tolist() == [3, 2, 1, 7]


def test_band_levels_of_white_and_of_one_tone():
    rng = np.random.default_rng(0)
    white = band_levels(rng.standard_normal((50, 4000)))
    np.testing.assert_allclose(white.mean(0), -10 * np.log10(BANDS), atol=0.3)
    tone = band_levels(np.sin(2 * np.pi * 0.26 * np.arange(4800))[None])
    assert tone[0].argmax() == int(0.26 * 2 * BANDS)
    assert tone[0].max() == pytest.approx(0, abs=0.01)


def test_what_is_saved_is_read_again(parts):
    train, (signals, labels) = parts
    trust = make_trust(train, (signals, labels), sure(labels), (0,))
    values = json.loads(json.dumps(trust.to_dict()))
    assert Trust.from_dict(values) == trust
    values["means"][0].pop()
    with pytest.raises(ValueError, match=r"means\[0\] is .* expected a length of 24"):
        Trust.from_dict(values)
