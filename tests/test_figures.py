"""Figures: what they draw is what they were given."""

import inspect
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import hfld_lite.app.figures as report_figures
from hfld_lite.app import fonts
from hfld_lite.app.figures import confusions, curves, size_against_accuracy, spectra
from hfld_lite.app.fonts import family, numbered, shown
from hfld_lite.app.style import COLOURS, STYLE, TERM_LABELS, house_style, png
from hfld_lite.course import figures
from hfld_lite.edge.chip import ARENA, BUFFER, CODE, CONSTANTS, DATA, TEST


@pytest.fixture
def compared():
    return pd.DataFrame(
        {
            "method": ["alone", "kd", "hierarchy"],
            "against_alone": [np.nan, 0.004, 0.012],
            "low_alone": [np.nan, -0.002, 0.003],
            "high_alone": [np.nan, 0.010, 0.021],
        }
    )


def test_a_forest_has_the_best_on_top_and_fills_what_is_clear_of_zero(compared):
    other = compared.assign(against_alone=[np.nan, 0.02, 0.01], low_alone=0.005, high_alone=0.03)
    other.loc[len(other)] = ["only here", 0.015, 0.005, 0.03]
    figure = figures.forest({"tiles": compared, "bearings": other}, "alone")
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "plain KD",
        "HFLKD through the chain",
        "only here",
    ]
    marks = [line for line in left.get_lines() if line.get_marker() == "o"]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([0.4, 1.2])
    assert [mark.get_markerfacecolor() for mark in marks] == ["white", COLOURS[0]]
    marks = [line for line in right.get_lines() if line.get_marker() == "o"]
    places = {float(mark.get_ydata()[0]): float(mark.get_xdata()[0]) for mark in marks}
    assert places == pytest.approx({0: 2.0, 1: 1.0, 2: 1.5}), (
        "both panels have the first one's order"
    )


def test_a_forest_says_how_far_the_far_ones_are_and_does_not_squeeze_the_others(compared):
    compared.loc[1, ["against_alone", "low_alone", "high_alone"]] = [-0.59, -0.64, -0.55]
    axis = figures.forest({"bearings": compared}, "alone").axes[0]
    low, high = axis.get_xlim()
    assert -6 < low < -5
    assert high < 6
    assert "-59 (-64 to -55)" in [text.get_text() for text in axis.texts]
    compared.loc[1, ["low_alone", "high_alone"]] = [-1.5, 0.3]
    unclear = figures.forest({"bearings": compared}, "alone").axes[0]
    marks = [[m for m in a.get_lines() if m.get_marker() == "<"] for a in (axis, unclear)]
    assert [m.get_markerfacecolor() for (m,) in marks] == [COLOURS[1], "white"]


def test_a_forest_of_many_panels_stands_three_in_a_row_on_one_scale(compared):
    figure = figures.forest({f"teacher {n}": compared for n in range(5)}, "alone")
    places = [axis.get_subplotspec() for axis in figure.axes]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [
        *((0, column) for column in range(3)),
        *((1, column) for column in range(2)),
    ]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    below = [any(t.get_visible() for t in axis.get_xticklabels()) for axis in figure.axes]
    assert below == [False, False, True, True, True], "the lowest of each column has numbers"


def test_a_memory_map_draws_every_byte_once_and_names_the_largest():
    placed = pd.DataFrame(
        [
            ("vectors", TEST, ".vectors", 64),
            ("hfld_predict", CODE, ".text", 700),
            ("weights_1", CONSTANTS, ".rodata", 4000),
            ("bias_1", CONSTANTS, ".rodata", 40),
            ("calls", DATA, ".data", 16),
            ("hfld_arena", ARENA, ".bss", 3000),
            ("recording", BUFFER, ".bss", 2000),
            ("answer", TEST, ".bss", 52),
        ],
        columns=["name", "part", "section", "size"],
    )
    flash, ram = figures.memory_map(placed, 256).axes
    for axis, total in ((flash, 64 + 700 + 4040 + 16), (ram, 16 + 3000 + 256 + 2000)):
        ends = [0, *(1024 * (bar.get_y() + bar.get_height()) for bar in axis.patches)]
        assert [1024 * bar.get_y() for bar in axis.patches] == pytest.approx(ends[:-1])
        assert ends[-1] == pytest.approx(total)
    assert (flash.get_xlabel(), ram.get_xlabel()) == ("flash, 4,820 bytes", "RAM, 3,272 bytes")
    named = [[text.get_text() for text in axis.texts] for axis in (flash, ram)]
    assert named[0] == ["hfld_predict, 700", "weights_1, 4,000"], "not what is small"
    assert named[1] == ["hfld_arena, 3,000", "stack, 256", "recording, 2,000"]
    legends = [text.get_text() for a in (flash, ram) for text in a.get_legend().get_texts()]
    assert "constants, 4,056" in legends, "what is initialised lies in flash, too"
    assert "recording buffer, 2,000, the caller's" in legends


def test_trends_has_a_line_for_each_method_in_the_order_of_x(study_figures):
    table = pd.DataFrame(
        {
            "method": ["alone", "alone", "teacher", "teacher"],
            "x": [20, -10, -10, 20],
            "accuracy": [0.9, 0.5, 0.6, 0.95],
            "deviation": [0.01, np.nan, 0.02, 0.01],
        }
    )
    axis = study_figures.trends(table, "noise, dB").axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["-10", "20"]
    lines = [container.lines[0] for container in axis.containers]
    assert [line.get_ydata().tolist() for line in lines] == [[0.5, 0.9], [0.6, 0.95]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert axis.get_xlabel() == "noise, dB"


def test_operating_curves_fall_from_all_missed_to_none(study_figures):
    doubt, defective = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    axis = study_figures.operating_curves({"student": (doubt, defective)}, (0.05,)).axes[0]
    alarms, missed = axis.get_lines()[0].get_data()
    assert (alarms[0], missed[0]) == (0, 1)
    assert (alarms[-1], missed[-1]) == (1, 0)
    assert (np.diff(missed) <= 0).all()
    assert 0.5 in missed[alarms == 0], "one of two is found before the first alarm"
    assert axis.get_ylim()[1] < 0.6, "only what a limit that somebody would choose lets through"


def test_a_chain_draws_areas_as_the_parameters_are(study_figures):
    networks = pd.DataFrame(
        {"role": ["teacher", "student"], "parameters": [400, 100], "accuracy": [0.96, 0.95]}
    )
    axis = study_figures.chain(networks, 0.9).axes[0]
    areas = [patch.get_width() * patch.get_height() for patch in axis.patches[:2]]
    assert areas[0] == pytest.approx(4 * areas[1])
    words = " ".join(text.get_text() for text in axis.texts)
    assert all(said in words for said in ("400 parameters", "96.0%", "trained alone: 90.0%"))


@pytest.fixture
def history():
    """Two roles: one with the terms of HFLKD, one with terms that nobody has heard of."""
    rows = []
    for role, terms in (
        ("teacher", ["cross_entropy"]),
        ("student", [*TERM_LABELS]),
        ("student_other", ["cross_entropy", "my_own_loss", "dense"]),
    ):
        for epoch in (1, 2):
            row = {"role": role, "epoch": epoch, "total": 2.0, "learning_rate": 0.1}
            row |= {f"weight_{name}": 0.5 for name in terms} | dict.fromkeys(terms, 1 / epoch)
            row |= {"validation_accuracy": 0.5, "validation_loss": 1.0, "seconds": 3.0}
            rows.append(row | {"verdict": ""})
    return pd.DataFrame(rows)


def test_curves_draw_every_term_that_a_history_has(history):
    panels = {axis.get_title(): axis for axis in curves(history).axes}
    drawn = {
        title: {line.get_label(): line.get_color() for line in axis.get_lines()}
        for title, axis in panels.items()
        if title
    }
    assert drawn["teacher"] == {"cross-entropy": COLOURS[3]}
    assert drawn["student"] == dict(zip(TERM_LABELS.values(), COLOURS, strict=False))
    assert [*drawn["student other"]] == ["cross-entropy", "my own loss", "dense"]
    assert len({*drawn["student other"].values()} | {*drawn["student"].values()}) == 6


def test_curves_draw_every_role_of_a_long_chain(history):
    one = history[history["role"] == "teacher"]
    many = pd.concat([one.assign(role=f"role {number}") for number in range(9)])
    *panels, accuracy = curves(many).axes
    assert len(panels) == len(accuracy.get_lines()) == 9
    styles = {(line.get_color(), line.get_marker()) for line in accuracy.get_lines()}
    assert len(styles) == 9


def test_weights_draw_the_share_of_every_term(history):
    mine = history[history["role"] == "student_other"].dropna(axis=1)
    shares = figures.weights(mine).axes[0].get_lines()
    assert [line.get_label() for line in shares] == ["cross-entropy", "my own loss", "dense"]
    assert sum(line.get_ydata() for line in shares) == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
def test_curves_of_a_given_network_show_its_one_accuracy():
    rows = [{"epoch": 0, "validation_accuracy": 0.8, "role": "teacher"}]
    rows += [
        {"epoch": e, "kd": 1 / e, "validation_accuracy": 0.5, "role": "student"} for e in (1, 2)
    ]
    first, _, last = curves(pd.DataFrame(rows)).axes
    assert [text.get_text() for text in first.texts] == ["not trained here"]
    assert list(last.lines[0].get_ydata()) == [0.8, 0.8]


HOSTILE = {
    "text.usetex": True,
    "font.family": "a font that nobody has",
    "font.size": 30,
    "axes.prop_cycle": mpl.cycler(color=["red"]),
    "axes.facecolor": "black",
    "axes.grid": True,
    "figure.dpi": 30,
    "savefig.dpi": 400,
    "savefig.bbox": "tight",
    "savefig.facecolor": "green",
    "savefig.transparent": True,
    "lines.linewidth": 9,
    "xtick.labelsize": 40,
    "axes.unicode_minus": False,
}
"""What a user's matplotlibrc may say."""


def ours(history):
    """Figures of the report as bytes."""
    table = pd.DataFrame(
        [{"role": "student", "parameters": 100, "accuracy": 1.0, "low": 0.7, "high": 1.0}]
    )
    inputs = np.random.default_rng(0).random((4, 300))
    return [
        png(figure)
        for figure in (
            size_against_accuracy(table),
            curves(history),
            confusions({"student": np.eye(2, dtype=int)}, ["N", "D"]),
            spectra(inputs, np.array([0, 1, 0, 1]), ["N", "D"], 50.0),
        )
    ]


def test_figures_do_not_depend_on_the_users_style_and_leave_it(history):
    usual = ours(history)
    with mpl.rc_context(HOSTILE):
        before = dict(mpl.rcParams)
        assert ours(history) == usual
        assert dict(mpl.rcParams) == before


def test_a_style_that_another_thread_sets_meanwhile_is_kept():
    with mpl.rc_context({"lines.linewidth": 9}):
        with house_style():
            assert mpl.rcParams["lines.linewidth"] == STYLE["lines.linewidth"]
            mpl.rcParams["lines.linewidth"] = 5
            mpl.rcParams["font.size"] = 31
        assert (mpl.rcParams["lines.linewidth"], mpl.rcParams["font.size"]) == (5, 31)


def test_every_function_that_makes_a_figure_has_the_style(study_figures):
    for module in (report_figures, figures, study_figures):
        made = [
            f
            for _, f in inspect.getmembers(module, inspect.isfunction)
            if f.__module__ == module.__name__ and inspect.signature(f).return_annotation is Figure
        ]
        assert len(made) >= 3
        for draw in made:
            assert "house_style" in inspect.getsource(draw).splitlines()[0], draw.__name__


NAMES = ["$x$", "a_b^c", "$unbalanced", r"\alpha$\frac", "<script>", "50 %", "{x}"]


def test_names_are_drawn_as_they_are():
    figure = confusions({"student": np.eye(7, dtype=int)}, NAMES)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == NAMES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = png(figure)
        assert png(spectra(np.ones((2, 300)), np.array([0, 1]), NAMES, 50.0))
    assert not any(text.get_parse_math() for text in figure.findobj(mpl.text.Text))
    assert drawn != png(confusions({"student": np.eye(7, dtype=int)}, ["x", *NAMES[1:]]))
    assert numbered(NAMES) == ""


@pytest.mark.parametrize(
    "names",
    [["\u78c1\u74e6", "N"], ["N" * 25, "D"], ["a\nb", "c"], ["\ud800", "c"], ["\U0010ffff", "c"]],
)
def test_names_that_cannot_be_drawn_are_numbers_with_a_legend(names, monkeypatch):
    monkeypatch.setattr(
        fonts, "_fonts", lambda: [known for known in REAL() if known[0] == fonts.USUAL]
    )
    fonts._family.cache_clear()
    try:
        assert shown(names) == ["1", "2"]
        assert numbered(names) == f"The figures number the classes: 1: {names[0]}, 2: {names[1]}."
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert png(confusions({"student": np.eye(2, dtype=int)}, names))
    finally:
        fonts._family.cache_clear()


REAL = fonts._fonts


def test_a_font_of_the_machine_that_has_the_characters_is_taken(monkeypatch):
    symbol = next(
        chr(code)
        for name, path in REAL() if name.startswith("STIX")
        for code in sorted(mpl.font_manager.get_font(path).get_charmap())
        if code > 0x2000 and family(chr(code)) not in (None, fonts.USUAL)
    )  # fmt: skip
    names = [symbol, "b"]
    assert shown(names) == names
    figure = confusions({"student": np.eye(2, dtype=int)}, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png(figure)
    drawn = figure.axes[0].get_yticklabels()[0]
    assert drawn.get_text() == symbol
    assert drawn.get_fontfamily() == [family(symbol)]


def test_arabic_is_drawn_only_where_matplotlib_joins_its_letters(monkeypatch):
    names = ["\u062c\u064a\u062f", "b"]
    monkeypatch.setattr(fonts, "_SHAPES", False)
    assert shown(names) == ["1", "2"]
    monkeypatch.setattr(fonts, "_SHAPES", True)
    assert shown(names) == names


@pytest.mark.filterwarnings("error")
def test_losses_that_are_exactly_zero_are_drawn(history):
    zero = history.assign(cross_entropy=[0.5, 0.0, *[0.0] * 4], validation_accuracy=1.0)
    first, *_ = curves(zero).axes
    assert png(curves(zero))
    assert first.get_yscale() == "log"
    assert not any("$" in text.get_text() for text in first.get_yticklabels(which="both"))
    alone = zero[zero["role"] == "student_other"].assign(my_own_loss=0.0, dense=0.0)
    assert curves(alone).axes[0].get_yscale() == "linear"
    assert png(figures.live(zero.assign(total=0.0), {"teacher": 2, "student": 2}))
