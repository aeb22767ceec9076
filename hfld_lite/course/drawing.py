"""Drawings of the method as SVG text, written by hand, and the one call that shows a figure.

All are dark on white, 400 units wide, with text of 12: readable at 400 px. ``<title>`` and
``<desc>`` say in words what is drawn; the latter is the alternative text in a notebook.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from IPython.display import HTML, display
from torch import nn

from hfld_lite.app.style import png, words
from hfld_lite.errors import ArgumentError, DataError, nearest
from hfld_lite.storage.checkpoints import read_state
from hfld_lite.weighting import PVPN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, TEXT = 400, 12
"""Of a drawing, and the height of its text, in its own units."""

DARK, GREY_TEXT, GREY = "#1a1a1a", "#666666", "#8a8a8a"

PARTS = {
    "data": ("#0072B2", "#dcecf7"),
    "networks": ("#b64f00", "#fbe6d6"),
    "logits": ("#9b4f80", "#f6e3ee"),
    "features": ("#00755a", "#d8f0e8"),
    "pvpn": ("#856000", "#fbefcf"),
    "chain": ("#7a3300", "#fbe6d6"),
    "device": ("#4b45a1", "#e6e5f6"),
    "evaluation": ("#006d75", "#d6eff1"),
    "anomaly": ("#a12a2a", "#f9dfdf"),
}
"""The parts of the framework: colour of lines, 4.5 to 1 against white at least, and of areas."""


class Sheet:
    """Boxes, arrows and texts of one drawing, in the order in which they are drawn.

    Args:
        height: of the drawing; its width is WIDTH.
        part: what is in colour, a name in PARTS; the rest is grey. None for all in colour.
    """

    def __init__(self, height: float, part: str | None = None) -> None:
        self.height, self.part, self.drawn = height, part, []

    def look(self, parts: str) -> tuple[str, str, str]:
        """Colours of lines, area and text of something that belongs to parts; the first rules."""
        first, *_ = names = parts.split()
        if self.part is None or self.part in names:
            return *PARTS[first], DARK
        return GREY, "white", GREY_TEXT

    def text(
        self, x: float, y: float, lines: str, parts: str, anchor: str = "middle", bold: bool = False
    ) -> None:
        """Lines of text, split at "|", the first with its base at y."""
        weight = ' font-weight="bold"' if bold else ""
        for i, line in enumerate(lines.split("|")):
            self.drawn.append(
                f'<text x="{x:g}" y="{y + 14 * i:g}" text-anchor="{anchor}"{weight} '
                f'fill="{self.look(parts)[2]}">{escape(line)}</text>'
            )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: str,
        parts: str,
        top: bool = False,
        dashed: bool = False,
        empty: bool = False,
    ) -> None:
        """A box with its text in the middle, or at its top."""
        line, area, _ = self.look(parts)
        count = lines.count("|") + 1
        self.drawn.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{"none" if empty else area}" stroke="{line}" stroke-width="1.5"'
            + ' stroke-dasharray="5 3"' * dashed
            + "/>"
        )
        base = y + 15 if top else y + height / 2 - 7 * (count - 1) + 4
        self.text(x + width / 2, base, lines, parts)

    def line(
        self, points: Sequence[tuple[float, float]], parts: str, arrow: bool = True, wide: float = 2
    ) -> None:
        """A line through points, with an arrowhead at its end."""
        colour = self.look(parts)[0]
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{wide:g}"/>'
        )
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
            dx, dy = 7 * (x - x0) / length, 7 * (y - y0) / length
            head = [(x, y), (x - dx - dy / 2, y - dy + dx / 2), (x - dx + dy / 2, y - dy - dx / 2)]
            self.drawn.append(
                f'<polygon points="{" ".join(f"{a:.4g},{b:.4g}" for a, b in head)}" '
                f'fill="{colour}"/>'
            )

    def bars(
        self, x: float, y: float, heights: Sequence[float], parts: str, width: float, gap: float = 2
    ) -> None:
        """Bars that stand on y."""
        for i, height in enumerate(heights):
            self.drawn.append(
                f'<rect x="{x + i * (width + gap):g}" y="{y - height:g}" width="{width:g}" '
                f'height="{height:g}" fill="{self.look(parts)[0]}"/>'
            )

    def svg(self, title: str, words: str) -> str:
        """The document; ``words`` say what is drawn to those who cannot see it."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" '
            f'width="{WIDTH}" height="{self.height:g}" role="img" '
            f'font-family="Arial, Helvetica, sans-serif" font-size="{TEXT}">\n'
            f"<title>{escape(title)}</title>\n<desc>{escape(words)}</desc>\n"
            f'<rect width="{WIDTH}" height="{self.height:g}" fill="white"/>\n'
            + "\n".join(self.drawn)
            + "\n</svg>\n"
        )


def image(data: bytes, alt: str, width: str = "") -> str:
    """A PNG or SVG file as an HTML element with alternative text."""
    kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
    encoded = base64.b64encode(data).decode()
    return (
        f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{encoded}" '
        f'style="{width}max-width:100%">'
    )


def show(figure: "Figure | str", alt: str = "") -> None:
    """Show a figure in a notebook, with words for those who cannot see it.

    It is stored as one ``<img>`` that needs nothing from elsewhere, so a static page shows it too.

    Args:
        figure: of matplotlib, or SVG text.
        alt: says what there is to see; by default the ``<desc>`` of the SVG.

    Raises:
        ArgumentError: if there is no alternative text.
    """
    if isinstance(figure, str):
        said = re.search(r"<desc>(.*?)</desc>", figure, re.S)
        alt = alt or (unescape(said[1]) if said else "")
        data, width = figure.encode(), "width:480px;"
    else:
        data, width = (png(figure), "") if alt else (b"", "")
    if not alt:
        raise ArgumentError("The figure has no alternative text; say in alt what it shows.")
    display(HTML(image(data, alt, width)))


def framework(highlight: str | None = None) -> str:
    """The whole method in one drawing, as SVG text.

    Args:
        highlight: the part that is in colour, a name in PARTS, or None for all.

    Raises:
        ArgumentError: if the framework has no such part.
    """
    if highlight is not None and highlight not in PARTS:
        raise ArgumentError(
            f"The framework has no part {highlight!r}; {nearest(highlight, PARTS)}."
        )
    sheet = Sheet(690, highlight)
    data = "data anomaly"
    # What all networks read, and the labels.
    sheet.text(8, 16, "Training", "networks chain", "start", bold=True)
    sheet.box(8, 26, 104, 56, "recording", data, top=True)
    wave = [(16 + 2 * i, 62 + 14 * (-1) ** i * 0.93**i) for i in range(45)]
    sheet.line(wave, data, arrow=False, wide=1)
    sheet.line([(112, 54), (132, 54)], data)
    sheet.box(132, 26, 104, 56, "spectrum", data, top=True)
    peaks = {4: 18, 5: 9, 9: 8, 14: 27, 15: 12, 20: 6, 25: 15, 26: 20, 31: 5}
    sheet.bars(142, 78, [peaks.get(i, 2 + i % 2) for i in range(34)], data, 1.5, 1)
    sheet.box(290, 26, 102, 56, "labels for|cross-entropy", "data")
    # The three networks, each with its features and logits.
    rows = {"teacher": 112, "secondary|teacher": 218, "student": 324}
    sheet.line([(184, 82), (184, 96), (14, 96), (14, 350)], data, arrow=False)
    sheet.line([(387, 82), (387, 350)], "data", arrow=False)
    for number, (name, y) in enumerate(rows.items()):
        middle, width = y + 26, (112, 92, 72)[number]
        sheet.line([(14, middle), (28, middle)], data)
        sheet.box(28, y, width, 52, name, "networks chain anomaly" + " device" * (number == 2))
        sheet.line([(28 + width, middle), (158, middle)], "networks chain anomaly")
        read = "features anomaly" + " pvpn" * (number == 2)
        sheet.box(158, y, 92, 52, "features", read, top=True)
        sheet.bars(164, y + 46, [6 + (7 * i + 3 * number) % 17 for i in range(9)], read, 7)
        sheet.line([(250, middle), (276, middle)], "networks chain")
        sheet.box(276, y, 94, 52, "logits", "logits", top=True)
        heights = ((8, 23, 11, 5), (9, 20, 13, 6), (10, 17, 12, 8))[number]
        sheet.bars(292, y + 46, heights, "logits", 12, 5)
        sheet.line([(387, middle), (370, middle)], "data")
        if number < 2:
            sheet.line([(56, y + 52), (56, y + 106)], "chain")
            sheet.text(64, y + 83, "teaches", "chain", "start")
            sheet.line([(176, y + 52), (176, y + 106)], "features anomaly chain")
            sheet.text(184, y + 76, "feature|matching", "features anomaly chain", "start")
            sheet.line([(290, y + 52), (290, y + 106)], "logits chain")
            sheet.text(298, y + 76, "separated|logits", "logits chain", "start")
    # How much of each term: the PVPN over the four.
    sheet.line([(204, 376), (204, 400)], "pvpn")
    sheet.box(
        88, 400, 232, 38, "PVPN: reads the features, predicts|the weights α, μ, ν and β", "pvpn"
    )
    terms = (
        ("α · feature|matching", "features"),
        ("μ · TCKD", "logits"),
        ("ν · NCKD", "logits"),
        ("β · cross-|entropy", "data"),
    )
    sheet.line([(204, 438), (204, 450)], "pvpn", arrow=False)
    sheet.line([(50, 450), (350, 450)], "pvpn", arrow=False)
    for i, (name, part) in enumerate(terms):
        x = 8 + 100 * i
        sheet.line([(x + 42, 450), (x + 42, 466)], "pvpn")
        sheet.box(x, 466, 84, 40, name, f"{part} pvpn")
        if i:
            sheet.text(x - 8, 490, "+", "pvpn")
    sheet.text(200, 524, "The sum is the loss of each network that is taught.", "pvpn")
    # What runs at the end, and how it is judged.
    sheet.box(4, 540, 392, 82, "", "device", dashed=True, empty=True)
    sheet.text(12, 558, "On the device: the student alone", "device", "start", bold=True)
    places = (
        (10, 78, "recording", "device"),
        (106, 78, "spectrum", "device"),
        (202, 72, "student", "device"),
        (292, 98, "sound or|defective", "device evaluation anomaly"),
    )
    for x, width, name, parts in places:
        sheet.box(x, 568, width, 44, name, parts)
        if x > 10:
            sheet.line([(x - 18, 590), (x, 590)], "device")
    sheet.line([(341, 612), (341, 636)], "evaluation")
    judged = "Evaluation: misses and|false alarms, with intervals"
    sheet.box(206, 636, 188, 46, judged, "evaluation")
    sheet.box(6, 636, 190, 46, "Only good parts: alarm|where matching fails", "anomaly")
    return sheet.svg(
        _TITLE + (f", with {_NAMES[highlight]} in colour" if highlight else ""), _WORDS
    )


def show_framework(part: str | None = None) -> None:
    """Show the drawing of the method, with one part in colour; see :func:`framework`."""
    show(framework(part))


def one_to_all(similarity: np.ndarray, position: int | None = None) -> tuple[str, str]:
    """Which student positions a teacher position is compared with: its own, or all of them.

    Args:
        similarity: M of one recording and head, ``(teacher positions, student positions)``, up to
            nine each; the arrows of one-to-all matching are as wide as its shares.
        position: the only teacher position whose arrows are drawn; by default those of all.

    Returns:
        SVG text and its alternative text.
    """
    teacher, student = np.shape(similarity)
    sheet = Sheet(196)
    for left, title in ((8, "One-to-one"), (212, "One-to-all")):
        sheet.text(left + 90, 16, title, "features", bold=True)
        places = [
            [left + 180 * (i + 0.5) / count for i in range(count)] for count in (teacher, student)
        ]
        sheet.text(left, 40, "teacher positions", "networks", "start")
        sheet.text(left, 188, "student positions", "networks", "start")
        for i, x in enumerate(places[0]):
            for j, to in enumerate(places[1]):
                share = float(i == j) if left == 8 else similarity[i][j]
                if share >= 0.02 and position in (None, i):
                    sheet.line([(x, 68), (to, 148)], "features", share > 0.2, 0.5 + 3.5 * share)
        for y, line in zip((58, 158), places, strict=True):
            for i, x in enumerate(line):
                sheet.box(x - 9, y - 10, 18, 20, str(i), "networks")
    drawn = range(teacher) if position is None else [position]
    alt = (
        f"Left, one-to-one: each of {teacher} teacher positions is compared with the student "
        "position of the same number. Right, one-to-all: each is compared with all "
        f"{student} student positions, and the widest arrows lead "
        + ", ".join(f"from {i} to {int(np.argmax(similarity[i]))}" for i in drawn)
    )
    return sheet.svg("One-to-one and one-to-all matching", alt), alt


def pvpn_layers(pvpn: PVPN) -> tuple[str, str]:
    """The layers of a PVPN with the shapes between them and their parameters.

    Returns:
        SVG text and its alternative text.
    """
    x = torch.zeros(1, pvpn.channels, pvpn.positions)
    steps = [("features of the student", tuple(x.shape[1:]), None)]
    with torch.inference_mode():
        for layer in pvpn.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                steps[-1] = (steps[-1][0] + ", ReLU", *steps[-1][1:])
                continue
            name = {nn.Conv1d: "1×1 convolution", nn.Linear: "linear"}.get(type(layer), "flatten")
            count = sum(p.numel() for p in layer.parameters())
            steps.append((name, tuple(x.shape[1:]), count))
    sheet = Sheet(56 * len(steps) + 2)
    for i, (name, shape, count) in enumerate(steps):
        y, size = 8 + 56 * i, " × ".join(f"{n:,}" for n in shape)
        wide = 150 + 90 * np.log(np.prod(shape)) / np.log(np.prod(steps[0][1]))
        parts = "features" if count is None else "pvpn"
        sheet.box(125 - wide / 2, y, wide, 36, f"{name}|{size}", parts)
        if count:
            sheet.text(258, y + 22, f"{count:,} parameters", parts, "start")
        if i:
            sheet.line([(125, y - 20), (125, y)], "pvpn")
    total = sum(count or 0 for *_, count in steps)
    layers = "; ".join(
        f"{name} to {' by '.join(map(str, shape))}"
        + (f" with {count:,} parameters" if count else "")
        for name, shape, count in steps[1:]
    )
    alt = (
        f"The PVPN reads {pvpn.channels} channels at {pvpn.positions} positions: {layers}; "
        f"{total:,} parameters in all"
    )
    return sheet.svg("The layers of the PVPN", alt), alt


KEPT_IN = {
    "objective": "the network and what is trained with it",
    "best_state": "the network at its best epoch",
    "optimizer": "the optimiser's means of the gradients",
    "schedule": "the place in the learning rate's schedule",
    "precision": "the scale of mixed precision",
    "generators": "the generators of order and variation",
    "dropout": "the generator of dropout",
    "rows": "the history, a row for each epoch",
    "seconds": "the seconds so far",
    "epoch": "the number of finished epochs",
    "best": "the best validation so far",
    "best_epoch": "the epoch of the best validation",
    "made_of": "hashes of recipe and teachers",
}
"""What an entry of a checkpoint is; others are shown by their name."""


def checkpoint(folder: str | Path) -> tuple[str, str]:
    """What the newest checkpoint of a training holds, with the size of each entry.

    Args:
        folder: that :func:`hfld_lite.hierarchy.distill_chain` was given.

    Returns:
        SVG text and its alternative text.

    Raises:
        DataError: if the folder holds no checkpoint.
    """
    files = sorted(Path(folder).glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        raise DataError(
            folder, "it holds no checkpoint", mend="give the folder of a training with checkpoints"
        )
    state = read_state(files[-1])
    entries = [(name, _bytes(value)) for name, value in state.items() if value is not None]
    ordered = sorted((entry for entry in entries if entry[1]), key=lambda entry: -entry[1])
    sheet = Sheet(30 * len(ordered) + 40)
    sheet.text(200, 18, f"One checkpoint: {files[-1].stat().st_size:,} bytes", "data", bold=True)
    for i, (name, size) in enumerate(ordered):
        y = 32 + 30 * i
        sheet.box(8, y, 384, 24, "", "data")
        label = KEPT_IN.get(name, words(name))
        sheet.text(16, y + 16, label, "data", "start")
        sheet.text(384, y + 16, f"{size:,} bytes", "data", "end")
    alt = "A checkpoint holds " + "; ".join(
        f"{KEPT_IN.get(name, words(name))}, {size:,} bytes" for name, size in ordered
    )
    return sheet.svg("What a checkpoint holds", alt), alt


def _bytes(value: Any) -> int:
    """Of the tensors in a value, and of everything else as JSON."""
    if hasattr(value, "nbytes"):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(len(str(key)) + _bytes(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return len(json.dumps(value))


_TITLE = "Hierarchical feature-logit knowledge distillation"
_NAMES = {
    "data": "the data",
    "networks": "the networks",
    "logits": "the separated logits",
    "features": "the feature matching",
    "pvpn": "the PVPN",
    "chain": "the chain",
    "device": "the device",
    "evaluation": "the evaluation",
    "anomaly": "learning from good parts only",
}
_WORDS = (
    "A recording becomes a spectrum, which three networks read: a large teacher, a smaller "
    "secondary teacher and a small student. Each gives features at nine positions and logits. The "
    "teacher teaches the secondary teacher, and that one teaches the student, in two ways: by "
    "feature matching and by separated logits, TCKD and NCKD. All learn from labels, too, by "
    "cross-entropy. The PVPN reads the features of the network that is taught and predicts the "
    "weights of the four terms; their weighted sum is the loss. On the device only the student "
    "runs: recording, spectrum, student, then sound or defective. The evaluation counts misses and "
    "false alarms, with intervals. Where only good parts are known, there is an alarm where "
    "matching fails."
)
