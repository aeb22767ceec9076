"""Figures of a run's report and of the page of costs, each a function of plain data.

Every function returns a matplotlib Figure that belongs to no window; `png` of
:mod:`hfld_lite.app.style` turns it into bytes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from hfld_lite.app.fonts import shown
from hfld_lite.app.style import COLOURS, house_style, ink, log_losses, styled, terms, words


@house_style()
def size_against_accuracy(table: pd.DataFrame) -> Figure:
    """Test accuracy with its 95 % interval over the number of parameters, a point for each role.

    Args:
        table: rows with ``role``, ``parameters``, ``accuracy``, ``low``, ``high``.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    seen: dict[int, int] = {}
    for row, colour, marker in styled(table.itertuples()):
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
            label=words(row.role),
        )
    axis.set(xscale="log", xlabel="parameters", ylabel="test accuracy, 95 % interval")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    figure.legend(fontsize=9, loc="outside right center")  # inside it would hide an interval
    return figure


@house_style()
def curves(history: pd.DataFrame) -> Figure:
    """Loss terms of each role over the epochs, and the validation accuracy of all.

    Args:
        history: rows of epochs with ``role``, the unweighted terms of any names,
            ``validation_accuracy``.
    """
    roles, known = list(history["role"].unique()), terms(history)
    rows = (len(roles) + 1) // 2
    figure = Figure(figsize=(10, 2.9 * (rows + 1)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, 2)
    for place, role in enumerate(roles):
        axis = figure.add_subplot(grid[divmod(place, 2)])
        mine = history[history["role"] == role]
        for name, (label, colour, marker) in known.items():
            if mine[name].notna().any():
                axis.plot(
                    mine["epoch"],
                    mine[name],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    label=label,
                )
        axis.set(title=words(role), xlabel="epoch")
        log_losses(axis, mine[[*known]].to_numpy().ravel())
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
        else:
            axis.text(0.5, 0.5, "not trained here", ha="center", transform=axis.transAxes)
    axis = figure.add_subplot(grid[rows, :])
    for role, colour, marker in styled(roles):
        mine = history[history["role"] == role]
        epochs = mine["epoch"].max()
        if not epochs:  # a network that was given: one accuracy, for the whole width
            axis.axhline(mine["validation_accuracy"].max(), color=colour, label=words(role))
            continue
        axis.plot(
            mine["epoch"] / epochs,
            mine["validation_accuracy"],
            color=colour,
            marker=marker,
            markersize=4,
            label=words(role),
        )
    axis.set(xlabel="share of the training", ylabel="validation accuracy")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure


@house_style()
def confusions(matrices: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Confusion matrices, two in a row: rows are true classes, columns predicted ones.

    Args:
        matrices: counts ``(classes, classes)`` by role.
        class_names: names of rows and columns; numbers stand for them as `shown` says.
    """
    side, rows = 1.9 + 0.34 * len(class_names), (len(matrices) + 1) // 2
    columns = min(2, len(matrices))
    figure = Figure(figsize=(side * columns, (side + 0.5) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = grid.ravel()[: len(matrices)]
    for axis in grid.ravel()[len(matrices) :]:
        axis.remove()
    ticks, names = np.arange(len(class_names)), shown(class_names)
    for axis, (role, counts) in zip(axes, matrices.items(), strict=True):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for true, predicted in np.argwhere(counts):
            axis.text(
                predicted,
                true,
                str(counts[true, predicted]),
                ha="center",
                va="center",
                fontsize=8,
                color=ink(image.to_rgba(shares[true, predicted])),
            )
        errors = counts.sum() - np.trace(counts)
        axis.set_title(f"{words(role)}\n{errors} of {counts.sum()} wrong", fontsize=10)
        axis.set_xticks(ticks, names, rotation=90, fontsize=8)
        axis.set_yticks(ticks, names, fontsize=8)
    figure.supxlabel("predicted class")
    figure.supylabel("true class")
    return figure


@house_style()
def spectra(
    inputs: np.ndarray, labels: np.ndarray, class_names: Sequence[str], hertz: np.ndarray | float
) -> Figure:
    """What the networks read: the mean spectrum of each class and the middle 80 % of recordings.

    Args:
        inputs: spectra ``(n, bins)``; values after the bins are left out.
        labels: classes ``(n,)``.
        class_names: one panel each; numbers stand for them as `shown` says.
        hertz: frequency of each bin, or the width of one.
    """
    rows, names = int(np.ceil(len(class_names) / 2)), shown(class_names)
    figure = Figure(figsize=(10, 1.7 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    khz = (hertz if np.ndim(hertz) else np.arange(inputs.shape[1]) * hertz) / 1000
    inputs = np.asarray(inputs)[:, : len(khz)]
    for axis, label in zip(axes, range(len(class_names)), strict=False):
        chosen = inputs[np.asarray(labels) == label]
        if len(chosen):
            low, high = np.quantile(chosen, (0.1, 0.9), axis=0)
            axis.fill_between(khz, low, high, color="0.55", label="middle 80 %")
            axis.plot(khz, chosen.mean(0), color="black", linewidth=1, label="mean")
        axis.set_title(names[label], fontsize=10)
    for axis in axes[len(class_names) :]:
        axis.remove()
    axes[0].legend(fontsize=8)
    figure.supxlabel("frequency in kHz")
    figure.supylabel("what the networks read")
    return figure


@house_style()
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


@house_style()
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
