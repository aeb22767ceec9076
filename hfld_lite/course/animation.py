"""Pictures that follow a training: stored frames that a page plays without a kernel or a script.

The frames are one picture, one below the other, and the page shows one of them: that of the chosen
epoch, or all in turn while *play* is ticked. Nothing moves before that. Where the style sheet is
removed, as in a notebook that JupyterLab does not trust yet, the first frame is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from html import escape
from io import BytesIO

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from hfld_lite.app.style import house_style, png, term_styles, words
from hfld_lite.course.drawing import image
from hfld_lite.data.examples import evaluated
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import Trainer
from hfld_lite.losses import one_to_all_matching

FRAMES = 16
"""Frames of an animation at most; of more epochs some are left out, evenly."""

SECONDS = 0.4
"""How long a frame is seen."""

_PAGE = """<style>
#{mark} {{max-width: {width}px; color: #1a1a1a; background: white; padding: 4px}}
#{mark} .window {{height: auto !important; aspect-ratio: {width} / {height}}}
#{mark} .window img {{display: block; width: 100%; max-width: none; margin: 0}}
#{mark} fieldset {{border: 1px solid #767676; padding: 2px 6px; margin: 4px 0; line-height: 1.8}}
#{mark} legend {{font-size: 13px; margin: 0}}
#{mark} label {{display: inline-block; margin-right: 6px; font-size: 13px; white-space: nowrap}}
{chosen}
@keyframes {mark} {{to {{transform: translateY(-100%)}}}}
#{mark} .play:checked ~ .window img {{animation: {mark} {seconds:g}s steps({count}) infinite}}
@media (prefers-reduced-motion: reduce) {{
  #{mark} .play, #{mark} .play + label {{display: none}}
  #{mark} .play:checked ~ .window img {{animation: none}}
}}
</style>
<div id="{mark}"><input type="checkbox" class="play" id="{mark}-play">
<label for="{mark}-play">play</label>
<fieldset><legend>{legend}</legend>{radios}</fieldset>
<div class="window" style="overflow: hidden; max-width: {width}px; height: {height}px">
{picture}</div></div>"""


def animation(
    figures: Sequence[Figure], names: Sequence[str], alt: str, legend: str = "epoch"
) -> str:
    """Frames as HTML: one is chosen by its name, or all are played; without any script.

    Args:
        figures: of one size.
        names: of the frames, such as the epochs.
        alt: says what changes from the first frame to the last.
        legend: says what the names are.

    Raises:
        ArgumentError: if there are no frames, or not as many as names.
    """
    if not figures or len(figures) != len(names):
        raise ArgumentError(
            f"There are {len(figures)} frames and {len(names)} names; give a name for each frame, "
            "and a frame at least."
        )
    known: dict = {}  # the axes stay in place from frame to frame
    frames = [Image.open(BytesIO(png(figure, dpi=96, known=known))) for figure in figures]
    (width, height), count = frames[0].size, len(frames)
    strip = Image.new("RGB", (width, height * count), "white")
    for i, frame in enumerate(frames):
        strip.paste(frame, (0, i * height))
    stored = BytesIO()
    strip.quantize(128).save(stored, "png", optimize=True)
    data = stored.getvalue()
    mark = f"frames-{sha256(data).hexdigest()[:8]}"  # two animations on a page do not meet
    chosen = "\n".join(
        f"#{mark}:has(#{mark}-{i}:checked) img {{transform: translateY(-{100 * i / count:.4f}%)}}"
        for i in range(count)
    )
    radios = "".join(
        f'<label><input type="radio" name="{mark}" id="{mark}-{i}"{" checked" * (i == count - 1)}>'
        f"{escape(str(name))}</label> "
        for i, name in enumerate(names)
    )
    return _PAGE.format(
        mark=mark,
        width=width,
        height=height,
        chosen=chosen,
        seconds=SECONDS * count,
        count=count,
        legend=escape(legend),
        radios=radios,
        picture=image(data, alt),
    )


def similarity_during_training(
    trainer: Trainer, role: str = "student", teacher: str = "teacher", epochs: int = 0
) -> dict[int, np.ndarray]:
    """M after each epoch of a distillation, a mean over heads and training recordings.

    Args:
        trainer: that has trained the teacher; it keeps the new stage as "ROLE with M".
        role: whose network is taught.
        teacher: name of the stage that teaches.
        epochs: by default, the recipe's.

    Returns:
        By epoch, 0 before training, ``(teacher positions, student positions)``; rows sum to 1.
    """
    targets, tables, fit = trainer.targets(teacher), {}, trainer.fit

    def look(objective: torch.nn.Module, epoch: int) -> None:
        with torch.inference_mode(), evaluated(objective):
            student = objective.student(trainer.train.inputs).features.flatten(2)
            _, found = one_to_all_matching(
                objective.project(student), targets.features, trainer.recipe.heads, True, True
            )
        tables[epoch] = found.mean((0, 1)).numpy()

    def watched(objective: torch.nn.Module, *given: object, **options: object) -> object:
        look(objective, 0)
        options["on_epoch"] = lambda row: look(objective, row["epoch"])
        return fit(objective, *given, **options)

    trainer.fit = watched
    try:
        trainer.distil(role, teacher, name=f"{role} with M", epochs=epochs)
    finally:
        trainer.fit = fit
    return tables


def show_similarity(tables: dict[int, np.ndarray]) -> None:
    """Play M during a training; see :func:`similarity_during_training`."""
    kept = _some(list(tables))
    top = max(float(table.max()) for table in tables.values())
    first, last = tables[kept[0]], tables[kept[-1]]
    alt = (
        f"The similarity tensor M from epoch {kept[0]} to {kept[-1]}, a row for each teacher "
        f"position: the largest share of a row is {first.max(1).mean():.0%} on average before, "
        f"{last.max(1).mean():.0%} after; equal shares would be {1 / first.shape[1]:.0%}"
    )
    frames = [_similarity(tables[epoch], f"after epoch {epoch}", top) for epoch in kept]
    display(HTML(animation(frames, [str(epoch) for epoch in kept], alt)))


def show_collapse(history: pd.DataFrame) -> None:
    """Play the weights of the terms during a training.

    Args:
        history: of a `Distiller`'s training, with ``weight_TERM`` for each term.
    """
    kept = _some(list(history["epoch"]))
    terms = [name for name in history if name.startswith("weight_")]
    top = float(history[terms].max().max())
    rows = history.set_index("epoch")
    first, last = rows.loc[kept[0]], rows.loc[kept[-1]]
    alt = (
        f"Weights of the terms from epoch {kept[0]} to {kept[-1]}: "
        + ", ".join(
            f"{words(name.removeprefix('weight_'))} {first[name]:.3f} to {last[name]:.3f}"
            for name in terms
        )
        + f"; the validation accuracy goes from {first['validation_accuracy']:.0%} to "
        f"{last['validation_accuracy']:.0%}"
    )
    frames = [_weights(history, epoch, top) for epoch in kept]
    display(HTML(animation(frames, [str(epoch) for epoch in kept], alt)))


def _some(epochs: Sequence[int]) -> list[int]:
    """The first, the last, and evenly spaced ones between, FRAMES at most."""
    places = np.linspace(0, len(epochs) - 1, min(FRAMES, len(epochs))).round().astype(int)
    return [int(epochs[place]) for place in places]


@house_style()
def _similarity(table: np.ndarray, title: str, top: float) -> Figure:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(table, vmin=0, vmax=top, cmap="cividis", aspect="auto")
    bar = figure.colorbar(shown, ax=axis, label="share", ticks=MaxNLocator(4))
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set(xlabel="student position", ylabel="teacher position", title=title)
    return figure


@house_style()
def _weights(history: pd.DataFrame, epoch: int, top: float) -> Figure:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1)
    row = history[history["epoch"] == epoch].iloc[0]
    names = [name.removeprefix("weight_") for name in history if name.startswith("weight_")]
    for label, colour, _, value in (
        (*style, row[f"weight_{name}"]) for name, style in term_styles(names).items()
    ):
        bars = above.barh(label, value, color=colour)
        above.bar_label(bars, [f"{value:.3f}"], padding=3)
    above.set(xlim=(0, 1.25 * top), xlabel="weight", title=f"after epoch {epoch}")
    above.invert_yaxis()
    seen = history[history["epoch"] <= epoch]
    below.plot(seen["epoch"], seen["validation_accuracy"], color="black", marker="o", markersize=3)
    below.set(xlim=(0, history["epoch"].max() + 1), ylim=(0, 1.02), xlabel="epoch")
    below.set_ylabel("validation accuracy")
    below.yaxis.set_major_formatter(PercentFormatter(1))
    return figure
