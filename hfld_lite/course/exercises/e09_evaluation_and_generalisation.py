"""Checks for notebook 09: intervals, misses, prices, leakage, many comparisons, calibration."""

from collections.abc import Callable, Mapping

import numpy as np

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number, tensor

_MIDDLE = "95 % lies between the quantiles 0.025 and 0.975."


@check
def check_tile_bootstrap(tile_bootstrap: Callable[..., tuple[float, float]]) -> str:
    """``tile_bootstrap(first, second, tiles, rng)``: ends of the difference, drawn tile by tile."""
    rng = np.random.default_rng(5)
    hard, lucky = rng.random(60) < 0.35, rng.random(60) < 0.4
    first = np.repeat(~hard | lucky, 6) & (rng.random(360) > 0.02)
    second = np.repeat(~hard, 6) & (rng.random(360) > 0.02)
    tiles = np.repeat(np.arange(60), 6)
    found = ask(tile_bootstrap, first.copy(), second.copy(), tiles, np.random.default_rng(0))
    ends = tensor(np.asarray(found, float), (2,), "What tile_bootstrap returns").numpy()
    expect(ends[0] < ends[1], "The lower end must come first, and be lower.")
    draws = rng.integers(60, size=(2, 4000, 60))
    right, wrong = (x.reshape(60, 6).mean(1) for x in (first, second))
    paired, unpaired = (right - wrong)[draws[0]].mean(1), right[draws[0]].mean(1)
    unpaired = unpaired - wrong[draws[1]].mean(1)
    by_row = (first.astype(float) - second)[rng.integers(360, size=(2000, 360))].mean(1)
    difference = paired.mean()
    expect(
        abs(ends.mean() + difference) > 0.03,
        "The sign is turned: the difference is the first minus the second.",
    )
    expect(
        abs(ends.mean() - difference) < 0.03,
        "The interval lies elsewhere than the difference of the two accuracies: in each draw take "
        "the mean of first minus that of second.",
    )

    def middle(of: np.ndarray, part: float) -> float:
        return float(np.diff(np.quantile(of, (0.5 - part / 2, 0.5 + part / 2)))[0])

    widths = {
        "": middle(paired, 0.95),
        "Recordings were drawn, not tiles: six drops of a tile are alike, and so the interval is "
        "less than half as wide as it should be.": middle(by_row, 0.95),
        "Each detector had a draw of its own; measure both on the same tiles, so that what is hard "
        "for both cancels.": middle(unpaired, 0.95),
        f"This is the middle 90 %; {_MIDDLE}": middle(paired, 0.9),
        f"This is the middle half; {_MIDDLE}": middle(paired, 0.5),
    }
    width = float(ends[1] - ends[0])
    nearest = min(widths, key=lambda sentence: abs(np.log(width / widths[sentence])))
    expect(not nearest, nearest)
    return f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} points: tiles were drawn, and in pairs."


@check
def check_miss_rate(miss_rate: Callable[[np.ndarray, np.ndarray, float], float]) -> str:
    """``miss_rate(suspicion, defective, share)``: misses at a share of false alarms."""
    sound = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 0.95])
    bad = np.array([0.22, 0.32, 0.55, 0.65, 0.7, 0.75, 0.85, 0.9])
    both, order = np.concatenate([sound, bad]), np.random.default_rng(0).permutation(18)
    suspicion, defective = both[order], (np.arange(18) >= 10)[order]

    def missed_at(share: float) -> float:
        return number(ask(miss_rate, suspicion.copy(), defective.copy(), share), "A miss rate")

    compare(
        missed_at(0.1),
        3 / 8,
        {
            "This is the share that was found; the others are missed.": 5 / 8,
            "Two of ten sound recordings raise an alarm at this limit; only one may. A limit of "
            "0.5 has nothing to do with the share either.": 2 / 8,
            "No sound recording raises an alarm at this limit; one of ten may.": 1.0,
            "Misses are a share of the defective recordings, not of all.": 3 / 18,
            "The limit is a quantile of the defective recordings; the *sound* ones raise false "
            "alarms.": 1 / 8,
            "The limit is a quantile of all recordings; only the *sound* ones raise false "
            "alarms.": 7 / 8,
        },
        "Set the limit so that one of the ten sound recordings lies on or above it; what is "
        "defective and lies below is missed.",
    )
    for share, right in ((0.0, 1.0), (0.2, 2 / 8), (0.5, 1 / 8), (1.0, 0.0)):
        found = missed_at(share)
        expect(
            close(found + 1, right + 1),
            f"Right at 10 % false alarms, but wrong at {share:.0%}, where a share of {right:g} is "
            f"missed and not {found:g}.",
        )
    return "Two detectors can be compared at the same share of false alarms."


@check
def check_cheapest_limit(cheapest_limit: Callable[..., float]) -> str:
    """``cheapest_limit(suspicion, defective, limits, miss, alarm, share)``: the best limit."""
    rng, limits = np.random.default_rng(3), np.linspace(0.05, 0.95, 19)
    defective = np.arange(400) >= 200
    suspicion = np.clip(rng.normal(np.where(defective, 0.65, 0.35), 0.2), 0, 1)
    called = suspicion >= limits[:, None]
    missed, alarmed = (~called)[:, defective].mean(1), called[:, ~defective].mean(1)

    def costs(miss: float, alarm: float, share: float) -> np.ndarray:
        return share * missed * miss + (1 - share) * alarmed * alarm

    def best(*prices: float) -> float:
        return float(limits[costs(*prices).argmin()])

    given = (20.0, 2.0, 0.05)
    found = number(ask(cheapest_limit, suspicion, defective, limits.copy(), *given), "The limit")
    compare(
        found,
        best(*given),
        {
            "The share of defective parts is taken from this test set, where it is a half; in "
            "production it is the given one.": best(20, 2, 0.5),
            "The prices are swapped or left out: a miss costs 20, a false alarm 2.": (
                best(2, 20, 0.05)
            ),
            "The prices and the share are left out: this limit makes the fewest errors in the test "
            "set.": best(1, 1, 0.5),
            "The share is turned: π stands with the misses, 1 − π with the false alarms.": (
                best(20, 2, 0.95)
            ),
            "This limit costs most; take argmin.": float(limits[costs(*given).argmax()]),
            "This is the lowest cost; return the limit that has it.": float(costs(*given).min()),
            "This is a place in the list; return the limit that stands there.": (
                float(costs(*given).argmin())
            ),
        },
        "Compute π · r_miss · c_miss + (1 − π) · r_alarm · c_alarm at each limit, and take the "
        "limit where it is least.",
    )
    other = (20.0, 20.0, 0.3)
    found = number(ask(cheapest_limit, suspicion, defective, limits.copy(), *other), "The limit")
    expect(close(found, best(*other)), "Right for one set of prices, wrong for another one.")
    return "The same detector, and another limit for each factory."


@check
def check_shared_tiles(shared_tiles: Callable[[Mapping[str, np.ndarray], np.ndarray], set]) -> str:
    """``shared_tiles(parts, tiles)``: the tiles that are in more than one part."""
    tiles = np.array(["t1", "t1", "t2", "t2", "t3", "t3", "t4", "t4"])
    cases = (
        (
            ([0, 1, 2, 3], [4, 5], [6, 7]),
            set(),
            "Nothing leaks from (t1, t1, t2, t2), (t3, t3), (t4, t4): twice in the *same* part is "
            "no leak.",
        ),
        (
            ([0, 2, 3], [4, 5], [1, 6, 7]),
            {"t1"},
            "One recording of t1 is in training and another in the test part: their indices "
            "differ, their tile does not. Compare tiles[indices].",
        ),
        (
            ([0, 1, 2], [3, 4, 5], [6, 7]),
            {"t2"},
            "t2 is in training and validation: that leaks as well, since validation chooses the "
            "epoch.",
        ),
        (
            ([0, 1], [2, 4, 6], [3, 5, 7]),
            {"t2", "t3", "t4"},
            "t2, t3 and t4 are in validation and test: compare every pair of parts.",
        ),
    )
    for rows, right, sentence in cases:
        parts = dict(zip(("train", "validation", "test"), map(np.array, rows), strict=True))
        found = ask(shared_tiles, parts, tiles)
        expect(
            isinstance(found, set | frozenset | list | tuple | np.ndarray),
            f"Return a set of names; this is a {type(found).__name__}.",
        )
        expect({str(name) for name in found} == right, sentence)
    return "A split is sound when this set is empty."


@check
def check_corrected(corrected: Callable[[np.ndarray], np.ndarray]) -> str:
    """``corrected(p)``: adjusted p-values, in the order in which they were given."""
    p = np.array([0.04, 0.005, 0.03, 0.5, 0.02])
    order, places = np.argsort(p), np.arange(5)

    def back(adjusted: np.ndarray) -> np.ndarray:
        return adjusted[np.argsort(order)]

    ladder = (5 - places) * p[order]  # 0.025, 0.08, 0.09, 0.08, 0.5
    right = np.maximum.accumulate(ladder)
    found = tensor(np.asarray(ask(corrected, p.copy()), float), (5,), "What corrected returns")
    compare(
        found,
        back(right),
        {
            "This is Bonferroni's correction, m · p for all; Holm multiplies the smallest by m, "
            "the next by m − 1, and so on.": np.minimum(1, 5 * p),
            "The values are right and stand in sorted order; put each back where its p was.": right,
            "0.03 comes out larger than 0.04 here: an adjusted value may not fall below that of a "
            "smaller p, so take the running maximum.": back(ladder),
            "The factors run the wrong way: it is the smallest p that is multiplied by m.": (
                back(np.minimum(1, np.maximum.accumulate((places + 1) * p[order])))
            ),
            "These are Benjamini and Hochberg's values: they bound the share of false discoveries, "
            "not the chance of any.": back(
                np.minimum.accumulate((p[order] * 5 / (places + 1))[::-1])[::-1]
            ),
            "Nothing is corrected here.": p,
        },
        "Sort; multiply by m, m − 1, … 1; take the running maximum; put the values back.",
    )
    capped = tensor(
        np.asarray(ask(corrected, np.array([0.7, 0.6])), float), (2,), "What corrected returns"
    )
    expect(float(capped.max()) <= 1, "No probability is above 1: cap with np.minimum(1, …).")
    return "One of five is left below 0.05; uncorrected it was four."


@check
def check_confidence_gap(confidence_gap: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """``confidence_gap(confidence, right)``: ECE with five bins of equal width."""
    confidence = np.array([0.95, 0.9, 0.97, 0.93, 0.85, 0.9, 0.75, 0.7, 0.65, 0.78, 0.55, 0.58])
    right = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1], bool)
    member = np.ceil(confidence * 5).astype(int) - 1
    there = np.unique(member)
    gaps = np.array([right[member == b].mean() - confidence[member == b].mean() for b in there])
    share = np.array([np.mean(member == b) for b in there])
    compare(
        number(ask(confidence_gap, confidence.copy(), right.copy()), "What confidence_gap returns"),
        float(share @ np.abs(gaps)),
        {
            "Every bin counts alike here; weigh each by its share of the recordings, n_b / n.": (
                float(np.abs(gaps).mean())
            ),
            "Every bin counts alike here, the empty ones too; weigh each by n_b / n.": (
                float(np.abs(gaps).sum() / 5)
            ),
            "Gaps of two signs cancel here: too sure in one bin and too modest in another are two "
            "errors. Take amounts.": float(share @ gaps),
            "Gaps of two signs cancel here: too sure in one bin and too modest in another are two "
            "errors. Take amounts. ": float(-(share @ gaps)),
            "Gaps cancel before the amount is taken; take it within each bin.": (
                float(abs(share @ gaps))
            ),
            "This compares each recording with its own confidence; take means within a bin "
            "first.": float(np.abs(right - confidence).mean()),
            "This is the largest gap, another measure; take the weighted mean.": (
                float(np.abs(gaps).max())
            ),
            "The gaps are squared; take their amount.": float(share @ gaps**2),
        },
        "Σ over bins of n_b / n · |accuracy − mean confidence|, five bins of width 0.2.",
    )
    return "0 would mean: where it says 80 %, it is right four times of five."
