"""Drawings: the stored file is what the program makes, and everybody can read it."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_legible import contrast

from hfld_lite.course import drawing
from hfld_lite.errors import ArgumentError

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


@pytest.fixture
def shown(monkeypatch):
    """What a cell displays, as HTML."""
    pages = []
    monkeypatch.setattr(drawing, "display", lambda page: pages.append(page.data))
    return pages


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
