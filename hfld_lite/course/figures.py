"""Figures of the notebooks and their widgets, each a function of plain data.

Every function returns a matplotlib Figure that belongs to no window; `png` of
:mod:`hfld_lite.app.style` turns it into bytes. What a run's report draws is in
:mod:`hfld_lite.app.figures`.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from hfld_lite.app.style import (
    COLOURS,
    house_style,
    ink,
    log_losses,
    styled,
    term_styles,
    words,
)
from hfld_lite.course.studies import DATA as DATA_NAMES
from hfld_lite.course.studies import METHODS
from hfld_lite.data.examples import evaluated
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.views import BANDS, FRAMES, frequencies, mel_frames, network_inputs
from hfld_lite.edge.analysis import receptive_field
from hfld_lite.edge.chip import ARENA, BUFFER, CODE, CONSTANTS, DATA, RUNTIME, TEST
from hfld_lite.losses import separated_logit_loss
from hfld_lite.networks import POSITIONS, ResNet1d
from hfld_lite.recipes import Recipe

WIDE = 8.0
"""Inches: text of 9 points is then 10 px high where a figure is shown 640 px wide."""

FAR = 5.0
"""Points of accuracy that a forest plot shows to either side."""

STACK = "stack"
NAMED = 0.04
"""Share of a memory from which on its map names a table or function."""

MEMORY_PARTS = {
    CODE: COLOURS[0],
    CONSTANTS: COLOURS[1],
    RUNTIME: "0.35",
    TEST: "0.55",
    ARENA: COLOURS[2],
    DATA: COLOURS[3],
    STACK: "black",
    BUFFER: "white",
}
"""Parts of a program from the bottom of its bar to the top, and their colours."""

COST_LABELS = {
    "int8_bytes": "bytes in INT8",
    "macs": "MACs",
    "int8_ms": "ms in INT8, one thread",
    "fp32_ms": "ms in FP32, one thread",
    "parameters": "parameters",
}


@house_style()
def impact(signal: np.ndarray, sample_rate: int, bins: np.ndarray, bin_width: float) -> Figure:
    """A recording as wave and as spectrum.

    Args:
        signal: ``(samples,)``.
        sample_rate: Hz.
        bins: spectrum, scaled to [0, 1].
        bin_width: Hz.
    """
    figure = Figure(figsize=(WIDE, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = 1000 * np.arange(len(signal)) / sample_rate
    left.plot(times, signal / np.abs(signal).max(), color=COLOURS[0], linewidth=0.5)
    left.set(xlabel="time in ms", ylabel="sound, scaled", ylim=(-1.05, 1.05))
    right.plot(np.arange(len(bins)) * bin_width / 1000, bins, color=COLOURS[1], linewidth=0.7)
    right.set(xlabel="frequency in kHz", ylabel="magnitude, scaled to [0, 1]", ylim=(0, 1.05))
    for axis in (left, right):  # each tick takes a millisecond, and this follows a slider
        axis.locator_params("x", nbins=5)
        axis.locator_params("y", nbins=4)
    return figure


def bands(network: ResNet1d, recipe: Recipe, samples: int, sample_rate: int) -> pd.DataFrame:
    """What each position of a network's features reads of the view "log-mel" or a spectrum.

    A position averages neighbouring features of the last stage. Their middles lie ``spacing``
    values apart, the product of all strides, and each sees a receptive field around its middle.

    Args:
        network: whose positions they are.
        recipe: whose view the network reads; not "time".
        samples: of a recording.
        sample_rate: Hz.

    Returns:
        A row for each position: ``first`` and ``last`` input value in its middle, ``sees_first``
        and ``sees_last`` of the whole receptive field, and ``reads``, the same middle in words.
    """
    generator = np.random.default_rng(0)  # any recording: a constant one is refused
    inputs = network_inputs(generator.standard_normal((1, samples)), recipe, sample_rate)
    length, hertz = inputs.shape[1], frequencies(recipe, samples, sample_rate)
    with torch.inference_mode(), evaluated(network):
        before = network.stages(network.stem(inputs[:, None])).shape[2]
    spacing, field = 2 ** round(np.log2(length / before)), receptive_field(network)
    half, rows = (hertz[1] - hertz[0]) / 2, []
    size = mel_frames(samples, sample_rate)[0]
    windows = (samples - size) // (size // 2) + 1
    by = -(-windows // FRAMES)
    for position in range(POSITIONS):
        begin, end = before * position // POSITIONS, -(-before * (position + 1) // POSITIONS)
        first = max(0, begin * spacing - spacing // 2)
        last = min(length, (end - 1) * spacing + spacing // 2) - 1
        said = []
        if first < len(hertz):
            low, high = hertz[first] - half, hertz[min(last, len(hertz) - 1)] + half
            said.append(f"{max(0, low) / 1000:.1f} to {high / 1000:.1f} kHz")
        if last >= len(hertz):
            one, other = ((i - len(hertz)) // BANDS for i in (max(first, len(hertz)), last))
            ends = one * by * size // 2, ((other + 1) * by - 1) * size // 2 + size
            begun, ended = (1000 * min(i, samples) / sample_rate for i in ends)
            said.append(f"mel bands, {begun:.0f} to {ended:.0f} ms")
        rows.append(
            {
                "position": position,
                "first": first,
                "last": last,
                "sees_first": max(0, begin * spacing - field // 2),
                "sees_last": min(length - 1, (end - 1) * spacing + field // 2),
                "reads": "; ".join(said),
            }
        )
    return pd.DataFrame(rows)


@house_style()
def positions_in_hertz(
    network: ResNet1d, recordings: Recordings, recipe: Recipe
) -> tuple[Figure, str]:
    """The nine positions of the features beside what each reads of the network's input.

    Args:
        network, recipe: see :func:`bands`.
        recordings: whose mean input is drawn.

    Returns:
        The figure and its alternative text.
    """
    samples, rate = recordings.signals.shape[1], recordings.sample_rate
    table = bands(network, recipe, samples, rate)
    inputs = network_inputs(recordings.signals, recipe, rate).mean(0).numpy()
    hertz = frequencies(recipe, samples, rate)
    figure = Figure(figsize=(WIDE, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 5))
    above.plot(inputs, color=COLOURS[0], linewidth=0.8)
    above.set(ylabel="input, mean", title="what the network reads")
    for row in table.itertuples():
        seen, middle = row.sees_last - row.sees_first + 1, row.last - row.first + 1
        below.barh(row.position, seen, left=row.sees_first, color="0.8", height=0.8)
        below.barh(row.position, middle, left=row.first, color=COLOURS[1], height=0.8)
    kilohertz = np.arange(0, hertz[-1] / 1000, 4)
    ticks = {float(at): f"{k:g}" for k, at in
             zip(kilohertz, np.searchsorted(hertz, 1000 * kilohertz), strict=True)}  # fmt: skip
    if len(inputs) > len(hertz):
        ticks[(len(hertz) + len(inputs)) / 2] = "mel bands"
        for axis in (above, below):
            axis.axvline(len(hertz) - 0.5, color="0.35", linestyle="--")
    below.set_xticks(list(ticks), list(ticks.values()))
    names = [f"{row.position}: {row.reads}".replace("; ", ",\n") for row in table.itertuples()]
    below.set(xlim=(0, len(inputs)), yticks=range(POSITIONS), yticklabels=names)
    below.set(ylabel="position", title="dark: around its middle; light: its whole receptive field")
    after = "; after the line, bands over time" * (len(inputs) > len(hertz))
    below.set_xlabel(f"frequency in kHz{after}")
    below.invert_yaxis()
    alt = "Each position of the features reads a part of the input: " + ", ".join(
        f"{row.position} reads {row.reads}" for row in table.itertuples()
    )
    return figure, f"{alt}; each sees {receptive_field(network)} values around each middle"


@house_style()
def split_of_logits(
    teacher: Sequence[float], student: Sequence[float], class_names: Sequence[str], target: int = 0
) -> tuple[Figure, str]:
    """Two answers in three ways: all classes, true class or not, and the rest scaled to 1.

    Args:
        teacher, student: probabilities of the classes, all above 0, at temperature 1.
        class_names: of the classes.
        target: position of the true class.

    Returns:
        The figure and its alternative text.
    """
    both = np.array([teacher, student], float)
    t, s = torch.tensor(both).log()[:, None]
    tckd, nckd = map(float, separated_logit_loss(s, t, torch.tensor([target]), 1.0))
    rest = np.delete(both, target, 1)
    true, others = class_names[target], np.delete(class_names, target)
    kd = tckd + (1 - both[0, target]) * nckd
    figure = Figure(figsize=(WIDE, 3.1), layout="constrained")
    panels = (
        (f"KD {kd:.3f}", "all classes", class_names, both),
        (f"TCKD {tckd:.3f}", "true class or not", [true, "not"], np.stack(
            [both[:, target], rest.sum(1)], 1)),
        (f"NCKD {nckd:.3f}", "the rest, scaled to 1", others, rest / rest.sum(1, keepdims=True)),
    )  # fmt: skip
    for axis, (loss, title, names, pair) in zip(
        figure.subplots(1, 3, sharey=True), panels, strict=True
    ):
        for i, (who, values) in enumerate(zip(("teacher", "student"), pair, strict=True)):
            places = np.arange(len(names)) + 0.4 * i - 0.2
            bars = axis.bar(places, values, 0.4, color=COLOURS[i], hatch=("", "//")[i], label=who)
            if len(names) <= 3:
                axis.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=9, padding=2)
        axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1.1))
        axis.set_title(f"{title}\n{loss}", fontsize=11)
    figure.axes[0].set_ylabel("probability")
    figure.axes[-1].legend(fontsize=9)
    alt = (
        f"Three pairs of bars, teacher and student. All classes: KD is {kd:.3f}. {true} or not: "
        f"TCKD is {tckd:.3f}. The other classes, scaled to a sum of 1: NCKD is {nckd:.3f}, which "
        f"counts {1 - both[0, target]:.2f} times in KD, the teacher's share of these classes"
    )
    return figure, alt


@house_style()
def chain_in_time(history: pd.DataFrame) -> tuple[Figure, str]:
    """When each network of a chain was trained, from the seconds of its epochs.

    Args:
        history: of :meth:`hfld_lite.hierarchy.Chain.history`.

    Returns:
        The figure and its alternative text.
    """
    took = history.groupby("role", sort=False)["seconds"].agg(["sum", "size"])
    figure = Figure(figsize=(WIDE, 0.5 * len(took) + 1), layout="constrained")
    axis, begin, said = figure.subplots(), 0.0, []
    for row, (role, (seconds, epochs)) in enumerate(took.iterrows()):
        axis.barh(row, seconds, left=begin, color=COLOURS[row % 4], height=0.7)
        if row + 1 < len(took):
            axis.plot([begin + seconds] * 2, [row, row + 1], color="0.35", linewidth=1)
        told = f"{words(role)}: {epochs:.0f} epoch{'s' * (epochs > 1)}, {seconds:.1f} s"
        late = begin > took["sum"].sum() / 2
        axis.text(
            begin if late else begin + seconds,
            row,
            f"{told}  " if late else f"  {told}",
            ha="right" if late else "left",
            va="center",
            fontsize=10,
        )
        said.append(told)
        begin += seconds
    axis.set(yticks=[], xlabel="seconds of training")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.invert_yaxis()
    return figure, "The networks are trained one after the other: " + "; ".join(said)


@house_style()
def distributions(
    distributions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    terms: Mapping[str, float],
    temperature: float,
    longest: float | None = None,
) -> Figure:
    """Class probabilities of several networks side by side, and the terms of the loss.

    Args:
        distributions: by name, probabilities ``(classes,)``.
        class_names: of the classes.
        terms: losses by name.
        temperature: that the logits were divided by, for the title.
        longest: largest loss of a series that is drawn on one scale; by default the largest here.
            Bars are as long as its square root, so that small ones are seen beside it.
    """
    figure = Figure(figsize=(WIDE, 3.4), layout="constrained")
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
    right.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    right.set_xlim(0, 1.6 * (longest or max(1e-9, *terms.values())))
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.invert_yaxis()
    right.set(xlabel="loss of this recording (square root)", title="terms of the loss")
    return figure


@house_style()
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
        colour = ink(shown.to_rgba(share))
        axis.text(j, i, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=9)
    ticks = range(len(class_names))
    axis.set_xticks(ticks, class_names)
    axis.set_yticks(ticks, class_names)
    axis.set(xlabel="answer", ylabel="true class")
    return figure


@house_style()
def similarity(table: np.ndarray, position: int | None = None, top: float | None = None) -> Figure:
    """Where each teacher position looks in the student, and one position's row as bars.

    Args:
        table: M of one recording and head, or a mean, ``(teacher positions, student positions)``.
        position: the teacher position to show beside it; by default none.
        top: share of the brightest colour; by default the largest of the table.
    """
    alone = position is None
    figure = Figure(figsize=(0.65 * WIDE if alone else WIDE, 3.4), layout="constrained")
    left, *right = figure.subplots(1, 2 - alone, squeeze=False)[0]
    top = max(1e-9, table.max() if top is None else top)
    shown = left.imshow(table, vmin=0, vmax=top, cmap="cividis", aspect="auto")
    figure.colorbar(shown, ax=left, label="share", ticks=MaxNLocator(4))
    left.set(xlabel="student position", ylabel="teacher position", title="similarity M")
    for axis in right:
        left.axhline(position - 0.5, color="white", linewidth=1)
        left.axhline(position + 0.5, color="white", linewidth=1)
        axis.bar(range(table.shape[1]), table[position], color=COLOURS[0])
        axis.set(title=f"teacher position {position}", ylim=(0, 1), yticks=(0, 0.5, 1))
        axis.set(xlabel="student position", ylabel="share")
    return figure


@house_style()
def anatomy(parameters: Mapping[str, int], field: int, length: int) -> Figure:
    """Parameters of each part of a network, and how much of the input one feature sees.

    Args:
        parameters: by part.
        field: receptive field, values of the input.
        length: of the input.
    """
    figure = Figure(figsize=(WIDE, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    counts = list(parameters.values())
    bars = left.barh(list(parameters), counts, color=COLOURS[0])
    left.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=9)
    left.margins(x=0.4)
    left.invert_yaxis()
    left.xaxis.set_major_locator(MaxNLocator(3))
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    left.set(xlabel="parameters", title=f"{sum(counts):,} in all")
    seen = min(field, length)
    right.barh([0], [length], color="0.85", height=0.5)
    right.barh([0], [seen], left=[(length - seen) / 2], color=COLOURS[1], height=0.5)
    right.set(yticks=[], ylim=(-1, 1), xlim=(0, length), xlabel="values of the input")
    right.set_title(f"one feature sees {seen:,} of {length:,}")
    return figure


@house_style()
def fitting(verdicts: Mapping[str, Any], accuracy: Mapping[str, float], title: str = "") -> Figure:
    """Students on a device, the best on top: what each needs of flash and RAM against the limits.

    Args:
        verdicts: of :func:`hfld_lite.edge.devices.judge`, by student, all for one device.
        accuracy: of each student.
        title: says which of them fit.
    """
    order = sorted(verdicts, key=accuracy.get)
    figure = Figure(figsize=(WIDE, 0.3 * len(order) + 1.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    first = verdicts[order[0]]
    for axis, kind, name in zip(axes, ("flash", "ram"), ("flash", "RAM"), strict=True):
        for fits, colour, inner in ((True, COLOURS[0], COLOURS[0]), (False, COLOURS[1], "white")):
            mine = [row for row, n in enumerate(order) if verdicts[n].fits == fits]
            needed = [getattr(verdicts[order[row]], f"{kind}_needed") / 1000 for row in mine]
            label = "fits" if fits else "does not fit"
            style = {"facecolor": inner, "edgecolor": colour, "linewidth": 2, "label": label}
            axis.barh(mine, needed, height=0.6, **style)
        limit = getattr(first, f"{kind}_available")
        if limit is not None and limit < 50e6:
            axis.axvline(limit / 1000, color="black", linestyle=":", label="the device has")
        axis.set(xlabel=f"{name}, kB in INT8")
        all_needed = [getattr(verdict, f"{kind}_needed") for verdict in verdicts.values()]
        if max(all_needed) > 30 * min(all_needed):
            axis.set(xscale="log", xlabel=f"{name}, kB in INT8 (log)")
            axis.xaxis.set_minor_locator(NullLocator())  # unlabelled, and slow to draw
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.grid(axis="x", alpha=0.3)
    named = [f"{name}: {accuracy[name]:.1%}" for name in order]
    axes[0].set_yticks(range(len(order)), named, fontsize=9)
    known = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, fontsize=9, ncols=3, loc="outside lower center")
    figure.suptitle(fill(title or first.device, 95), fontsize=10)
    return figure


@house_style()
def live(history: pd.DataFrame, planned: Mapping[str, int]) -> Figure:
    """A running training: loss and validation accuracy so far, role after role.

    Args:
        history: rows of epochs with ``role``, ``total``, ``validation_accuracy``; may be empty.
        planned: epochs of each role, in the order of training.
    """
    figure = Figure(figsize=(WIDE, 3.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    begin = 0
    for (role, epochs), colour, marker in styled(planned.items()):
        mine = history[history["role"] == role] if len(history) else history
        if len(mine):
            style = {"color": colour, "marker": marker, "markersize": 3, "label": words(role)}
            loss.plot(begin + mine["epoch"], mine["total"], **style)
            accuracy.plot(begin + mine["epoch"], mine["validation_accuracy"], **style)
        begin += epochs
        for axis in (loss, accuracy):
            axis.axvline(begin, color="0.8", linewidth=0.8)
    loss.set(xlim=(0, begin + 0.5))
    log_losses(loss, history["total"] if len(history) else [])
    accuracy.set(ylabel="validation accuracy", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    figure.supxlabel("epochs, all networks one after the other", fontsize=10)
    for axis in (loss, accuracy):
        axis.grid(alpha=0.3)
    if len(history):
        known = accuracy.get_legend_handles_labels()
        figure.legend(*known, fontsize=9, ncols=6, loc="outside upper center")
    return figure


@house_style()
def weights(history: pd.DataFrame, last: int | None = None, top: float | None = None) -> Figure:
    """The terms' weights as shares of their sum, their sum, and the validation accuracy, by epoch.

    Args:
        history: of a `Distiller`'s training, with ``weight_TERM`` for each term.
        last, top: largest epoch and sum of the weights on the axes, for a series on one scale; by
            default those of the history.
    """
    figure = Figure(figsize=(WIDE, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    names = [name.removeprefix("weight_") for name in history if name.startswith("weight_")]
    given = history[[f"weight_{name}" for name in names]]
    total = given.sum(axis=1)
    styles = zip(term_styles(names).items(), cycle(("-", "--", "-.", ":")), strict=False)
    for (name, (label, colour, _)), style in styles:
        shares = given[f"weight_{name}"] / total
        axes[0].plot(history["epoch"], shares, style, color=colour, label=label)
    axes[0].set(ylim=(0, 1), ylabel="share of the sum")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    known = axes[0].get_legend_handles_labels()
    figure.legend(*known, fontsize=9, ncols=4, loc="outside upper center")
    axes[1].plot(history["epoch"], total, color=COLOURS[0])
    axes[1].set(
        ylim=(0, 1.05 * max(4, total.max() if top is None else top)), ylabel="sum of the weights"
    )
    axes[2].plot(history["epoch"], history["validation_accuracy"], color=COLOURS[2])
    axes[2].set(ylim=(0, 1), ylabel="validation accuracy")
    axes[2].yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes:
        axis.set(xlabel="epoch", xlim=(0, (last or history["epoch"].max()) + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(alpha=0.3)
    return figure


@house_style()
def weights_sweep(table: pd.DataFrame, chosen: Sequence[float]) -> Figure:
    """Validation accuracy of students over the weights of their loss, one of them marked.

    Args:
        table: rows with ``alpha``, ``mu``, ``nu``, ``validation_accuracy``, ``deviation``,
            ``teacher``, ``secondary_teacher``.
        chosen: alpha, mu and nu of the marked student.
    """
    table = table.sort_values("validation_accuracy", ignore_index=True)
    figure = Figure(figsize=(WIDE, 4), layout="constrained")
    axis = figure.subplots()
    for name, style in (("teacher", "-"), ("secondary_teacher", "--")):
        axis.axhline(table[name].mean(), color="0.4", linestyle=style, label=words(name))
    weights = table[["alpha", "mu", "nu"]].to_numpy()
    alone, mine = (weights == 0).all(1), np.isclose(weights, chosen).all(1)
    kinds = (
        ("other weights", ~alone & ~mine, "0.45", "o", 5),
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
    figure.legend(fontsize=9, ncols=5, loc="outside lower center")
    return figure


@house_style()
def scatter(points: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Recordings as points of a plane, one panel for each network, a marker for each class.

    Args:
        points: places ``(n, 2)`` by network, of t-SNE for example.
        labels: class of each point.
    """
    figure = Figure(figsize=(WIDE, 0.5 + WIDE / (len(points) + 0.6)), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    labels = np.asarray(labels)
    for axis, (role, places) in zip(axes, points.items(), strict=True):
        for name, colour, marker in styled(np.unique(labels)):
            x, y = places[labels == name].T
            axis.scatter(x, y, s=18, color=colour, marker=marker, alpha=0.7, label=name)
        axis.set_title(METHODS.get(role, words(role)), fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.supxlabel("t-SNE: near is alike; axes and distances far apart mean nothing", fontsize=9)
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@house_style()
def threshold(
    suspicion: np.ndarray,
    defective: np.ndarray,
    limit: float,
    limits: np.ndarray,
    costs: np.ndarray,
) -> Figure:
    """The recordings on either side of a limit on the probability of a defect, and its cost.

    Args:
        suspicion: probability of a defect ``(n,)``.
        defective: booleans ``(n,)``.
        limit: from which on a recording is called defective.
        limits, costs: expected cost of a part over the limit, ``(m,)`` each.
    """
    figure = Figure(figsize=(WIDE, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, 26)
    for name, rows, colour, hatch in (
        ("sound", ~defective, COLOURS[0], ""),
        ("defective", defective, COLOURS[1], "//"),
    ):
        style = {"edgecolor": colour, "facecolor": (colour, 0.35), "hatch": hatch, "linewidth": 1.5}
        left.hist(suspicion[rows], edges, histtype="stepfilled", log=True, label=name, **style)
    left.axvline(limit, color="black")
    left.text(limit, 1.02, "limit", ha="center", transform=left.get_xaxis_transform(), fontsize=9)
    left.set(xlabel="probability of a defect", ylabel="recordings (log)")
    left.set_ylim(bottom=0.5)  # a single recording is to be seen
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_locator(NullLocator())  # unlabelled, and slow to draw
    right.plot(limits, costs, color=COLOURS[0], drawstyle="steps-post")
    right.axvline(limit, color="black")
    right.plot(limits[costs.argmin()], costs.min(), "D", color=COLOURS[2], label="cheapest limit")
    right.set(xlabel="limit", ylabel="cost of a part on average")
    right.grid(alpha=0.3)
    ours, theirs = left.get_legend_handles_labels(), right.get_legend_handles_labels()
    known = [[*one, *two] for one, two in zip(ours, theirs, strict=True)]
    figure.legend(*known, fontsize=9, ncols=3, loc="outside lower center")
    return figure


@house_style()
def forest(tables: Mapping[str, pd.DataFrame], base: str) -> Figure:
    """Differences of many methods from one, with their intervals; one panel for each table.

    All panels have the same scale, and stand three at most in a row. Methods and data of the
    studies are called by their names in words.

    Filled marks: the interval excludes zero. Bars that reach the edge end beyond it. A difference
    beyond FAR is drawn as a triangle at the edge with its value, because it would squeeze all
    others.

    Args:
        tables: by title, rows with ``method``, ``against_BASE``, ``low_BASE``, ``high_BASE`` in
            shares of 1; the differences in the first table give the order, and those of the next
            for methods that it lacks.
        base: the method that all are compared with.
    """
    difference, low, high = f"against_{base}", f"low_{base}", f"high_{base}"
    ordered = pd.concat(table.sort_values(difference) for table in tables.values())
    order = list(ordered.dropna(subset=[difference])["method"].unique())
    across = 2 if len(tables) in (2, 4) else min(3, len(tables))
    down = -(-len(tables) // across)
    named = METHODS | DATA_NAMES
    figure = Figure(figsize=(WIDE, (0.26 * len(order) + 0.8) * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[len(tables) :]:
        spare.remove()
        axes[len(tables) - across].tick_params(labelbottom=True)
    for axis, (title, table) in zip(axes, tables.items(), strict=False):
        for method, *ends in table[["method", difference, low, high]].itertuples(index=False):
            if np.isnan(ends[0]):
                continue
            middle, left, right = 100 * np.array(ends)
            clear = left > 0 or right < 0
            colour = COLOURS[0] if middle > 0 else COLOURS[1]
            if abs(middle) > FAR:
                edge, side = np.sign(middle) * FAR, "right" if middle > 0 else "left"
                axis.plot(
                    edge,
                    order.index(method),
                    marker="<>"[int(middle > 0)],
                    color=colour if clear else "0.45",
                    markerfacecolor=colour if clear else "white",
                )
                axis.text(
                    edge - np.sign(middle) * 0.6,
                    order.index(method),
                    f"{middle:+.0f} ({left:+.0f} to {right:+.0f})",
                    ha=side,
                    va="center",
                    fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
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
        axis.set_title(fill(named.get(title, title), 72 // across), fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(axis="y", labelsize=9)
    left, right = axes[0].get_xlim()  # of all panels, which are compared
    axes[0].set_xlim(max(left, -FAR - 0.3), min(right, FAR + 0.3))
    called = [named.get(method, words(method)) for method in order]
    axes[0].set_yticks(range(len(order)), called)
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    figure.supxlabel(
        f"points of accuracy above {named.get(base, words(base))}: mean and 95 % interval; "
        "filled: without zero",
        fontsize=9,
    )
    return figure


@house_style()
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
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
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
            axis.xaxis.set_major_formatter(EngFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy, mean of the seeds")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    known = {
        name: line
        for axis in axes
        for line, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, loc="outside lower center", ncols=3, fontsize=9)
    return figure


@house_style()
def memory_map(placed: pd.DataFrame, stack_bytes: int) -> Figure:
    """A linked program's flash and RAM, one bar each of its parts, the largest things named.

    The recording buffer is drawn too, but belongs to the caller: the title leaves it out. Of the
    test program only the flash is drawn, as :class:`hfld_lite.edge.chip.Emulated` counts it.

    Args:
        placed: rows of :class:`hfld_lite.edge.chip.Placed`: ``name``, ``part``, ``section``,
            ``size`` in bytes.
        stack_bytes: measured, for RAM; the map has none.
    """
    initialised, zeroed = (placed["section"] == section for section in (".data", ".bss"))
    in_flash = placed["part"].isin([CODE, CONSTANTS, RUNTIME, TEST])
    stack = pd.DataFrame([{"name": STACK, "part": STACK, "size": stack_bytes}])
    memories = {
        # What is initialised lies in flash too, as constants.
        "flash": placed.assign(part=placed["part"].where(in_flash, CONSTANTS))[~zeroed],
        "RAM": pd.concat([placed[(initialised | zeroed) & (placed["part"] != TEST)], stack]),
    }
    figure = Figure(figsize=(WIDE, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (memory, table) in zip(axes, memories.items(), strict=True):
        low, least = 0, NAMED * table["size"].sum()
        for part, colour in MEMORY_PARTS.items():
            mine = table[table["part"] == part].sort_values("size", ascending=False)
            if mine.empty:
                continue
            label = f"{part}, {mine['size'].sum():,}" + ", the caller's" * (part == BUFFER)
            named = mine[mine["size"] >= least]
            rest, others = mine["size"].sum() - named["size"].sum(), len(mine) - len(named)
            pieces = [*zip(named["name"], named["size"], strict=True), (f"{others} smaller", rest)]
            for name, size in pieces:
                axis.bar(
                    0,
                    size / 1024,
                    1,
                    low / 1024,
                    color=colour,
                    edgecolor="black" if part == BUFFER else "white" if size >= least else colour,
                    linestyle="--" if part == BUFFER else "-",  # another's, so an empty box
                    linewidth=0.8,
                    label=label,
                )
                label = None
                if size >= least:
                    middle = (low + size / 2) / 1024
                    axis.text(0.58, middle, f"{name}, {size:,}", va="center", fontsize=9)
                low += size
        own = table.loc[table["part"] != BUFFER, "size"].sum()
        axis.set(xlim=(-0.6, 2.6), xticks=[], xlabel=f"{memory}, {own:,} bytes", ylabel="KiB")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=9, reverse=True, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
