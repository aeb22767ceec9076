"""Figures of the study alone; the others are in hfld_lite/course/figures.py."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import roc_curve

from hfld_lite.app.style import COLOURS, MARKERS, house_style, words
from hfld_lite.course.figures import WIDE
from hfld_lite.course.studies import METHODS


@house_style()
def chain(networks: pd.DataFrame, alone: float) -> Figure:
    """The chain of networks, drawn by size, with what each of them reached.

    Args:
        networks: rows from teacher to student with ``role``, ``parameters``, ``accuracy``.
        alone: accuracy of the student trained alone.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    halves = np.sqrt(networks["parameters"] / networks["parameters"].max()).to_numpy() / 2
    places = 2.4 * np.arange(len(networks))
    for row, place, half, colour in zip(
        networks.itertuples(), places, halves, COLOURS, strict=False
    ):
        axis.add_patch(Rectangle((place - half, -half), 2 * half, 2 * half, color=colour))
        said = f"{words(row.role)}\n{row.parameters:,} parameters\n{row.accuracy:.1%}"
        axis.text(place, -0.6, said, ha="center", va="top", fontsize=11)
    for i, place in enumerate(places[1:]):
        tail, tip = places[i] + halves[i] + 0.1, place - halves[i + 1] - 0.1
        axis.annotate("", (tip, 0), (tail, 0), arrowprops={"arrowstyle": "->", "linewidth": 2})
        taught = "features and\nseparated logits"
        axis.text((tip + tail) / 2, 0.08, taught, ha="center", fontsize=9)
    said = f"\n\n\n(trained alone: {alone:.1%})"
    axis.text(places[-1], -0.6, said, ha="center", va="top", color="0.3", fontsize=11)
    axis.set(xlim=(-1.1, places[-1] + 1.1), ylim=(-1.5, 0.52), aspect="equal")
    axis.axis("off")
    return figure


@house_style()
def trends(table: pd.DataFrame, label: str) -> Figure:
    """Accuracy of a few methods over one condition, with the deviation over seeds.

    Args:
        table: rows with ``method``, ``x``, ``accuracy`` and ``deviation``.
        label: of x, with its unit.
    """
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    axis = figure.subplots()
    places = {x: i for i, x in enumerate(sorted(table["x"].unique()))}
    # Teachers last and in grey: they are what the others are held against.
    methods = sorted(table["method"].unique(), key=lambda method: "teacher" in method)
    for number, method in enumerate(methods):
        mine = table[table["method"] == method].sort_values("x")
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        if "teacher" in method:
            grey = "0.35" if method == "teacher" else "0.5"
            style = {"color": grey, "marker": "x", "linestyle": "--"}
        axis.errorbar(
            mine["x"].map(places) + 0.06 * (number - (len(methods) - 1) / 2),
            mine["accuracy"],
            yerr=mine["deviation"].fillna(0),
            **style,
            capsize=2,
            label=METHODS.get(method, words(method)),
        )
    axis.set_xticks(list(places.values()), [f"{x:g}" for x in places])
    axis.set(xlabel=label, ylabel="test accuracy,\nmean and deviation over seeds")
    axis.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 2):g}%")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=9, ncols=4, loc="outside upper center")
    return figure


@house_style()
def operating_curves(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], false_alarms: Sequence[float]
) -> Figure:
    """Misses over false alarms as the limit moves (ROC, upside down), one curve for each network.

    Args:
        answers: suspicion ``(n,)`` and whether defective ``(n,)``, by network.
        false_alarms: shares to mark.
    """
    figure = Figure(figsize=(WIDE, 4.4), layout="constrained")
    axis = figure.subplots()
    for (name, (suspicion, defective)), colour, style in zip(
        answers.items(), COLOURS, ("-", "--", "-.", ":"), strict=False
    ):
        alarms, found, _ = roc_curve(np.asarray(defective, bool), suspicion)
        label = METHODS.get(name, words(name))
        axis.plot(alarms, 1 - found, color=colour, linestyle=style, label=label)
    for share in false_alarms:
        axis.axvline(share, color="0.6", linewidth=0.8, linestyle=":")
        axis.text(
            share,
            1.02,
            f"{share:.0%}",
            ha="center",
            fontsize=9,
            transform=axis.get_xaxis_transform(),
        )
    axis.set(
        xlim=(0, 0.2),
        xlabel="false alarms, share of sound recordings",
        ylabel="misses, share of defective recordings",
    )
    curves = [line.get_data() for line in axis.get_lines() if len(line.get_xdata()) > 2]
    axis.set_ylim(0, 1.05 * max(missed[alarms >= 0.005].max() for alarms, missed in curves))
    axis.set_xticks(np.linspace(0, 0.2, 5))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure
