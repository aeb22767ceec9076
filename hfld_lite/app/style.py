"""The style that all figures share, and a figure's way to the bytes of a PNG file."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from threading import RLock
from typing import TypeVar

import pandas as pd
from matplotlib import rcParams, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from matplotlib.transforms import Bbox

from hfld_lite.app.fonts import spell

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#882255", "#997700")
"""Okabe and Ito's palette, safe for colour-blind eyes, but for colours below 3 to 1 against white:
sky blue, orange and yellow. Two darker ones of Tol's palettes are in their place."""

MARKERS = "osD^vPX"
"""One more than colours, so that more than six things still differ."""

TERM_LABELS = {
    "feature": "feature matching",
    "tckd": "TCKD",
    "nckd": "NCKD",
    "cross_entropy": "cross-entropy",
}
"""Terms of a loss that have a name of their own in figures, in the order of their colours."""

NOT_TERMS = {
    *("role", "epoch", "total", "learning_rate", "validation_accuracy", "validation_loss"),
    *("seconds", "verdict"),
}
"""Columns of a history that are neither a term of the loss nor the weight of one."""

T = TypeVar("T")

_drawing = RLock()
"""Matplotlib is not thread-safe, and a monitor draws in a thread of its own."""

_NOT_STYLE = ("backend", "interactive", "toolbar", "timezone", "webagg", "keymap", "animation")
_NOT_STYLE += ("docstring", "date.epoch", "tk", "macosx", "savefig.directory", "figure.max_open")
_NOT_STYLE += ("figure.raise_window",)

STYLE = {
    **{k: v for k, v in dict.items(rcParamsDefault) if not k.startswith(_NOT_STYLE)},
    "text.parse_math": False,  # names are shown as they are: "$x$" is not a formula
}
"""Matplotlib's parameters in every figure of ours, whatever the user's matplotlibrc says."""


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in STYLE; as a decorator, ``@house_style()``, for functions that make a figure.

    Only what differs is changed and changed back, since another thread may set its own meanwhile.
    """
    with _drawing:
        ours = {name: value for name, value in STYLE.items() if rcParams[name] != value}
        theirs = {name: rcParams[name] for name in ours}
        rcParams.update(ours)
        try:
            yield
        finally:
            rcParams.update({name: theirs[name] for name in ours if rcParams[name] == ours[name]})


class _PlainLog(LogFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_log(axis: Axis) -> None:
    """Label a logarithmic axis by numbers such as 0.02; matplotlib's own labels are formulas."""
    axis.set_major_formatter(_PlainLog())
    axis.set_minor_formatter(_PlainLog())


def log_losses(axes: Axes, losses: Iterable[float]) -> None:
    """A logarithmic axis of losses where any is above zero: all of them may be exactly zero."""
    axes.set(ylabel="training loss")
    if any(loss > 0 for loss in losses):
        axes.set(yscale="log", ylabel="training loss (log)")
        plain_log(axes.yaxis)


def png(figure: Figure, dpi: int = 110, known: dict[tuple, list[Bbox]] | None = None) -> bytes:
    """The figure as the bytes of a PNG file.

    Args:
        figure: whose layout has not been computed yet.
        dpi: dots per inch.
        known: positions of the axes by kind of figure, for a series of pictures; new kinds are
            added. It saves the layout, half of the time, and keeps the axes in place.
    """
    buffer = BytesIO()
    with house_style():
        spell(figure)
        if known is None:
            figure.savefig(buffer, format="png", dpi=dpi)
        else:
            figure.set_dpi(dpi)
            canvas = FigureCanvasAgg(figure)
            _lay_out(figure, known)
            # savefig would draw twice, to compute the layout.
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


def words(name: str) -> str:
    """A name as words: "student_alone" as "student alone"."""
    return name.replace("_", " ")


def ink(ground: Sequence[float]) -> str:
    """Black or white, whichever has more contrast to the ground: 4.5 to 1 at least."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def styled(things: Iterable[T]) -> Iterator[tuple[T, str, str]]:
    """Each thing with a colour and a marker, which repeat after the last ones."""
    yield from zip(things, cycle(COLOURS), cycle(MARKERS), strict=False)


def terms(history: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """The terms of the loss that a history has: label, colour and marker of each.

    The terms of HFLKD have a colour of their own, the others take the colours that are left.

    Args:
        history: of a training, or several below each other; a term is a column of numbers that is
            not in NOT_TERMS, whose name does not start with ``weight_``, and that has a value.
    """
    names = [
        name
        for name in history
        if name not in NOT_TERMS and not name.startswith("weight_") and history[name].notna().any()
    ]
    return term_styles(names)


def term_styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Label, colour and marker of terms by name, those of HFLKD first; see :func:`terms`."""
    names = list(names)
    ordered = [*TERM_LABELS, *(name for name in names if name not in TERM_LABELS)]
    return {
        name: (TERM_LABELS.get(name, words(name)), colour, marker)
        for name, colour, marker in styled(ordered)
        if name in names
    }
