"""Figures of a detector: by hand, and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp

from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.metrics import (
    Z95,
    accuracy_interval,
    calibration_error,
    evaluate,
    holm,
    mean_interval,
    miss_rate_at,
    paired_interval,
    ratio_interval,
)

NAMES = ("AN", "AD", "BN", "BD")
NORMAL = ("AN", "BN")


def test_a_case_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    # One AN called AD (a false alarm), one AN called BN (wrong, but no alarm), one AD called BN
    # (a miss), one BD called AD (wrong, but no miss).
    predicted = np.array([0, 1, 2, 1, 2, 2, 2, 3, 3, 1])
    result = evaluate(predicted, labels, np.arange(10), NAMES, NORMAL)
    assert result.count == 10
    assert result.accuracy == pytest.approx(6 / 10)
    assert result.false_alarm_rate == pytest.approx(1 / 5)
    assert result.miss_rate == pytest.approx(1 / 5)
    assert result.macro_recall == pytest.approx((1 / 3 + 1 / 2 + 1 + 2 / 3) / 4)
    expected = [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 2, 0], [0, 1, 0, 2]]
    assert result.confusion.tolist() == expected
    assert (result.low, result.high) == accuracy_interval(labels == predicted, np.arange(10))


def test_two_classes():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0, 0])
    result = evaluate(predicted, labels, np.arange(6), ("N", "D"), ("N",))
    assert result.miss_rate == 1.0
    assert result.false_alarm_rate == 1 / 4
    assert result.confusion.tolist() == [[3, 1], [2, 0]]


def test_without_normal_classes_there_are_no_misses():
    result = evaluate([0, 1, 2], [0, 1, 1], [0, 1, 2], ("ball", "inner", "outer"))
    assert result.miss_rate is None
    assert result.false_alarm_rate is None
    assert result.macro_recall == pytest.approx((1 + 1 / 2) / 2)  # no recording of the third class
    assert result.confusion.shape == (3, 3)


@pytest.mark.parametrize(("label", "miss", "alarm"), [(0, None, 0.5), (1, 0.5, None)])
def test_a_rate_of_nothing_is_none(label, miss, alarm):
    result = evaluate([0, 1], [label, label], [0, 1], ("N", "D"), ("N",))
    assert (result.miss_rate, result.false_alarm_rate) == (miss, alarm)


def test_the_figures_are_plain_numbers():
    result = evaluate([0, 1], [0, 1], [0, 1], ("N", "D"), ("N",))
    for name in ("accuracy", "low", "high", "macro_recall", "miss_rate", "false_alarm_rate"):
        assert isinstance(getattr(result, name), float)


@pytest.mark.parametrize(
    ("predicted", "labels", "groups", "found"),
    [
        ([], [], [], "0, 0 and 0"),
        ([0], [0, 1], [0, 1], "1, 2 and 2"),
        ([0, 1], [0], [0, 1], "2, 1 and 2"),
        ([0, 1], [0, 1], [0], "2, 2 and 1"),
    ],
)
def test_lengths_that_differ_and_nothing_at_all(predicted, labels, groups, found):
    with pytest.raises(ArgumentError, match=f"at least one; found {found}"):
        evaluate(predicted, labels, groups, ("N", "D"))


# The interval


def correct(right: int, count: int) -> np.ndarray:
    return np.arange(count) < right


def test_the_quantile():
    assert pytest.approx(norm.ppf(0.975), rel=1e-12) == Z95


@pytest.mark.parametrize(("right", "count"), [(40, 50), (1, 30), (29, 30), (248, 250), (5, 7)])
def test_wilsons_interval_where_every_recording_is_its_own_group(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = accuracy_interval(correct(right, count), np.arange(count))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("right", "count"), [(20, 20), (0, 20)])
def test_all_right_or_all_wrong(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = accuracy_interval(correct(right, count), np.arange(count))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)
    # Five drops a tile, all right: as sure as 20 tiles let us be.
    many = accuracy_interval(np.repeat(correct(right, count), 5), np.repeat(np.arange(count), 5))
    assert many == pytest.approx((expected.low, expected.high), abs=1e-9)


def width(outcome: np.ndarray, groups: np.ndarray) -> float:
    low, high = accuracy_interval(outcome, groups)
    assert 0 <= low <= outcome.mean() <= high <= 1
    return high - low


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), data=st.data())
@settings(max_examples=200, deadline=None)
def test_an_interval_at_no_error_is_not_wider_than_at_one(sizes, data):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    outcome = np.ones(len(groups), bool)
    none = width(outcome, groups)
    outcome[data.draw(st.integers(0, len(groups) - 1))] = False
    assert none <= width(outcome, groups) + 1e-12
    assert none == pytest.approx(width(np.zeros(len(groups), bool), groups))
    # Groups never make it narrower.
    assert width(outcome, groups) >= width(outcome, np.arange(len(groups))) - 1e-12


def test_errors_in_a_single_group_do_not_show_how_alike_groups_are():
    # 20 tiles of 18 drops, alike within a tile: a design effect from one bad tile is a guess.
    rng, hits, groups = np.random.default_rng(0), 0, np.repeat(np.arange(20), 18)
    for _ in range(400):
        tile = rng.beta(0.98 * 7 / 3, 0.02 * 7 / 3, 20)  # mean 0.98, intra-class correlation 0.3
        low, high = accuracy_interval(rng.random(360) < np.repeat(tile, 18), groups)
        hits += low <= 0.98 <= high
    assert hits / 400 > 0.92  # it was 0.865


def test_alike_groups_widen_the_interval():
    outcome = np.repeat(correct(40, 50), 5)
    tiles = np.repeat(np.arange(50), 5)  # right or wrong as a whole
    alone = accuracy_interval(outcome, np.arange(250))
    grouped = accuracy_interval(outcome, tiles)
    assert grouped[0] < alone[0]
    assert grouped[1] > alone[1]
    # Nothing but the 50 tiles counts then, up to Kish's G / (G - 1).
    expected = accuracy_interval(correct(40, 50), np.arange(50))
    assert grouped == pytest.approx(expected, abs=3e-3)


def test_the_effective_number_by_hand():
    # 4 tiles of 300 drops, 300, 300, 200 and 100 right: p = 3/4 and
    # Σ (y − p n)² = 75² + 75² + 25² + 125².
    right = np.array([300, 300, 200, 100])
    outcome = (np.arange(300) < right[:, None]).ravel()
    spread = 4 / 3 * (2 * 75**2 + 25**2 + 125**2) / 1200**2
    effective = 3 / 16 / spread
    low, high = accuracy_interval(outcome, np.repeat(list("abcd"), 300))
    # Wilson's ends solve (p − x)² = z² x (1 − x) / n*.
    for end in (low, high):
        assert (0.75 - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / effective, rel=2e-3)


def test_spread_out_errors_do_not_narrow_the_interval():
    # Every tile exactly 4 of 5 right: less spread than chance, but never more than n recordings.
    outcome = np.tile([True, True, True, True, False], 20)
    grouped = accuracy_interval(outcome, np.repeat(np.arange(20), 5))
    expected = binomtest(80, 100).proportion_ci(method="wilson")
    assert grouped == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_group_counts_as_one_recording():
    low, high = accuracy_interval(correct(9, 10), np.zeros(10))
    expected = (0.9 + Z95**2 / 2) / (1 + Z95**2)
    half = Z95 / (1 + Z95**2) * math.sqrt(0.09 + Z95**2 / 4)
    assert (low, high) == pytest.approx((expected - half, min(1, expected + half)))


def test_groups_may_be_named_and_in_any_order():
    rng = np.random.default_rng(0)
    outcome, groups = rng.random(60) < 0.8, rng.integers(12, size=60)
    order = rng.permutation(60)
    named = np.array([f"tile{g}" for g in groups])
    expected = accuracy_interval(outcome, groups)
    assert accuracy_interval(outcome[order], named[order]) == pytest.approx(expected)


def test_the_interval_covers_the_true_accuracy_of_correlated_drops():
    # 60 tiles of 5 drops; a tile's drops share half of their luck. A plain Wilson interval on 300
    # recordings would miss too often.
    rng = np.random.default_rng(1)
    groups, hits, plain = np.repeat(np.arange(60), 5), 0, 0
    for _ in range(400):
        tile = rng.beta(3.6, 0.4, 60)  # mean 0.9, intra-class correlation 1 / 5
        outcome = rng.random(300) < np.repeat(tile, 5)
        low, high = accuracy_interval(outcome, groups)
        hits += low <= 0.9 <= high
        low, high = accuracy_interval(outcome, np.arange(300))
        plain += low <= 0.9 <= high
    assert hits / 400 > 0.92
    assert plain / 400 < 0.9


@pytest.mark.parametrize(
    ("predicted", "labels", "normal", "words"),
    [
        ([0, 2], [0, 1], (), "predictions run from 0 to 2"),
        ([0, 1], [-1, 1], (), "labels run from -1 to 1"),
        ([0, 1], [0, 1], ("X",), r"normal classes \['X'\] are not among"),
    ],
)
def test_classes_that_are_not_there_are_refused(predicted, labels, normal, words):
    with pytest.raises(ArgumentError, match=words):
        evaluate(np.array(predicted), np.array(labels), np.arange(2), ("N", "D"), normal)


def test_the_mean_of_a_few_values_has_scipys_t_interval_and_p():
    values = np.array([0.012, -0.004, 0.021, 0.008, 0.015])
    known = ttest_1samp(values, 0)
    ends = known.confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx(
        (values.mean(), ends.low, ends.high, known.pvalue)
    )
    assert 0.01 < mean_interval(values).p < 0.1


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1], [0.1, 0.3 - 0.2]])
def test_one_value_or_equal_ones_give_no_interval(values):
    mean, low, high, p = mean_interval(values)
    assert mean == pytest.approx(0.1)
    assert math.isnan(low)
    assert math.isnan(high)
    assert p == 1


def test_no_value_at_all_is_refused():
    with pytest.raises(ArgumentError, match="at least one value; found none"):
        mean_interval([])
    with pytest.raises(ArgumentError, match="found 2 and 1"):
        ratio_interval([1, 2], [1])
    with pytest.raises(ArgumentError, match="found 0 and 0"):
        ratio_interval([], [])


def test_paired_interval_of_a_clear_and_of_no_difference():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3)
    base = rng.random((5, 180)) < 0.8
    better = base | (rng.random((5, 180)) < 0.3)
    shuffled = [rng.permutation(row) for row in base]
    found = paired_interval(list(zip(better, base, [groups] * 5, strict=True)), rng)
    assert found == pytest.approx(mean_interval(better.mean(1) - base.mean(1)))
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    rolled = np.roll(better, 1, axis=0)
    found = paired_interval(list(zip(rolled, better, [groups] * 5, strict=True)), rng)
    assert found.difference == pytest.approx(0)
    assert found.low < 0 < found.high
    assert found.p > 0.5
    # Every seed with its own accuracy, the methods alike: nothing varies, and nothing differs.
    found = paired_interval(list(zip(shuffled, base, [groups] * 5, strict=True)), rng)
    assert found.low < 0 < found.high, "over groups: seeds do not vary"


def test_one_seed_and_equal_seeds_are_drawn_by_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3)
    base = rng.random(180) < 0.8
    better = base | (rng.random(180) < 0.3)
    one = paired_interval([(better, base, groups)], rng)
    assert 0 < one.low < one.difference < one.high
    assert one.p == pytest.approx(2 / 2001), "as small as 2000 rounds can tell"
    same = paired_interval([(better, base, groups)] * 4, rng)
    assert same.difference == pytest.approx(one.difference)
    assert 0 < same.low < same.difference < same.high
    assert same.high - same.low == pytest.approx((one.high - one.low) / 2, rel=0.1)
    assert paired_interval([(base, base, groups)], rng) == (0, 0, 0, 1)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.0, 0.1], ids=["test set dominates", "seeds dominate"])
def test_the_interval_over_seeds_covers_the_true_difference(seeds, spread):
    # A percentile bootstrap over seeds and groups covers it in 90, 93 and 96 % of them where seeds
    # dominate, in 97 to 99 % where the test set does; one over seeds alone in 72 to 91 %.
    rng, hits, studies = np.random.default_rng(seeds), 0, 600
    groups = np.repeat(np.arange(60), 2)
    for _ in range(studies):
        runs = []
        for gain in 0.02 + spread * rng.standard_normal(seeds):
            ease = np.repeat(0.35 + 0.25 * rng.random(60), 2)  # a hard tile is hard for both
            runs.append((rng.random(120) < ease + gain, rng.random(120) < ease, groups))
        low, high = paired_interval(runs, rng)[1:3]
        hits += low <= 0.02 <= high
    assert 0.93 < hits / studies < 0.975


@pytest.mark.parametrize(("gap", "spread"), [(0.1, 0.01), (0.03, 0.02)])
def test_fiellers_interval_covers_the_true_ratio(gap, spread):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        alone = spread * rng.standard_normal(5)  # shared by both gains, as in a study
        closed = 0.7 * gap + spread * rng.standard_normal(5) - alone
        _, low, high = ratio_interval(closed, gap + spread * rng.standard_normal(5) - alone)
        hits += low <= 0.7 <= high
    assert 0.935 < hits / 2000 < 0.98  # more than 95 % where many are unbounded


def test_fiellers_ends_are_where_a_t_test_begins_to_refuse():
    above, below = np.array([1.0, 2.1, 2.8, 4.2]), np.array([2.0, 2.6, 3.1, 3.5])
    ratio, low, high = ratio_interval(above, below)
    assert ratio == pytest.approx(above.sum() / below.sum())
    assert low < ratio < high
    for end in (low, high):
        assert ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)
    # Twice the below is half the ratio, and so its ends.
    assert ratio_interval(above, 2 * below) == pytest.approx((ratio / 2, low / 2, high / 2))
    assert ratio_interval(above, -below) == pytest.approx((-ratio, -high, -low))


def test_a_ratio_to_what_may_be_zero_is_unbounded():
    ratio, low, high = ratio_interval([1, 2, 3], [-0.5, 1, 0.4])
    assert ratio == pytest.approx(2 / 0.3)
    assert (low, high) == (-math.inf, math.inf)
    assert np.isnan(ratio_interval([1, 2], [-1, 1])[0])
    found = ratio_interval([0.3], [0.5])
    assert found[0] == pytest.approx(0.6)
    assert np.isnan(found[1:]).all(), "one seed has no interval"


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04; never falling
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0
    with pytest.raises(ArgumentError, match="numbers from 0 to 1"):
        holm([0.1, 1.2])


def test_calibration_error_by_hand():
    # Bins of 0.2: (0.4, 0.6] has 0.6 right and 0.6 wrong: |0.5 - 0.6| * 2 / 4; (0.8, 1] has 0.9
    # right and 1.0 right: |1 - 0.95| * 2 / 4.
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 0])
    assert calibration_error(probabilities, labels, bins=5) == pytest.approx(0.05 + 0.025)
    sure = np.eye(2)[[0, 1, 1]]
    assert calibration_error(sure, np.array([0, 1, 1])) == 0
    assert calibration_error(sure, np.array([1, 0, 0])) == 1


def test_misses_at_a_share_of_false_alarms():
    # sound: 0.1, 0.2, 0.6, 0.9; defective: 0.3, 0.5, 0.7, 0.95
    suspicion = np.array([0.1, 0.2, 0.6, 0.9, 0.3, 0.5, 0.7, 0.95])
    defective = np.arange(8) > 3
    assert miss_rate_at(suspicion, defective, 0) == pytest.approx(0.75), "only 0.95 is above 0.9"
    assert miss_rate_at(suspicion, defective, 0.25) == pytest.approx(0.5)
    assert miss_rate_at(suspicion, defective, 0.49) == pytest.approx(0.5)
    assert miss_rate_at(suspicion, defective, 0.5) == pytest.approx(0)
    with pytest.raises(ArgumentError, match="both sound and defective"):
        miss_rate_at(suspicion, np.ones(8, bool), 0.1)


@pytest.mark.parametrize("right", [True, False])
def test_the_interval_holds_the_accuracy_of_a_perfect_network(right):
    for count in range(1, 1000):  # 299 of these missed 1 by rounding, which stopped the report
        low, high = accuracy_interval(np.full(count, right), np.arange(count))
        assert low <= float(right) <= high


def test_equal_pairs_but_for_rounding_have_no_ratio_interval():
    ratio, low, high = ratio_interval([0.05] * 3, [0.6 - 0.5, 0.4 - 0.3, 0.8 - 0.7])
    assert ratio == pytest.approx(0.5)
    assert math.isnan(low)
    assert math.isnan(high)
