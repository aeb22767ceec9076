"""What notebook 10 shows: scores of good and hidden recordings, a limit, and what it costs.

As in :mod:`hfld_lite.course.widgets`, one function computes, another draws, the widget connects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from ipywidgets import SelectionSlider
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from hfld_lite.app.style import COLOURS, house_style, plain_log
from hfld_lite.course.figures import WIDE
from hfld_lite.course.widgets import _LAYOUT, _WIDE, Explorer, choice
from hfld_lite.evaluation.metrics import accuracy_interval
from hfld_lite.evaluation.scores import conformal_limit, values

if TYPE_CHECKING:
    from hfld_lite.data.recordings import Recordings
    from hfld_lite.evaluation.good_parts import GoodParts

KINDS = {
    ("spectrum", "spectrum"): "plain distance of the spectrum",
    ("features", "teacher"): "features of the teacher",
    ("features", "secondary_teacher"): "features of the secondary teacher",
    ("features", "student"): "features of the student",
    ("matching", "matching"): "failure to match the teachers",
    ("autoencoder", "autoencoder"): "error of an autoencoder",
}
"""Plain names of the scores, by the library's score and role."""

SEVERITIES = ("all defects", "the smallest third", "the middle third", "the largest third")


class Rates(NamedTuple):
    """A limit, and what it does to hidden recordings: shares with their 95 % intervals."""

    limit: float
    false_alarms: tuple[float, float, float]
    misses: tuple[float, float, float]


def scored(found: GoodParts, recordings: Recordings, rows: np.ndarray) -> pd.DataFrame:
    """Scores s = mean(z²) of recordings, a column for each name in KINDS.

    Args:
        found: of :func:`hfld_lite.evaluation.good_parts.train_good`.
        recordings, rows: what to score.

    Returns:
        The columns ``group`` and ``defective``, and the scores.
    """
    inputs = found.chain.examples.samples(rows).inputs
    known = {"group": recordings.groups[rows], "defective": recordings.labels[rows] == 1}
    return pd.DataFrame(
        known
        | {
            name: values(found.networks[score][role].body, inputs)
            for (score, role), name in KINDS.items()
        }
    )


def at_promise(
    limit_setting: pd.DataFrame, hidden: pd.DataFrame, score: str, promised: float
) -> Rates:
    """Set a limit by good recordings, and measure it on hidden ones.

    Args:
        limit_setting: of :func:`scored`, good recordings only.
        hidden: of :func:`scored`, good and defective recordings.
        score: a column of both.
        promised: share of false alarms, from 1 / (groups + 1) to below 1.

    Raises:
        ArgumentError: if the groups cannot promise this share.
    """
    limit = conformal_limit(limit_setting[score], limit_setting["group"], promised)
    rates = []
    for part, wrong in (
        (hidden[~hidden["defective"]], lambda s: s > limit),
        (hidden[hidden["defective"]], lambda s: s <= limit),
    ):
        right = ~wrong(part[score].to_numpy())
        low, high = accuracy_interval(right, part["group"].to_numpy())
        rates.append((float(1 - right.mean()), 1 - high, 1 - low))
    return Rates(limit, *rates)


@house_style()
def histograms(
    parts: Mapping[str, np.ndarray],
    line: float | Sequence[float],
    xlabel: str,
    said: str = "limit",
    log: bool = True,
) -> Figure:
    """A histogram below the other for each part, on one axis, with a line across.

    Args:
        parts: values ``(n,)`` by the name of the part; defective ones have "defective" in it.
        line: where a line stands, the same in all or one for each part.
        xlabel: what the values are.
        said: what the line is.
        log: a logarithmic axis, for scores; otherwise shares in percent.
    """
    figure = Figure(figsize=(WIDE, 0.5 + 0.85 * len(parts)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(parts), 1, sharex=True))
    every = np.concatenate([np.ravel(each) for each in parts.values()])
    low, high = every.min(), every.max()
    # Networks with more values than training recordings give training scores of almost zero.
    low = max(low, high / 1e5) if log else 0
    edges = np.geomspace(low, 1.05 * high, 50) if log else np.linspace(0, 1.02 * high, 50)
    lines = np.broadcast_to(line, len(parts))
    for axis, (name, each), at in zip(axes, parts.items(), lines, strict=True):
        bad = "defective" in name
        style = {"facecolor": (COLOURS[bad], 0.35), "hatch": "//" if bad else ""}
        axis.hist(np.clip(each, low, None), edges, histtype="stepfilled", edgecolor=COLOURS[bad],
                  linewidth=1.5, **style)  # fmt: skip
        drawn = axis.axvline(at, color="black")
        axis.set_title(name, loc="left", fontsize=9)
        axis.yaxis.set_major_locator(NullLocator())
    figure.legend([drawn], [said], fontsize=9, loc="outside lower center")
    axes[-1].set_xlabel(xlabel)
    if log:
        axes[-1].set_xscale("log")
        plain_log(axes[-1].xaxis)
        axes[-1].xaxis.set_minor_locator(NullLocator())
    else:
        axes[-1].xaxis.set_major_formatter(PercentFormatter(1, 0))
    return figure


@house_style()
def gaps(scores: Sequence[float]) -> Figure:
    """Scores of a few good parts on a line, and the gaps that a new one falls into equally often.

    Args:
        scores: ``(n,)``, one of each part, all different.
    """
    at = np.sort(scores)
    step = np.diff(at).mean()
    ends = np.concatenate([[at[0] - step], at, [at[-1] + step]])
    figure = Figure(figsize=(WIDE, 1.5), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(at[-1], ends[-1], facecolor=(COLOURS[1], 0.25), edgecolor=COLOURS[1], hatch="//")
    axis.plot(at, np.zeros(len(at)), "o", color=COLOURS[0], markersize=9)
    for left, right in pairwise(ends):
        axis.text((left + right) / 2, 0.45, f"1/{len(at) + 1}", ha="center", fontsize=10,
                  backgroundcolor="white")  # fmt: skip
    axis.axvline(at[-1], color="black")
    axis.text(at[-1], 1.04, "limit", ha="center", transform=axis.get_xaxis_transform(), fontsize=9)
    axis.set(xlim=(ends[0], ends[-1]), ylim=(-0.5, 1), xlabel="score of a good part")
    axis.xaxis.set_major_locator(FixedLocator(at))
    axis.yaxis.set_major_locator(NullLocator())
    return figure


@house_style()
def correlated(good: np.ndarray, other: np.ndarray) -> Figure:
    """Two values of good parts, one other part, and the curves of equal distance.

    Args:
        good: ``(n, 2)``.
        other: ``(2,)``.
    """
    figure = Figure(figsize=(WIDE, 3.2), layout="constrained")
    mean, covariance = good.mean(0), np.cov(good.T, bias=True)
    axis = figure.subplots()
    x, y = np.meshgrid(
        *[mean[i] + np.linspace(-5, 5, 101) * np.sqrt(covariance[i, i]) for i in (0, 1)]
    )
    offset = np.stack([x, y], 2) - mean
    distance = np.einsum("abi,ij,abj->ab", offset, np.linalg.inv(covariance), offset) / 2
    axis.contour(x, y, distance, [1, 4, 9], colors="0.35", linewidths=1)
    axis.set_title("curves: s = 1, 4 and 9", fontsize=9)
    axis.plot(*good.T, "o", color=COLOURS[0], label="good part")
    axis.plot(*other, "X", color=COLOURS[1], markersize=11, label="new part")
    axis.set(xlabel="level in band 1, dB", ylabel="level in band 2, dB")
    axis.set_aspect("equal")
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(fontsize=9, ncols=2, loc="outside lower center")
    return figure


@house_style()
def failures(good: np.ndarray, defective: np.ndarray) -> Figure:
    """How far a student misses its teacher's features, at each position.

    Args:
        good, defective: mean squared failure ``(n, positions)`` of recordings.
    """
    figure = Figure(figsize=(WIDE, 2.6), layout="constrained")
    axis = figure.subplots()
    at = np.arange(good.shape[1])
    for name, part, colour, marker, shift in (
        ("good", good, COLOURS[0], "o", -0.12),
        ("defective", defective, COLOURS[1], "s", 0.12),
    ):
        low, middle, high = np.quantile(part, (0.1, 0.5, 0.9), axis=0)
        bars = np.abs(np.stack([low, high]) - middle)
        axis.errorbar(at + shift, middle, bars, fmt=marker, color=colour, capsize=3, label=name)
    axis.set(xlabel="position of the teacher's features", ylabel="failure to match", ylim=(0, None))
    axis.xaxis.set_major_locator(FixedLocator(at))
    axis.grid(alpha=0.3, axis="y")
    figure.legend(fontsize=9, ncols=2, loc="outside lower center")
    return figure


@house_style()
def promise(hidden: pd.DataFrame, score: str, promised: float, rates: Rates) -> Figure:
    """Scores of hidden recordings on either side of a limit; promised and measured shares.

    Args:
        hidden: of :func:`scored`.
        score: a column of it.
        promised: share of false alarms.
        rates: of :func:`at_promise`.
    """
    figure = Figure(figsize=(WIDE, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    scores, bad = hidden[score].to_numpy(), hidden["defective"].to_numpy()
    edges = np.geomspace(scores[~bad].min(), max(scores.max(), 1.2 * rates.limit), 36)
    for name, rows, colour, hatch in (
        ("good", ~bad, COLOURS[0], ""),
        ("defective", bad, COLOURS[1], "//"),
    ):
        style = {"edgecolor": colour, "facecolor": (colour, 0.35), "hatch": hatch, "linewidth": 1.5}
        weights = np.full(rows.sum(), 1 / rows.sum())
        left.hist(scores[rows], edges, histtype="stepfilled", weights=weights, label=name, **style)
    left.axvline(rates.limit, color="black")
    left.text(rates.limit, 1.02, "limit", ha="center", transform=left.get_xaxis_transform(),
              fontsize=9)  # fmt: skip
    left.set(xscale="log", xlabel="score (log)", ylabel="share of recordings")
    plain_log(left.xaxis)
    left.xaxis.set_minor_locator(NullLocator())  # slow to draw
    left.yaxis.set_major_locator(NullLocator())
    for at, (share, low, high) in enumerate((rates.false_alarms, rates.misses)):
        bars = np.maximum([[share - low], [high - share]], 0)
        right.errorbar(
            [share], [at], xerr=bars, fmt="os"[at], color=COLOURS[at], capsize=4, markersize=7
        )
    right.plot([promised, promised], [-0.3, 0.3], color="black", linestyle="--")
    right.text(promised, -0.38, "promised", ha="left", va="bottom", fontsize=9)
    right.set(xlim=(-0.02, 1.02), ylim=(1.5, -0.7), xlabel="share of hidden recordings")
    right.set_yticks([0, 1], ["false alarms", "misses"])
    right.xaxis.set_major_formatter(PercentFormatter(1, 0))
    right.grid(alpha=0.3, axis="x")
    figure.legend(*left.get_legend_handles_labels(), fontsize=9, ncols=2, loc="outside lower left")
    return figure


def of_severity(hidden: pd.DataFrame, which: str) -> pd.DataFrame:
    """All good recordings, and the defective ones of a third of the severities.

    Args:
        hidden: of :func:`scored`, with a column ``severity``.
        which: one of SEVERITIES.
    """
    place = SEVERITIES.index(which)
    if not place:
        return hidden
    severity = hidden["severity"].where(hidden["defective"])
    third = np.ceil(3 * severity.rank(pct=True, method="first"))
    return hidden[~hidden["defective"] | (third == place)]


def explore_promise(limit_setting: pd.DataFrame, hidden: pd.DataFrame) -> Explorer:
    """Score, promised false alarms, severity → the limit, and what it does to hidden recordings.

    Args:
        limit_setting: of :func:`scored`, good recordings only.
        hidden: of :func:`scored`, with a column ``severity``.
    """
    scores = [name for name in KINDS.values() if name in hidden]
    groups = limit_setting["group"].nunique()
    percents = [p for p in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40) if p / 100 >= 1 / (groups + 1)]

    def draw(score: str, percent: int, severity: str) -> tuple[Figure, str]:
        part = of_severity(hidden, severity)
        rates = at_promise(limit_setting, part, score, percent / 100)
        counts = part["defective"].value_counts()
        alarms, misses = (
            f"{share:.0%} ({low:.0%} to {high:.0%})"
            for share, low, high in (rates.false_alarms, rates.misses)
        )
        alt = (
            f"{score.capitalize()}, promised false alarms {percent} %: the limit is "
            f"{rates.limit:.3g}. False alarms on {counts[False]} hidden good recordings: {alarms}. "
            f"Missed of {counts[True]} hidden defective recordings ({severity}): {misses}"
        )
        figure = promise(part, score, percent / 100, rates)
        figure.suptitle(alt.replace(" False", "\nFalse").replace(" Missed", "\nMissed"), fontsize=9)
        return figure, alt

    controls = {
        "score": choice("score", scores),
        "percent": SelectionSlider(
            options=[(f"{p} %", p) for p in percents],
            value=5,
            description="promised false alarms",
            style=_WIDE,
            layout=_LAYOUT,
        ),
        "severity": choice("severity", SEVERITIES),
    }
    return Explorer(draw, controls)
