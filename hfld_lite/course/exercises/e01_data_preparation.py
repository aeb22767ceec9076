"""Checks for notebook 01: bins, scaling, dead microphones, honest splits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number, tensor


@check
def check_bin_width(bin_width: float) -> str:
    """Hertz between two bins of the spectrum of 7,000 samples at 40 kHz."""
    found = number(bin_width, "bin_width")
    if close(found, 40 / 7, 0.005):
        return "A bin is 5.71 Hz wide; 3,500 of them reach 20 kHz."
    for value, sentence in {
        20_000 / 7000: "20 kHz are shared among 3,500 bins, not among 7,000 samples: divide the "
        "sample rate by the samples.",
        7000 / 40_000: "That is how long the recording lasts, in seconds; a bin is one turn in "
        "that time, 1 / duration.",
        40_000 / 3500: "A spectrum of 7,000 samples has 3,500 bins up to *half* the sample rate, "
        "not up to 40 kHz.",
        0.04 / 7: "That is in kHz; give the width in hertz.",
    }.items():
        expect(not close(found, value, 0.005), sentence)
    expect(False, f"{found:g} Hz is not right: how many turns does 1 Hz make in 7000/40000 s?")
    return ""


@check
def check_strongest(strongest: Callable[..., Any]) -> str:
    """``strongest(spectra, bin_width)``: frequency of the highest bin of each recording, Hz."""
    spectra = np.zeros((3, 50), np.float32) + 0.1
    spectra[[0, 1, 2], [30, 7, 44]] = 1.0
    found = tensor(ask(strongest, spectra, 5.0), (3,), "What strongest returns")
    right = np.array([150.0, 35.0, 220.0])
    compare(
        found,
        right,
        {
            "These are the numbers of the bins; multiply by the width of a bin.": right / 5,
            "One bin too high: bin 0 is at 0 Hz, so bin k is at k times the width.": right + 5,
            "These are the magnitudes; return the frequency of the highest one.": np.ones(3),
            "Divided by the width of a bin; multiply by it.": right / 25,
        },
        "The frequencies of the highest bins are 150, 35 and 220 Hz in the check's example.",
    )
    return "Bin k is at k times the width of a bin."


@check
def check_min_max(min_max: Callable[..., Any]) -> str:
    """``min_max(magnitudes)``: each recording scaled to [0, 1] by its own minimum and maximum."""
    x = np.random.default_rng(1).gamma(2.0, [[1.0], [5.0], [20.0]], (3, 6)) + 2
    found = tensor(ask(min_max, x.copy()), (3, 6), "What min_max returns")

    def scaled(low: Any, high: Any) -> np.ndarray:
        return (x - low) / (high - low)

    rows = scaled(x.min(1, keepdims=True), x.max(1, keepdims=True))
    compare(
        found,
        rows,
        {
            "All recordings are scaled together: a quiet drop then looks small beside a loud one. "
            "Scale each by its own range, along axis 1.": scaled(x.min(), x.max()),
            "The wrong axis: each bin is scaled over the recordings, so a recording's input "
            "depends on the others. Scale along axis 1.": scaled(x.min(0), x.max(0)),
            "The minimum is not subtracted; divide (x − min) by (max − min).": x
            / x.max(1, keepdims=True),
            "Divided by the maximum; the range is max − min.": (x - x.min(1, keepdims=True))
            / x.max(1, keepdims=True),
            "That gives mean 0 and deviation 1; scale to the range 0 to 1.": (
                x - x.mean(1, keepdims=True)
            )
            / x.std(1, keepdims=True),
        },
        "Each recording must reach from exactly 0 to exactly 1.",
    )
    return "A loud drop and a quiet one look alike now."


@check
def check_usable(usable: Callable[..., Any]) -> str:
    """``usable(signals)``: True for recordings that can be scaled, ``(n,)``."""
    x = np.random.default_rng(2).standard_normal((7, 20))
    x[1], x[2], x[3, 4], x[5, 0] = 0.0, 0.3, np.nan, np.inf
    x[6] = np.where(np.arange(20) == 3, 1.0, 0.0)
    found = np.asarray(tensor(ask(usable, x), (7,), "What usable returns"))
    expect(
        found.dtype == bool and found.any(),
        "Return a truth value for each recording: True where it can be used.",
    )
    right = np.array([True, False, False, False, True, False, True])
    expect(
        not np.array_equal(found, ~right), "Reversed: return True for recordings that can be used."
    )
    for row, sentence in {
        1: "A recording of zeros passes: a dead microphone. Its range is 0, and 0/0 is NaN.",
        2: "A recording that is 0.3 throughout passes. It is constant, too, only not zero: compare "
        "its minimum with its maximum.",
        3: "A recording with a NaN in it passes; np.isfinite finds it.",
        5: "A recording with an infinite value passes; np.isfinite finds NaN and infinity alike.",
        6: "A single click in silence is refused; it is not constant.",
    }.items():
        expect(found[row] == right[row], sentence)
    expect(np.array_equal(found, right), "A good recording is refused.")
    return "Recordings that would become NaN in the loss are found before training."


@check
def check_split_tiles(split_tiles: Callable[..., Any]) -> str:
    """``split_tiles(groups, share, seed)``: rows to train and to test on, no tile in both."""
    groups = np.random.default_rng(3).permutation(np.repeat(np.arange(40), 4))
    train, test = _two(ask(split_tiles, groups, 0.25, 0))
    expect(
        not set(train) & set(test),
        "The same recording is on both sides; each row belongs to one part.",
    )
    expect(
        not set(groups[train]) & set(groups[test]),
        "Leakage between splits: a tile has recordings on both sides. Draw tiles, not recordings.",
    )
    expect(
        len(train) + len(test) == len(groups),
        f"{len(groups) - len(train) - len(test)} recordings are lost; each belongs to a part.",
    )
    expect(
        len(test) != 120, "The parts are exchanged: return the training rows first, then the test."
    )
    expect(
        len(test) == 40,
        f"The test part has {len(test)} of 160 recordings; a share of 0.25 of the tiles has 40.",
    )
    again = _two(ask(split_tiles, groups, 0.25, 0))[1]
    expect(set(again) == set(test), "The same seed must give the same split; draw with it.")
    other = _two(ask(split_tiles, groups, 0.25, 1))[1]
    expect(
        set(other) != set(test),
        "Another seed gives the same split: the tiles are not drawn at random. Use "
        "np.random.default_rng(seed).",
    )
    return "No tile is on both sides."


@check
def check_honest_report(honest_report: Callable[..., tuple[int, float]]) -> str:
    """The mended report: tiles apart, k chosen on validation rows, test rows read once."""
    groups = np.repeat(np.arange(40), 4)
    for seed in range(3):
        _judge_report(honest_report, groups, seed)
    return "No tile is on both sides, and the test part was read once, after the choice."


def _judge_report(honest_report: Callable[..., Any], groups: np.ndarray, seed: int) -> None:
    """Give a made-up score to every question, and look at what was asked."""
    asked: list[tuple[int, frozenset, frozenset, float]] = []
    luck = np.random.default_rng(100 + seed).normal(0, 0.1, (10, 40))

    def score(k: int, train: Sequence[int], rows: Sequence[int]) -> float:
        train, rows = np.asarray(train), np.asarray(rows)
        tiles = np.unique(groups[rows])
        value = float(0.8 + luck[k][tiles].mean())
        asked.append((k, frozenset(train.tolist()), frozenset(rows.tolist()), value))
        return value

    answer = ask(honest_report, groups, score, seed)
    expect(
        isinstance(answer, tuple) and len(answer) == 2,
        "honest_report must return two values: k and its accuracy on the test part.",
    )
    expect(asked, "score was never called, so the accuracy is made up.")
    k, accuracy = int(answer[0]), number(answer[1], "The accuracy")

    def tiles(rows: frozenset) -> set:
        return set(groups[sorted(rows)].tolist())

    expect(
        not any(tiles(train) & tiles(rows) for _, train, rows, _ in asked),
        "Leakage between splits: tiles of the training part are scored as well. Draw tiles, "
        "not recordings.",
    )
    final = [rows for one, _, rows, value in asked if one == k and value == accuracy]
    expect(final, "The reported accuracy is not what score returned for the chosen k.")
    test = final[-1]
    with_test = {one for one, _, rows, _ in asked if rows & test}
    expect(
        len(with_test) == 1,
        "Chosen on the test part: the rows whose accuracy you report were scored for several k. "
        "Choose k on a validation part; read the test part once.",
    )
    choosing = {one: value for one, _, rows, value in asked if not rows & test}
    expect(len(choosing) == 4, "Try all four k, 1, 3, 5 and 7, on the validation part.")
    validation = set().union(*(rows for _, _, rows, _ in asked if not rows & test))
    expect(
        not tiles(frozenset(validation)) & tiles(test),
        "A tile is in the validation part and in the test part.",
    )
    expect(
        choosing[k] == max(choosing.values()),
        "The reported k is not the best on validation.",
    )


def _two(answer: Any) -> tuple[np.ndarray, np.ndarray]:
    expect(
        isinstance(answer, tuple | list) and len(answer) == 2,
        "split_tiles must return two arrays of row numbers, training and test.",
    )
    parts = tuple(np.asarray(part) for part in answer)
    expect(
        all(part.ndim == 1 and part.dtype.kind in "iu" and part.size for part in parts),
        "Each part must be a row of whole numbers, the places of its recordings in groups.",
    )
    return parts
