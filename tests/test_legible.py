"""Texts in figures against what they stand on: a contrast of 4.5 to 1, as WCAG 2 asks."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from test_course_good_parts import HIDDEN, LIMIT_SETTING
from test_widgets import DEFECTIVE, DOUBT, NAMES, STUDENT, SWEEP, TEACHER, history

from hfld_lite.app.figures import confusions
from hfld_lite.app.style import COLOURS, png
from hfld_lite.course import figures, good_parts, widgets
from hfld_lite.edge.chip import ARENA, BUFFER, CODE, CONSTANTS, RUNTIME, TEST
from hfld_lite.edge.devices import Needs

SHARES = np.linspace(0, 1, 64).reshape(8, 8)
EIGHT = [str(number) for number in range(8)]
LIVE = pd.DataFrame({"role": ["a", "a"], "epoch": [1, 2], "total": 1.0, "validation_accuracy": 0.5})
PLACED = pd.DataFrame(
    [
        ("vectors", TEST, ".vectors", 64),
        ("hfld_predict", CODE, ".text", 700),
        ("memcpy", RUNTIME, ".text", 300),
        ("weights_1", CONSTANTS, ".rodata", 4000),
        ("bias_1", CONSTANTS, ".rodata", 40),
        ("started", ARENA, ".data", 8),
        ("hfld_arena", ARENA, ".bss", 3000),
        ("recording", BUFFER, ".bss", 2000),
        ("answer", TEST, ".bss", 52),
    ],
    columns=["name", "part", "section", "size"],
)


COMPARED = pd.DataFrame(
    {
        "method": ["kd", "hierarchy", "far_away"],
        "against_alone": [0.004, 0.012, -0.6],
        "low_alone": [-0.002, 0.003, -0.7],
        "high_alone": [0.010, 0.021, -0.5],
    }
)
SWEPT = pd.DataFrame(
    {"method": method, "int8_bytes": 10_000 * size, "macs": 1e6 * size, "int8_ms": 0.1 * size}
    | {"validation_accuracy": 0.9 + size / 1000, "teacher_validation_accuracy": 0.95}
    | dict.fromkeys(("front_int8_bytes", "front_macs", "front_int8_ms"), method == "distilled")
    for method in ("alone", "distilled")
    for size in (1, 30)
)


def of(explorer):
    return explorer.draw(**{name: control.value for name, control in explorer.controls.items()})[0]


FIGURES = {
    "forest": lambda: figures.forest({"tiles": COMPARED, "bearings": COMPARED}, "alone"),
    "front": lambda: figures.front(SWEPT, budgets={"int8_bytes": 20_000}),
    "scatter": lambda: figures.scatter(dict.fromkeys("abc", np.eye(8)[:, :2]), EIGHT),
    "similarity": lambda: figures.similarity(SHARES),
    "answers": lambda: figures.answers(SHARES, EIGHT),
    "confusions": lambda: confusions({"student": (63 * SHARES).round().astype(int)}, EIGHT),
    "live": lambda: figures.live(LIVE, {"a": 2}),
    "logits": lambda: of(widgets.explore_logits(TEACHER, STUDENT, NAMES)),
    "memory map": lambda: figures.memory_map(PLACED, 256),
    "matching": lambda: of(widgets.explore_matching(torch.ones(8, 9), torch.ones(8, 9))),
    "sizes": lambda: of(widgets.explore_sizes(1750)),
    "weights": lambda: of(widgets.explore_weights({"naive": history(0.5)})),
    "tiles": lambda: of(widgets.explore_tiles(seed=3)),
    "devices": lambda: of(widgets.explore_devices({"a": Needs("int8", 99, 9, 9)}, {"a": 0.9})),
    "threshold": lambda: of(widgets.explore_threshold(DOUBT, DEFECTIVE)),
    "promise": lambda: of(good_parts.explore_promise(LIMIT_SETTING, HIDDEN)),
    "histograms": lambda: good_parts.histograms({"good": DOUBT, "defective": 9 * DOUBT}, 2, "s"),
    "gaps": lambda: good_parts.gaps([0.7, 0.9, 1.0, 1.4, 1.8]),
    "correlated": lambda: good_parts.correlated(np.array([[5, 1], [6, 3], [7, 2]]), np.ones(2)),
    "failures": lambda: good_parts.failures(SHARES, 2 * SHARES),
    "ablations": lambda: of(widgets.explore_ablations(SWEEP)),
}


def luminance(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def contrast(one, other):
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def ground(text):
    """The colour below a text: of a picture's cell, of a bar or an area, or the paper's."""
    axis = text.axes
    if axis is None or text.get_transform() != axis.transData:
        return "white"
    x, y = text.get_position()
    for image in axis.images:
        return image.to_rgba(image.get_array()[round(y), round(x)])[:3]
    for patch in axis.patches:
        if patch.contains_point(axis.transData.transform((x, y))):
            return patch.get_facecolor()[:3]
    return "white"


SHOWN, DPI = 640, 90
"""Pixels that a wide picture has where it is shown, and those of an inch of a small one."""


@pytest.mark.parametrize("kind", FIGURES)
def test_every_text_stands_out_and_is_neither_small_nor_covered_nor_cut(kind):
    figure = FIGURES[kind]()
    assert_legible(figure)
    if kind == "confusions":  # as wide as its classes; its own tests are those of the report
        return
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width = figure.get_figwidth()
    boxes = []
    for text in drawn(figure):
        pixels = text.get_fontsize() / 72 * min(DPI, SHOWN / width)
        assert pixels >= 10 - 1e-9, f"{text.get_text()} is {pixels:.1f} px high"
        box = text.get_window_extent(canvas.get_renderer()).padded(-1)
        assert figure.bbox.padded(2).containsx(box.x0), f"{text.get_text()} is cut"
        assert figure.bbox.padded(2).containsx(box.x1), f"{text.get_text()} is cut"
        for other, its in boxes:
            assert not box.overlaps(its), (text.get_text(), other)
        boxes.append((text.get_text(), box))


def drawn(figure):
    """The texts of a figure, without labels of ticks beyond the ends of an axis."""
    texts = set(figure.findobj(mpl.text.Text))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                texts -= {tick.label1, tick.label2}
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


def test_every_colour_of_the_palette_stands_out_from_the_paper():
    for colour in COLOURS:
        assert contrast(colour, "white") >= 3, colour


def test_every_text_of_the_studys_chain_stands_out(study_figures):
    networks = pd.DataFrame(
        {"role": ["teacher", "student"], "parameters": [400, 100], "accuracy": [0.96, 0.95]}
    )
    assert_legible(study_figures.chain(networks, 0.9))


def test_every_part_of_a_memory_map_stands_out_from_the_paper():
    for part, colour in figures.MEMORY_PARTS.items():
        assert part == BUFFER or contrast(colour, "white") >= 3, part
    boxes = [bar for axis in figures.memory_map(PLACED, 256).axes for bar in axis.patches]
    outlined = [contrast(bar.get_edgecolor()[:3], "white") > 3 for bar in boxes]
    filled = [contrast(bar.get_facecolor()[:3], "white") >= 3 for bar in boxes]
    assert all(out or inner for out, inner in zip(outlined, filled, strict=True))


def assert_legible(figure):
    png(figure)
    texts = [text for text in figure.findobj(match=lambda a: hasattr(a, "get_fontsize"))]
    texts = [text for text in texts if text.get_text().strip() and text.get_visible()]
    assert len(texts) > 3
    for text in texts:
        assert contrast(text.get_color(), ground(text)) >= 4.5, text.get_text()


def test_contrast_is_that_of_the_standard():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)
