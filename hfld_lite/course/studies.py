"""The studies' tables in words: what each method and each data set is called in a notebook."""

import pandas as pd

METHODS = {
    "alone": "student alone",
    "kd": "plain KD",
    "fitnet": "FitNet",
    "attention": "attention transfer",
    "dkd": "decoupled KD",
    "standardised": "KD, logits standardised",
    "matching": "feature matching only",
    "assistant": "teacher assistant",
    "dense": "dense guidance",
    "random search": "HFLKD, weights by random search",
    "direct": "HFLKD from the teacher",
    "hierarchy": "HFLKD through the chain",
    "without feature": "HFLKD without feature matching",
    "without tckd": "HFLKD without TCKD",
    "without nckd": "HFLKD without NCKD",
    "without cross-entropy": "HFLKD without cross-entropy",
    "without hierarchy": "HFLKD, same weights, no chain",
    "weights published": "HFLKD, random frozen PVPN",
    "weights naive": "HFLKD, PVPN trained naively",
    "weights uncertainty": "HFLKD, PVPN by uncertainty",
    "weights meta": "HFLKD, PVPN by meta-gradients",
    "weights trusted": "HFLKD, trusted weights",
    "one-to-one": "HFLKD, one-to-one matching",
    "heads 1": "HFLKD with one head",
    "without 1/sqrt(d)": "HFLKD without 1/√d",
    "temperature 1": "HFLKD at T = 1",
    "temperature 5": "HFLKD at T = 5",
    "temperature 10": "HFLKD at T = 10",
    "temperature 20": "HFLKD at T = 20",
    "pseudo-labels": "pseudo-labels",
    "teacher": "teacher",
    "secondary_teacher": "secondary teacher",
    "assistant_teacher": "assistant teacher",
    "normalised": "KD, normalised features",
    "ensemble": "KD from three teachers",
    "born again": "KD, self-distilled teacher",
    "kd long": "plain KD, four times the steps",
    "patient": "KD, four times the steps, varied",
    "alone long": "alone, four times the steps",
    "alone varied": "alone, four times, varied",
}
"""The studies' methods in words."""

DATA = {
    "tiles": "tiles",
    "tiles again": "tiles, final run",
    "bearings block": "known bearings, −6 dB",
    "bearings block clean": "known bearings, clean",
    "bearings load": "another load, −6 dB",
    "bearings load clean": "another load, clean",
    "bearings size": "another fault size, −6 dB",
    "bearings size clean": "another fault size, clean",
    **{f"tiles {kind}": f"tiles of type {kind} only" for kind in "ABC"},
    **{f"tiles unseen {n}": f"type C, {n} % of it labelled" for n in (0, 1, 5, 10)},
    **{f"tiles {n} dB": f"tiles, noise {n} dB".replace("-", "−") for n in (20, 10, 0, -10)},
    **{f"tiles {n} % labels": f"tiles, {n} % of labels" for n in (5, 10, 25, 50)},
    **{f"tiles width 1/{n}": f"tiles, student of width 1/{n}" for n in (2, 4, 8)},
    **{f"bearings width 1/{n}": f"bearings, student of width 1/{n}" for n in (4, 8)},
}
"""The first study's data in words."""


def in_points(rows: pd.DataFrame, base: str = "alone") -> pd.Series:
    """Differences from a method with their intervals, in points: ``+1.4 (+0.3 to +2.4)``.

    Args:
        rows: of a study's table, with ``against_BASE``, ``low_BASE`` and ``high_BASE``, or with
            ``difference``, ``low`` and ``high`` if ``base`` is empty; shares of 1.
        base: the method that all are compared with.
    """
    names = (f"against_{base}", f"low_{base}", f"high_{base}")
    ends = (100 * rows[list(names if base else ("difference", "low", "high"))]).to_numpy()
    said = [
        "" if pd.isna(middle) else f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
        for middle, low, high in ends
    ]
    return pd.Series(said, rows.index)


def in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with methods and data in words; a name without words is an error of ours.

    Args:
        rows: of a study's table; its columns data, method, better and than are replaced.
    """
    words = METHODS | DATA
    named = [name for name in ("data", "method", "better", "than") if name in rows]
    return rows.assign(**{name: [words[value] for value in rows[name]] for name in named})
