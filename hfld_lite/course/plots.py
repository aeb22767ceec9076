"""Figures, each a function of plain data: one style, units on the axes, safe for colour-blind eyes.

Every function returns a matplotlib Figure that belongs to no window; `png` turns it into bytes.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox
from sklearn.metrics import roc_curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, without black and yellow (too pale on white)."""

MARKERS = "osD^vP"
FAR = 5.0
"""Points of accuracy that a forest plot shows to either side."""

TERM_LABELS = {
    "feature": "feature matching",
    "tckd": "TCKD",
    "nckd": "NCKD",
    "cross_entropy": "cross-entropy",
}


_drawing = Lock()
"""Matplotlib is not made for several threads, and a monitor draws in its own."""


def png(figure: Figure, dpi: int = 110, known: dict[tuple, list[Bbox]] | None = None) -> bytes:
    """The figure as the bytes of a PNG file.

    Args:
        figure: with its layout still to be found.
        dpi: dots per inch.
        known: for pictures that follow one another: where the axes of the earlier ones stand, of
            each kind of figure; new kinds are added. To find a layout takes half of the time, and
            axes that stay where they are are easier on the eye.
    """
    buffer = BytesIO()
    with _drawing:
        if known is None:
            figure.savefig(buffer, format="png", dpi=dpi)
        else:
            figure.set_dpi(dpi)
            canvas = FigureCanvasAgg(figure)
            _lay_out(figure, known)
            # savefig would draw twice, to find the layout.
            canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _lay_out(figure: Figure, known: dict[tuple, list[Bbox]]) -> None:
    axes = [
        (
            axis.get_title().count("\n") if axis.get_title() else -1,
            max((len(label.get_text()) for label in axis.get_yticklabels()), default=0),
        )
        for axis in figure.axes
    ]
    title = figure.get_suptitle()
    kind = (*figure.get_size_inches(), title.count("\n") if title else -1, *axes)
    if kind not in known:
        figure.get_layout_engine().execute(figure)
        known[kind] = [axis.get_position() for axis in figure.axes]
    figure.set_layout_engine("none")
    for axis, box in zip(figure.axes, known[kind], strict=True):
        axis.set_position(box)


def spectra(
    inputs: np.ndarray, labels: np.ndarray, class_names: Sequence[str], bin_width: float
) -> Figure:
    """What the networks read: the mean spectrum of each class and the middle 80 % of recordings.

    Args:
        inputs: spectra ``(n, bins)``, scaled to [0, 1].
        labels: classes ``(n,)``.
        class_names: one panel each.
        bin_width: Hz.
    """
    rows = int(np.ceil(len(class_names) / 2))
    figure = Figure(figsize=(10, 1.7 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    khz = np.arange(inputs.shape[1]) * bin_width / 1000
    for axis, label in zip(axes, range(len(class_names)), strict=False):
        chosen = np.asarray(inputs)[np.asarray(labels) == label]
        if len(chosen):
            low, high = np.quantile(chosen, (0.1, 0.9), axis=0)
            axis.fill_between(khz, low, high, color=COLOURS[4], label="middle 80 %")
            axis.plot(khz, chosen.mean(0), color=COLOURS[0], linewidth=1, label="mean")
        axis.set_title(class_names[label], fontsize=10)
    for axis in axes[len(class_names) :]:
        axis.remove()
    axes[0].legend(fontsize=8)
    figure.supxlabel("frequency in kHz")
    figure.supylabel("magnitude, scaled to [0, 1]")
    return figure


def curves(history: pd.DataFrame) -> Figure:
    """Loss terms of each role over the epochs, and the validation accuracy of all.

    Args:
        history: rows of epochs with ``role``, the terms, ``validation_accuracy``.
    """
    roles = list(history["role"].unique())
    rows = (len(roles) + 1) // 2
    figure = Figure(figsize=(10, 2.9 * (rows + 1)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, 2)
    for place, role in enumerate(roles):
        axis = figure.add_subplot(grid[divmod(place, 2)])
        mine = history[history["role"] == role]
        for name, colour, marker in zip(TERM_LABELS, COLOURS, MARKERS, strict=False):
            if name in mine and mine[name].notna().any():
                axis.plot(
                    mine["epoch"],
                    mine[name],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    label=TERM_LABELS[name],
                )
        axis.set(title=_words(role), xlabel="epoch", ylabel="training loss (log)", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axis = figure.add_subplot(grid[rows, :])
    for role, colour, marker in zip(roles, COLOURS, MARKERS, strict=False):
        mine = history[history["role"] == role]
        share = mine["epoch"] / mine["epoch"].max()
        axis.plot(
            share,
            mine["validation_accuracy"],
            color=colour,
            marker=marker,
            markersize=4,
            label=_words(role),
        )
    axis.set(xlabel="share of the training", ylabel="validation accuracy")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure


def live(history: pd.DataFrame, planned: Mapping[str, int]) -> Figure:
    """A training that is under way: loss and validation accuracy so far, role after role.

    Args:
        history: rows of epochs with ``role``, ``total``, ``validation_accuracy``; may be empty.
        planned: epochs of each role, in the order of training.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    begin = 0
    for (role, epochs), colour, marker in zip(planned.items(), COLOURS, MARKERS, strict=False):
        mine = history[history["role"] == role] if len(history) else history
        if len(mine):
            style = {"color": colour, "marker": marker, "markersize": 3, "label": _words(role)}
            loss.plot(begin + mine["epoch"], mine["total"], **style)
            accuracy.plot(begin + mine["epoch"], mine["validation_accuracy"], **style)
        begin += epochs
        for axis in (loss, accuracy):
            axis.axvline(begin, color="0.8", linewidth=0.8)
    loss.set(ylabel="training loss (log)", yscale="log", xlim=(0, begin + 0.5))
    accuracy.set(ylabel="validation accuracy", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    figure.supxlabel("epochs, all networks one after the other", fontsize=10)
    for axis in (loss, accuracy):
        axis.grid(alpha=0.3)
    if len(history):
        known = accuracy.get_legend_handles_labels()
        figure.legend(*known, fontsize=8, ncols=6, loc="outside upper center")
    return figure


def confusions(matrices: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Confusion matrices, two in a row: rows are true classes, columns predicted ones.

    Args:
        matrices: counts ``(classes, classes)`` by role.
        class_names: names of rows and columns.
    """
    side, rows = 1.9 + 0.34 * len(class_names), (len(matrices) + 1) // 2
    columns = min(2, len(matrices))
    figure = Figure(figsize=(side * columns, (side + 0.5) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = grid.ravel()[: len(matrices)]
    for axis in grid.ravel()[len(matrices) :]:
        axis.remove()
    ticks = np.arange(len(class_names))
    for axis, (role, counts) in zip(axes, matrices.items(), strict=True):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for true, predicted in np.argwhere(counts):
            axis.text(
                predicted,
                true,
                str(counts[true, predicted]),
                ha="center",
                va="center",
                fontsize=8,
                color=_ink(shown.to_rgba(shares[true, predicted])),
            )
        errors = counts.sum() - np.trace(counts)
        axis.set_title(f"{_words(role)}\n{errors} of {counts.sum()} wrong", fontsize=10)
        axis.set_xticks(ticks, class_names, rotation=90, fontsize=8)
        axis.set_yticks(ticks, class_names, fontsize=8)
    figure.supxlabel("predicted class")
    figure.supylabel("true class")
    return figure


def size_against_accuracy(table: pd.DataFrame) -> Figure:
    """Test accuracy with its 95 % interval over the number of parameters, a point for each role.

    Args:
        table: rows with ``role``, ``parameters``, ``accuracy``, ``low``, ``high``.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    seen: dict[int, int] = {}
    for row, colour, marker in zip(table.itertuples(), COLOURS, MARKERS, strict=False):
        # Student and student alone have the same size; moved apart, both can be seen.
        shift = 1.12 ** seen.setdefault(row.parameters, 0)
        seen[row.parameters] += 1
        axis.errorbar(
            row.parameters * shift,
            row.accuracy,
            yerr=[[row.accuracy - row.low], [row.high - row.accuracy]],
            color=colour,
            marker=marker,
            markersize=8,
            capsize=4,
            linestyle="none",
            label=_words(row.role),
        )
    axis.set(xscale="log", xlabel="parameters", ylabel="test accuracy, 95 % interval")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    figure.legend(fontsize=9, loc="outside right center")  # inside it would hide an interval
    return figure


def bytes_by_part(table: pd.DataFrame) -> Figure:
    """Where the bytes of a network are: a bar for each part.

    Args:
        table: of :func:`hfld_lite.edge.analysis.sizes`.
    """
    parts = table[table["part"] != "total"].iloc[::-1]
    figure = Figure(figsize=(7, 0.4 * len(parts) + 1.2), layout="constrained")
    axis = figure.subplots()
    kilobytes = parts["int8_bytes"] / 1000
    bars = axis.barh(parts["part"], kilobytes, color=COLOURS[0])
    shares = kilobytes / kilobytes.sum()
    texts = [f"{x:,.1f} kB, {share:.0%}" for x, share in zip(kilobytes, shares, strict=True)]
    axis.bar_label(bars, texts, padding=3, fontsize=9)
    axis.margins(x=0.25)
    axis.set_xlabel("kB in INT8, batch norm folded")
    return figure


def memory_by_operator(peaks: Mapping[str, Sequence[tuple[str, str, int]]]) -> Figure:
    """Bytes of the activations alive while each operator runs, a panel for each precision.

    Args:
        peaks: by precision, (name, kind, bytes) of the operators in their order.
    """
    figure = Figure(figsize=(8, 2.2 * len(peaks) + 0.6), layout="constrained")
    axes = figure.subplots(len(peaks), 1, squeeze=False).ravel()
    for axis, (precision, nodes) in zip(axes, peaks.items(), strict=True):
        alive = np.array([size for *_, size in nodes]) / 1000
        top = int(alive.argmax())
        colours = [COLOURS[1] if i == top else COLOURS[0] for i in range(len(alive))]
        axis.bar(range(len(alive)), alive, color=colours, width=0.9)
        axis.annotate(
            f"{nodes[top][1]}: {alive[top]:,.1f} kB",
            (top, alive[top]),
            (6, 4),
            textcoords="offset points",
            fontsize=9,
        )
        axis.margins(y=0.2)
        axis.set_title(precision.upper(), fontsize=10)
    figure.supxlabel("operator, in the order of the graph")
    figure.supylabel("kB of activations alive")
    return figure


def impact(signal: np.ndarray, sample_rate: int, bins: np.ndarray, bin_width: float) -> Figure:
    """A recording as wave and as spectrum.

    Args:
        signal: ``(samples,)``.
        sample_rate: Hz.
        bins: spectrum, scaled to [0, 1].
        bin_width: Hz.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = 1000 * np.arange(len(signal)) / sample_rate
    left.plot(times, signal / np.abs(signal).max(), color=COLOURS[0], linewidth=0.5)
    left.set(xlabel="time in ms", ylabel="sound, scaled", ylim=(-1.05, 1.05))
    right.plot(np.arange(len(bins)) * bin_width / 1000, bins, color=COLOURS[1], linewidth=0.7)
    right.set(xlabel="frequency in kHz", ylabel="magnitude, scaled to [0, 1]", ylim=(0, 1.05))
    return figure


def distributions(
    distributions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    terms: Mapping[str, float],
    temperature: float,
) -> Figure:
    """Class probabilities of several networks side by side, and the terms of the loss.

    Args:
        distributions: by name, probabilities ``(classes,)``.
        class_names: of the classes.
        terms: losses by name.
        temperature: that the logits were divided by, for the title.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    width = 0.8 / len(distributions)
    for i, (name, p) in enumerate(distributions.items()):
        places = np.arange(len(p)) + (i - (len(distributions) - 1) / 2) * width
        left.bar(places, p, width, color=COLOURS[i], hatch=("", "//")[i % 2], label=name)
    left.set(xticks=range(len(class_names)), xticklabels=class_names, ylim=(0, 1))
    left.set(ylabel="probability", title=f"softmax(z / T), T = {temperature:.2g}")
    left.legend(fontsize=9)
    bars = right.barh(list(terms), list(terms.values()), color=COLOURS[2])
    right.bar_label(bars, [f"{value:.3g}" for value in terms.values()], padding=3, fontsize=9)
    right.margins(x=0.2)
    right.invert_yaxis()
    right.set(xlabel="loss of this recording", title="terms")
    return figure


def answers(table: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Mean answers to the recordings of each class: a row a true class, in shares.

    Args:
        table: ``(true classes, classes)``.
        class_names: of both.
    """
    figure = Figure(figsize=(1.2 + 0.8 * len(class_names), 0.8 + 0.6 * len(class_names)))
    axis = figure.subplots()
    figure.set_layout_engine("constrained")
    shown = axis.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (i, j), share in np.ndenumerate(table):
        ink = _ink(shown.to_rgba(share))
        axis.text(j, i, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=9)
    ticks = range(len(class_names))
    axis.set_xticks(ticks, class_names)
    axis.set_yticks(ticks, class_names)
    axis.set(xlabel="answer", ylabel="true class")
    return figure


def similarity(table: np.ndarray, position: int | None = None) -> Figure:
    """Where each teacher position looks in the student, and one position's row as bars.

    Args:
        table: M of one recording and head, ``(teacher positions, student positions)``.
        position: the teacher position to show.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = left.imshow(table, vmin=0, vmax=max(1e-9, table.max()), cmap="cividis", aspect="auto")
    figure.colorbar(shown, ax=left, label="share", ticks=MaxNLocator(4))
    left.set(xlabel="student position", ylabel="teacher position", title="similarity M")
    if position is not None:
        left.axhline(position - 0.5, color="white", linewidth=1)
        left.axhline(position + 0.5, color="white", linewidth=1)
        right.bar(range(table.shape[1]), table[position], color=COLOURS[0])
        right.set(title=f"teacher position {position}", ylim=(0, 1))
    right.set(xlabel="student position", ylabel="share")
    return figure


def anatomy(parameters: Mapping[str, int], field: int, length: int) -> Figure:
    """Parameters of each part of a network, and how much of the input one feature sees.

    Args:
        parameters: by part.
        field: receptive field, values of the input.
        length: of the input.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    counts = list(parameters.values())
    bars = left.barh(list(parameters), counts, color=COLOURS[0])
    left.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=9)
    left.margins(x=0.25)
    left.invert_yaxis()
    left.set(xlabel="parameters", title=f"{sum(counts):,} in all")
    seen = min(field, length)
    right.barh([0], [length], color="0.85", height=0.5)
    right.barh([0], [seen], left=[(length - seen) / 2], color=COLOURS[1], height=0.5)
    right.set(yticks=[], ylim=(-1, 1), xlim=(0, length), xlabel="values of the input")
    right.set_title(f"one feature sees {seen:,} of {length:,}")
    return figure


def fitting(verdicts: Mapping[str, Any], accuracy: Mapping[str, float]) -> Figure:
    """Students on a device: bytes of flash and RAM against its limits, and the accuracy of each.

    Args:
        verdicts: of :func:`hfld_lite.edge.devices.judge`, by student, all for one device.
        accuracy: of each student.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    first = next(iter(verdicts.values()))
    for axis, kind, name in ((axes[0], "flash", "flash"), (axes[1], "ram", "RAM")):
        for fits, colour, marker in ((True, COLOURS[0], "s"), (False, COLOURS[1], "x")):
            mine = [n for n, verdict in verdicts.items() if verdict.fits == fits]
            axis.plot(
                [getattr(verdicts[n], f"{kind}_needed") / 1000 for n in mine],
                [accuracy[n] for n in mine],
                marker,
                color=colour,
                markersize=8,
                label="fits" if fits else "does not fit",
            )
        limit = getattr(first, f"{kind}_available")
        if limit is not None and limit < 50e6:
            axis.axvline(limit / 1000, color=COLOURS[2], linestyle=":", label="the device has")
        axis.set(xscale="log", xlabel=f"{name}, kB in INT8 (log)")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.xaxis.set_minor_locator(NullLocator())  # unlabelled, and slow to draw
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy")
    axes[1].legend(fontsize=8)
    figure.suptitle(first.device, fontsize=11)
    return figure


def weights(history: pd.DataFrame) -> Figure:
    """The terms' weights as shares of their sum, their sum, and the validation accuracy, by epoch.

    Args:
        history: of a `Distiller`'s training, with ``weight_feature`` and so on.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    names = [name for name in history if name.startswith("weight_")]
    total = history[names].sum(axis=1)
    for name, colour, style in zip(names, COLOURS, ("-", "--", "-.", ":"), strict=False):
        term = name.removeprefix("weight_")
        shares = history[name] / total
        axes[0].plot(history["epoch"], shares, style, color=colour, label=TERM_LABELS[term])
    axes[0].set(ylim=(0, 1), ylabel="share of the sum of weights")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].legend(fontsize=8)
    axes[1].plot(history["epoch"], total, color=COLOURS[0])
    axes[1].set(ylim=(0, max(4.2, total.max())), ylabel="sum of the weights")
    axes[2].plot(history["epoch"], history["validation_accuracy"], color=COLOURS[2])
    axes[2].set(ylim=(0, 1), ylabel="validation accuracy")
    axes[2].yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    return figure


COST_LABELS = {
    "int8_bytes": "bytes in INT8",
    "macs": "MACs",
    "int8_ms": "ms in INT8, one thread",
    "fp32_ms": "ms in FP32, one thread",
    "parameters": "parameters",
}


def weights_sweep(table: pd.DataFrame, chosen: Sequence[float]) -> Figure:
    """Validation accuracy of students over the weights of their loss, one of them marked.

    Args:
        table: rows with ``alpha``, ``mu``, ``nu``, ``validation_accuracy``, ``deviation``,
            ``teacher``, ``secondary_teacher``.
        chosen: alpha, mu and nu of the marked student.
    """
    table = table.sort_values("validation_accuracy", ignore_index=True)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, style in (("teacher", "-"), ("secondary_teacher", "--")):
        axis.axhline(table[name].mean(), color="0.4", linestyle=style, label=_words(name))
    weights = table[["alpha", "mu", "nu"]].to_numpy()
    alone, mine = (weights == 0).all(1), np.isclose(weights, chosen).all(1)
    kinds = (
        ("other weights", ~alone & ~mine, COLOURS[4], "o", 5),
        ("labels alone", alone & ~mine, COLOURS[1], "s", 8),
        ("these weights", mine, COLOURS[0], "D", 10),
    )
    for label, rows, colour, marker, size in kinds:
        axis.errorbar(
            table.index[rows] + 1,
            table["validation_accuracy"][rows],
            yerr=table["deviation"][rows],
            color=colour,
            marker=marker,
            markersize=size,
            capsize=3,
            linestyle="none",
            label=label,
        )
    axis.set(
        xlabel="students, from the worst to the best",
        ylabel="validation accuracy,\nmean and deviation over seeds",
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def scatter(points: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Recordings as points of a plane, one panel for each network, a marker for each class.

    Args:
        points: places ``(n, 2)`` by network, of t-SNE for example.
        labels: class of each point.
    """
    figure = Figure(figsize=(3.6 * len(points) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    labels = np.asarray(labels)
    for axis, (role, places) in zip(axes, points.items(), strict=True):
        for name, colour, marker in zip(np.unique(labels), COLOURS, MARKERS, strict=False):
            x, y = places[labels == name].T
            axis.scatter(x, y, s=18, color=colour, marker=marker, alpha=0.7, label=name)
        axis.set_title(_words(role), fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.supxlabel("t-SNE: near is alike; axes and distances far apart mean nothing", fontsize=9)
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


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
        said = f"{_words(row.role)}\n{row.parameters:,} parameters\n{row.accuracy:.1%}"
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


def forest(tables: Mapping[str, pd.DataFrame], base: str) -> Figure:
    """Differences of many methods from one, with their intervals; one panel for each data.

    Filled marks: the interval is clear of zero. What is further than FAR from zero would squeeze
    all others: a triangle at the edge says how far.

    Args:
        tables: rows with ``method``, ``against_BASE``, ``low_BASE``, ``high_BASE`` in shares of 1;
            the differences in the first table give the order, and those of the next for methods
            that it lacks.
        base: the method that all are compared with.
    """
    difference, low, high = f"against_{base}", f"low_{base}", f"high_{base}"
    ordered = pd.concat(table.sort_values(difference) for table in tables.values())
    order = list(ordered.dropna(subset=[difference])["method"].unique())
    figure = Figure(figsize=(4.2 * len(tables) + 2, 0.24 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        for method, *ends in table[["method", difference, low, high]].itertuples(index=False):
            if np.isnan(ends[0]):
                continue
            middle, left, right = 100 * np.array(ends)
            clear = left > 0 or right < 0
            colour = COLOURS[0] if middle > 0 else COLOURS[1]
            if abs(middle) > FAR:
                edge, side = np.sign(middle) * FAR, "right" if middle > 0 else "left"
                axis.plot(edge, order.index(method), marker="<>"[int(middle > 0)], color=colour)
                axis.text(
                    edge - np.sign(middle) * 0.25,
                    order.index(method),
                    f"{middle:+.0f} ({left:+.0f} to {right:+.0f})",
                    ha=side,
                    va="center",
                    fontsize=8,
                )
                continue
            axis.errorbar(
                middle,
                order.index(method),
                xerr=[[max(0, middle - left)], [max(0, right - middle)]],
                color=colour if clear else "0.45",
                marker="o",
                markersize=5,
                markerfacecolor=colour if clear else "white",
                capsize=2,
            )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=title, xlabel=f"points of accuracy against {_words(base)}")
        axis.set_xlim(max(axis.get_xlim()[0], -FAR - 0.3), min(axis.get_xlim()[1], FAR + 0.3))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(order)), [_words(method) for method in order], fontsize=8)
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    figure.supxlabel("mean and 95 % interval; filled: clear of zero", fontsize=8)
    return figure


def trends(table: pd.DataFrame, label: str) -> Figure:
    """Accuracy of a few methods over one condition, with the deviation over seeds.

    Args:
        table: rows with ``method``, ``x``, ``accuracy`` and ``deviation``.
        label: of x, with its unit.
    """
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    places = {x: i for i, x in enumerate(sorted(table["x"].unique()))}
    # Teachers last and in grey: they are what the others are held against.
    methods = sorted(table["method"].unique(), key=lambda method: "teacher" in method)
    for number, method in enumerate(methods):
        mine = table[table["method"] == method].sort_values("x")
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        if "teacher" in method:
            grey = "0.35" if method == "teacher" else "0.65"
            style = {"color": grey, "marker": "x", "linestyle": "--"}
        axis.errorbar(
            mine["x"].map(places) + 0.06 * (number - (len(methods) - 1) / 2),
            mine["accuracy"],
            yerr=mine["deviation"].fillna(0),
            **style,
            capsize=2,
            label=_words(method),
        )
    axis.set_xticks(list(places.values()), [f"{x:g}" for x in places])
    axis.set(xlabel=label, ylabel="test accuracy,\nmean and deviation over seeds")
    axis.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 2):g}%")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, ncols=4, loc="outside upper center")
    return figure


def operating_curves(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], false_alarms: Sequence[float]
) -> Figure:
    """Misses over false alarms as the limit moves (ROC, upside down), one curve for each network.

    Args:
        answers: suspicion ``(n,)`` and whether defective ``(n,)``, by network.
        false_alarms: shares to mark.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for (name, (suspicion, defective)), colour, style in zip(
        answers.items(), COLOURS, ("-", "--", "-.", ":"), strict=False
    ):
        alarms, found, _ = roc_curve(np.asarray(defective, bool), suspicion)
        axis.plot(alarms, 1 - found, color=colour, linestyle=style, label=_words(name))
    for share in false_alarms:
        axis.axvline(share, color="0.6", linewidth=0.8, linestyle=":")
        axis.text(
            share,
            1.02,
            f"{share:.0%}",
            ha="center",
            fontsize=8,
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


def threshold(
    suspicion: np.ndarray,
    defective: np.ndarray,
    limit: float,
    limits: np.ndarray,
    costs: np.ndarray,
) -> Figure:
    """What a limit on the probability of a defect lets through, and what each limit costs.

    Args:
        suspicion: probability of a defect ``(n,)``.
        defective: booleans ``(n,)``.
        limit: from which on a recording is called defective.
        limits, costs: expected cost of a part over the limit, ``(m,)`` each.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, 26)
    for name, rows, colour, hatch in (
        ("sound", ~defective, COLOURS[4], ""),
        ("defective", defective, COLOURS[1], "//"),
    ):
        left.hist(
            suspicion[rows], edges, color=colour, alpha=0.6, label=name, hatch=hatch, log=True
        )
    left.axvline(limit, color="black")
    left.text(limit, 1.02, "limit", ha="center", transform=left.get_xaxis_transform(), fontsize=9)
    left.set(xlabel="probability of a defect", ylabel="recordings (log)")
    left.set_ylim(bottom=0.5)  # a single recording is to be seen
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_locator(NullLocator())  # unlabelled, and slow to draw
    left.legend(fontsize=9, loc="upper center")
    right.plot(limits, costs, color=COLOURS[0], drawstyle="steps-post")
    right.axvline(limit, color="black")
    right.plot(limits[costs.argmin()], costs.min(), "D", color=COLOURS[2], label="cheapest limit")
    right.set(xlabel="limit", ylabel="cost of a part on average")
    right.grid(alpha=0.3)
    right.legend(fontsize=9, loc="upper center")
    return figure


def front(
    table: pd.DataFrame,
    costs: Sequence[str] = ("int8_bytes", "macs", "int8_ms"),
    budgets: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy against what a student costs, alone and distilled, with the distilled ones' front.

    Args:
        table: of ``data_scripts/sweep_students.py``: a row for each student and ``method`` with
            ``validation_accuracy``, ``teacher_validation_accuracy``, the costs and ``front_COST``.
        costs: columns, a panel each.
        budgets: of some costs, drawn as lines.
    """
    figure = Figure(figsize=(3.6 * len(costs) + 1, 4.2), layout="constrained")
    axes = figure.subplots(1, len(costs), sharey=True, squeeze=False).ravel()
    styles = {"alone": (COLOURS[1], "o", "none"), "distilled": (COLOURS[0], "s", COLOURS[0])}
    for axis, cost in zip(axes, costs, strict=True):
        for method, (colour, marker, face) in styles.items():
            part = table[table["method"] == method]
            axis.plot(
                part[cost],
                part["validation_accuracy"],
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=6,
                label=method,
            )
        best = table[table[f"front_{cost}"]].sort_values(cost)
        axis.step(
            best[cost],
            best["validation_accuracy"],
            where="post",
            color=COLOURS[0],
            label="front of the distilled",
        )
        axis.axhline(
            table["teacher_validation_accuracy"].max(),
            color="0.4",
            linestyle="--",
            label="best teacher",
        )
        if budgets and cost in budgets:
            axis.axvline(budgets[cost], color=COLOURS[2], linestyle=":", label="budget")
        axis.set_xlabel(COST_LABELS.get(cost, cost))
        if table[cost].max() > 20 * table[cost].min():
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy, mean of the seeds")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    known = {
        name: line
        for axis in axes
        for line, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, loc="outside lower center", ncols=len(known), fontsize=9)
    return figure


def _words(role: str) -> str:
    return role.replace("_", " ")


def _ink(ground: Sequence[float]) -> str:
    """Black or white, whichever has more contrast to the ground: 4.5 to 1 at least."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
