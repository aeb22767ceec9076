"""Checks for notebook 10: a conformal limit, its promise, honest parts, what an alarm is worth."""

from collections.abc import Callable

import numpy as np

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number
from hfld_lite.evaluation.scores import conformal_limit

_RANKS = ((19, 0.2, 16), (6, 0.6, 3), (17, 0.25, 14), (11, 0.3, 9))
"""Parts, a promised share, and the rank of the limit, ⌈(1 − share)(parts + 1)⌉."""


@check
def check_limit_for(limit_for: Callable[[np.ndarray, float], float]) -> str:
    """``limit_for(scores, share)``: the conformal limit, one score of each part."""
    rng = np.random.default_rng(1)
    ordered = [np.cumsum(rng.uniform(0.1, 1, parts)) for parts, *_ in _RANKS]
    shares = [share for _, share, _ in _RANKS]
    found = np.array(
        [
            number(ask(limit_for, rng.permutation(scores), share), "The limit")
            for scores, share in zip(ordered, shares, strict=True)
        ]
    )

    def at(ranks: Callable[[int, float], float]) -> np.ndarray:
        places = [round(ranks(parts, share)) for parts, share, _ in _RANKS]
        return np.array(
            [s[min(place, len(s)) - 1] for s, place in zip(ordered, places, strict=True)]
        )

    quantiles = [np.quantile(s, 1 - share) for s, share in zip(ordered, shares, strict=True)]
    compare(
        found,
        at(lambda parts, share: np.ceil((1 - share) * (parts + 1))),
        {
            "This is a quantile of the scores that were seen. The new part is one more: there are "
            "G + 1 places, so count (1 − share)(G + 1) up.": quantiles,
            "The rank is rounded down; round up, or the promise is broken.": at(
                lambda parts, share: np.floor((1 - share) * (parts + 1))
            ),
            "The rank is rounded to the nearest; round up, or the promise is broken.": at(
                lambda parts, share: np.round((1 - share) * (parts + 1))
            ),
            "The new part is not counted: it is G + 1 and not G.": at(
                lambda parts, share: np.ceil((1 - share) * parts)
            ),
            "This is one rank too high: Python counts from 0.": at(
                lambda parts, share: np.ceil((1 - share) * (parts + 1)) + 1
            ),
            "Counted from the wrong end: defective parts have *large* scores.": at(
                lambda parts, share: np.ceil(share * (parts + 1))
            ),
            "This is always the largest score, whatever the share.": at(lambda parts, _: parts),
        },
        "Sort the scores and take the one with the rank ⌈(1 − share)(G + 1)⌉.",
    )
    return "The new part takes one of G + 1 places, whatever the scores are."


@check
def check_least_promise(least_promise: Callable[[np.ndarray], float]) -> str:
    """``least_promise(groups)``: the smallest share of false alarms that can be promised."""
    groups = np.repeat([f"tile{i:02d}" for i in range(30)], 4)
    found = number(ask(least_promise, groups), "The share")
    compare(
        found,
        1 / 31,
        {
            "Recordings are counted here; four drops of a tile are one part.": 1 / 121,
            "The new part is one more: 1 / (G + 1).": 1 / 30,
            "Recordings are counted here, and the new part is not.": 1 / 120,
            "Give a share and not percent.": 100 / 31,
            "This is G + 1; the share is 1 / (G + 1).": 31,
        },
        "Count the different names, and give 1 / (G + 1).",
    )
    uneven = np.array(["a"] * 7 + ["b"] + ["c"] * 2)
    expect(
        close(number(ask(least_promise, uneven), "The share"), 1 / 4),
        "Right for four drops of each tile, wrong for parts with 7, 1 and 2 recordings.",
    )
    return "30 parts can promise 3.2 %. A promise of 1 % requires 69 more."


@check
def check_honest_limit(
    honest_limit: Callable[[np.ndarray, np.ndarray, np.ndarray, float], float],
) -> str:
    """``honest_limit(values, groups, defective, share)``: some good parts train, others set it."""
    rng = np.random.default_rng(4)
    groups = np.repeat([*(f"g{i:02d}" for i in range(21)), *(f"d{i:02d}" for i in range(6))], 3)
    defective = np.char.startswith(groups, "d")
    values = np.repeat(rng.normal(size=(27, 5)), 3, axis=0) + 0.3 * rng.normal(size=(81, 5))
    values[defective] += 3
    order = rng.permutation(81)
    values, groups, defective = values[order], groups[order], defective[order]
    good = np.unique(groups[~defective])
    first = np.isin(groups, good[: len(good) // 2])
    second = ~first & ~defective

    def limit(trains: np.ndarray, sets: np.ndarray) -> float:
        mean, deviation = values[trains].mean(0), values[trains].std(0)
        scores = np.square((values - mean) / deviation).mean(1)
        return conformal_limit(scores[sets], groups[sets], 0.1)

    rows = np.flatnonzero(~defective)
    by_row = np.zeros_like(defective), np.zeros_like(defective)
    by_row[0][rows[: len(rows) // 2]] = by_row[1][rows[len(rows) // 2 :]] = True
    every = np.ones_like(defective)
    found = number(
        ask(honest_limit, values.copy(), groups.copy(), defective.copy(), 0.1), "The limit"
    )
    compare(
        found,
        limit(first, second),
        {
            "Nothing has changed: defective recordings still train and set the limit, and so do "
            "all good ones.": limit(every, every),
            "The same good recordings train and set the limit; their scores are too small. Let one "
            "half of the parts train and the other half set the limit.": limit(
                ~defective, ~defective
            ),
            "The limit is set by the parts that trained; their scores are too small.": limit(
                first, first
            ),
            "All good parts train, those that set the limit among them.": limit(~defective, second),
            "Defective recordings still train: they count as usual then.": limit(
                first | defective, second
            ),
            "Defective recordings set the limit: it promises something about *good* parts.": limit(
                first, second | defective
            ),
            "The halves are cut between recordings, so drops of one part are on both sides; divide "
            "the names of the parts.": limit(*by_row),
            "The halves are swapped: the first half of the names trains.": limit(second, first),
        },
        "Mean and deviation come from the first half of the good parts (in the order of their "
        "names), the scores that set the limit from the second half.",
    )
    return "Good parts that were not used for training set the limit, and no defect was used."


@check
def check_worth(worth: Callable[[float, float, float], float]) -> str:
    """``worth(false_alarms, misses, share)``: the share of alarms that are defective parts."""
    alarms, misses, share = 0.05, 0.25, 0.01
    hits = share * (1 - misses)
    wrong = (1 - share) * alarms
    compare(
        number(ask(worth, alarms, misses, share), "The share"),
        hits / (hits + wrong),
        {
            "This is the share of defective parts that are found; the question is how many alarms "
            "are defective parts.": 1 - misses,
            "The share of defective parts is left out; this would be so if half of all parts were "
            "defective.": (1 - misses) / (1 - misses + alarms),
            "This is the share of alarms that are good parts.": wrong / (hits + wrong),
            "Misses raise no alarm; the found ones are 1 − misses.": share
            * misses
            / (share * misses + wrong),
            "The shares are turned: π of all parts are defective, 1 − π are good.": (1 - share)
            * (1 - misses)
            / ((1 - share) * (1 - misses) + share * alarms),
            "False alarms are a share of the good parts, not of all.": hits / (hits + alarms),
            "These are all alarms as a share of all parts; divide the right ones by them.": hits
            + wrong,
            "These are the right alarms as a share of all parts; divide by all alarms.": hits,
        },
        "Divide π · (1 − misses) by all alarms, π · (1 − misses) + (1 − π) · false alarms.",
    )
    expect(
        close(number(ask(worth, 0.0, 0.5, 0.2), "The share"), 1.0),
        "Without false alarms every alarm is a defective part.",
    )
    return "At 1 % defective parts, 13 of 100 alarms are real: the others are good parts."
