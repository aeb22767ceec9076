"""Drawings: the stored file is what the program makes, and everybody can read it."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from test_legible import assert_legible, contrast

from hfld_lite import resnet1d
from hfld_lite.course import drawing, figures
from hfld_lite.data.views import network_inputs
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.networks import count_parameters
from hfld_lite.recipes import Recipe
from hfld_lite.storage.checkpoints import write_state
from hfld_lite.weighting import PVPN

STORED = Path(__file__).parents[1] / "notebooks" / "pictures" / "framework.svg"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_stored_drawing_is_what_the_program_makes():
    assert STORED.read_text(encoding="utf-8") == drawing.framework()


@pytest.mark.parametrize("part", [None, *drawing.PARTS])
def test_every_drawing_is_read_by_everybody(part):
    assert_readable(drawing.framework(part))


def assert_readable(svg):
    """Words for those who cannot see, text of 10 px at 400 px, contrast, no remote resource."""
    root = ET.fromstring(svg)
    assert len(root.findtext(f"{SVG}title")) > 10
    assert len(root.findtext(f"{SVG}desc")) > 100
    _, _, width, height = map(float, root.get("viewBox").split())
    assert float(root.get("font-size")) * 400 / width >= 10
    texts = root.findall(f"{SVG}text")
    assert texts
    boxes = root.findall(f"{SVG}rect")
    for text in texts:
        x, y = float(text.get("x")), float(text.get("y"))
        assert 0 < x < width
        assert 0 < y < height
        below = [b for b in boxes if inside(b, x, y) and b.get("fill") != "none"]
        assert contrast(text.get("fill"), below[-1].get("fill")) >= 4.5, text.text
    for drawn in root.iter():
        assert not {"href", "font-size", f"{SVG}href"} & set(drawn.keys()) or drawn is root
        if (line := drawn.get("stroke")) is not None:
            assert contrast(line, "white") >= 3
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def inside(box, x, y):
    left, top = (float(box.get(of, 0)) for of in "xy")
    return 0 <= x - left <= float(box.get("width")) and 0 <= y - top <= float(box.get("height"))


def test_a_part_is_in_colour_and_the_rest_grey():
    whole, part = drawing.framework(), drawing.framework("pvpn")
    for name, (line, _) in drawing.PARTS.items():
        assert line in whole, name
    assert drawing.PARTS["pvpn"][0] in part
    assert drawing.PARTS["chain"][0] not in part
    assert drawing.GREY in part
    assert drawing.GREY not in whole
    with pytest.raises(ArgumentError, match="no part 'pvpm'"):
        drawing.framework("pvpm")


def test_a_figure_is_shown_with_its_words(shown):
    figure = Figure()
    figure.subplots().plot([1, 2])
    drawing.show(figure, 'a line that "rises"')
    (page,) = shown
    assert 'alt="a line that &quot;rises&quot;"' in page
    data = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', page)[1])
    assert data.startswith(b"\x89PNG")
    with pytest.raises(ArgumentError, match="alternative text"):
        drawing.show(figure)


def test_a_drawing_brings_its_own_words(shown):
    drawing.show_framework("logits")
    (page,) = shown
    svg = base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', page)[1])
    assert svg.decode() == drawing.framework("logits")
    said = ET.parse(io.BytesIO(svg)).getroot().findtext(f"{SVG}desc")
    assert unescape(re.search(r'alt="([^"]*)"', page)[1]) == said


SHARES = np.array([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.01, 0.09, 0.9]])


def widths(svg):
    """Of the arrows of one-to-all, from teacher to student."""
    lines = ET.fromstring(svg).findall(f"{SVG}polyline")
    return [float(line.get("stroke-width")) for line in lines]


def test_arrows_are_as_wide_as_the_shares():
    svg, alt = drawing.one_to_all(SHARES)
    assert_readable(svg)
    assert alt.endswith("from 0 to 1, from 1 to 0, from 2 to 2")
    one, many = widths(svg)[:3], widths(svg)[3:]
    assert one == [4, 4, 4]
    assert many == pytest.approx([0.5 + 3.5 * share for share in SHARES.flat if share >= 0.02])
    alone, alt = drawing.one_to_all(SHARES, 1)
    assert len(widths(alone)) == 4
    assert alt.endswith("lead from 1 to 0")


def test_the_layers_of_the_pvpn_are_those_of_the_module():
    pvpn = PVPN(512, 9, 4)
    svg, alt = drawing.pvpn_layers(pvpn)
    assert_readable(svg)
    assert f"{count_parameters(pvpn):,} parameters in all" in alt
    counts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters<", svg)]
    assert sum(counts) == count_parameters(pvpn)
    assert all(s in svg for s in ("512 × 9", "256 × 9", "32 × 9", "4 × 9", ">36<", ">512<"))


def test_a_checkpoint_shows_what_its_file_holds(tmp_path):
    with pytest.raises(DataError, match="holds no checkpoint"):
        drawing.checkpoint(tmp_path)
    state = {"epoch": 3, "objective": {"w": torch.zeros(500)}, "nothing": None, "my_own": "abc"}
    write_state(tmp_path / "student.epoch-00003.safetensors", state)
    svg, alt = drawing.checkpoint(tmp_path)
    assert_readable(svg)
    assert "what is trained with it, 2,001 bytes" in alt
    assert "my own, 5 bytes" in alt
    assert "nothing" not in alt
    size = (tmp_path / "student.epoch-00003.safetensors").stat().st_size
    assert f"One checkpoint: {size:,} bytes" in svg


@pytest.mark.parametrize("view", ["log-mel", "spectrum"])
def test_positions_read_where_the_gradient_comes_from(view, tiny_recordings):
    torch.manual_seed(0)
    network = resnet1d(10, 4, 1 / 16, "small").eval()
    recipe = Recipe(view=view)
    samples, rate = tiny_recordings.signals.shape[1], tiny_recordings.sample_rate
    table = figures.bands(network, recipe, samples, rate)
    inputs = network_inputs(tiny_recordings.signals[:8], recipe, rate).requires_grad_()
    pooled = network.pool(network.stages(network.stem(inputs[:, None])))
    for row in table.itertuples():
        (grad,) = torch.autograd.grad(pooled[:, :, row.position].sum(), inputs, retain_graph=True)
        reached = grad.abs().sum(0).nonzero().flatten()
        assert row.sees_first <= int(reached.min())
        assert int(reached.max()) <= row.sees_last
        assert row.sees_first <= row.first < row.last <= row.sees_last
        middle = (row.first + row.last) / 2
        assert abs(float((grad.abs().sum(0) * torch.arange(len(grad[0]))).sum())
                   / float(grad.abs().sum()) - middle) < 40  # fmt: skip
    assert (table["first"].iloc[0], table["last"].iloc[-1]) == (0, inputs.shape[1] - 1)
    assert table["reads"].iloc[0].startswith("0.0 to ")
    mel = table["reads"].str.contains("mel bands")
    assert mel.iloc[-1] == (view == "log-mel")
    if view == "log-mel":
        assert table["reads"].iloc[-1].endswith(f"{1000 * samples / rate:.0f} ms")
    else:
        assert table["reads"].iloc[-1].endswith(f"{rate / 2000:.1f} kHz")
    figure, alt = figures.positions_in_hertz(network, tiny_recordings, recipe)
    assert_legible(figure)
    assert all(reads in alt for reads in table["reads"])


def test_the_split_has_the_values_worked_out_by_hand():
    pair = [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]
    figure, alt = figures.split_of_logits(*pair, ["AN", "AD", "BN"])
    assert_legible(figure)
    titles = [axis.get_title() for axis in figure.axes]
    assert [title.split("\n")[1] for title in titles] == ["KD 0.099", "TCKD 0.082", "NCKD 0.057"]
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights[1] == pytest.approx([0.7, 0.3, 0.5, 0.5])
    assert heights[2] == pytest.approx([2 / 3, 1 / 3, 0.5, 0.5])
    assert len({axis.get_ylim() for axis in figure.axes}) == 1, "panels are compared on one scale"
    assert "counts 0.30 times in KD" in alt


def test_the_chain_in_time_has_a_bar_for_each_network():
    history = pd.DataFrame({"role": ["teacher", "teacher", "student"], "seconds": [1.0, 2.0, 0.5]})
    figure, alt = figures.chain_in_time(history)
    assert_legible(figure)
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0, 3), (3, 0.5)]
    assert "teacher: 2 epochs, 3.0 s; student: 1 epoch, 0.5 s" in alt
