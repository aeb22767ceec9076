"""Wrong answers to the exercises of notebook 01, and the sentence that each must bring."""

import numpy as np


def by_recording(groups, share, seed):
    """The split that leaks."""
    rows = np.random.default_rng(seed).permutation(len(groups))
    return rows[round(share * len(rows)) :], rows[: round(share * len(rows))]


def by_tile(groups, share, seed, *, drop=0, swap=False):
    """The split by tile, with a choice of mistakes."""
    tiles = np.unique(groups)
    if seed is not None:
        tiles = np.random.default_rng(seed).permutation(tiles)
    test = np.isin(groups, tiles[: round(share * len(tiles))])
    parts = np.flatnonzero(~test)[drop:], np.flatnonzero(test)
    return parts[::-1] if swap else parts


def report(groups, score, seed, *, leak=False, validate=True, say="test", choose=max):
    """The report with a choice of mistakes."""
    units = np.arange(len(groups)) if leak else groups
    drawn = np.random.default_rng(seed).permutation(np.unique(units))
    quarter = len(drawn) // 4
    test, validation, train = (
        np.flatnonzero(np.isin(units, part))
        for part in (drawn[:quarter], drawn[quarter : 2 * quarter], drawn[2 * quarter :])
    )
    on = validation if validate else test
    found = {k: score(k, train, on) for k in (1, 3, 5, 7)}
    best = choose(found, key=found.get)
    return best, score(best, train, test) if say == "test" and validate else found[best]


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "bin_width": [
        (2.857, "3,500 bins"),
        (0.175, "how long"),
        (11.43, "half"),
        (0.00571, "kHz"),
        ("5.71 Hz", "a number is asked for"),
        (7, "is not right"),
    ],
    "strongest": [
        (lambda x, w: x.argmax(1), "numbers of the bins"),
        (lambda x, w: (x.argmax(1) + 1) * w, "One bin too high"),
        (lambda x, w: x.max(1), "magnitudes"),
        (lambda x, w: x.argmax(0) * w, "has shape"),
    ],
    "min_max": [
        (lambda x: (x - x.min()) / (x.max() - x.min()), "scaled together"),
        (lambda x: (x - x.min(0)) / (x.max(0) - x.min(0)), "wrong axis"),
        (lambda x: x / x.max(1, keepdims=True), "minimum is not subtracted"),
        (lambda x: (x - x.mean(1)[:, None]) / x.std(1)[:, None], "mean 0 and deviation 1"),
    ],
    "usable": [
        (lambda x: np.isfinite(x).all(1), "dead microphone"),
        (lambda x: np.isfinite(x).all(1) & x.any(1), "0.3 throughout"),
        (lambda x: ~np.isnan(x).any(1) & (x.min(1) != x.max(1)), "infinite value"),
        (lambda x: ~(np.isfinite(x).all(1) & (x.min(1) != x.max(1))), "Reversed"),
        (lambda x: np.isfinite(x) & (x != 0), "has shape"),
    ],
    "split_tiles": [
        (by_recording, "Leakage between splits"),
        (lambda g, share, seed: by_tile(g, share, None), "Another seed"),
        (lambda g, share, seed: by_tile(g, share, seed, drop=3), "are lost"),
        (lambda g, share, seed: by_tile(g, share, seed, swap=True), "exchanged"),
        (lambda g, share, seed: by_tile(g, 0.5, seed), "share of 0.25"),
        (lambda g, share, seed: by_tile(g, share, np.random.default_rng()), "same seed"),
    ],
    "honest_report": [
        (lambda *a: report(*a, leak=True, validate=False), "Leakage between splits"),
        (lambda *a: report(*a, leak=True), "Leakage between splits"),
        (lambda *a: report(*a, validate=False), "Chosen on the test part"),
        (lambda *a: report(*a, say="validation"), "Chosen on the test part"),
        (lambda *a: report(*a, choose=min), "not the best"),
        (lambda *a: (3, 0.99), "never called"),
    ],
}
