"""Slides of notebooks: opened as files, nothing is asked of a network, every cell has its slide."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import nbformat
import pytest
from in_lab import NOTEBOOKS

PROGRAM = NOTEBOOKS.parent / "data_scripts" / "make_slides.py"
NAMES = ("01_data_preparation", "08_edge_size_analysis")  # with sound, and with formulas

PAGES = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}

pytestmark = pytest.mark.skipif(
    find_spec("sphinx_revealjs") is None and not os.environ.get("HFLD_NEED_BROWSER"),
    reason="needs reveal.js, which is not installed: pip install -e .[book]",
)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    subprocess.run([sys.executable, PROGRAM, "01", "08", "--out", out], check=True, timeout=300)
    return out


@pytest.fixture(scope="module")
def arrange():
    spec = spec_from_file_location("make_slides", PROGRAM)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.arrange


def test_slides_name_no_network_and_no_file_that_is_not_there(slides):
    assert {path.stem for path in slides.glob("*.html")} == {"index", *NAMES}
    for path in slides.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|import|url)\W{1,3}(?:https?:)?//""", text), path.name
        for link in re.findall(r"""<(?:link|a|img)\b[^>]*?(?:href|src)="(?!data:)([^"#]+)""", text):
            other = link.removesuffix(".html") in PAGES  # its slides were not made here
            assert other or (slides / link).exists(), (path.name, link)


@pytest.mark.parametrize("name", NAMES)
def test_a_browser_shows_slide_after_slide_without_a_request(slides, chromium, name):
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto((slides / f"{name}.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    # Where sections were nested wrongly, a cell would stand on all slides.
    assert page.locator(".slides > .jp-Cell").count() == 0
    if name.startswith("08"):
        page.wait_for_selector("mjx-container svg", state="attached")
    seen = []
    for _ in range(page.evaluate("Reveal.getTotalSlides()")):
        slide = page.locator("section.present:not(.stack)")
        assert slide.count() == 1
        assert slide.locator(".jp-Cell").count() > 0
        assert slide.evaluate("slide => slide.scrollWidth <= slide.clientWidth + 1")
        seen.append(slide.inner_text())
        page.keyboard.press("Space")
    assert len(set(seen)) == len(seen) > 8
    assert all("(children=" not in text and "find_spec" not in text for text in seen)
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert not failed
    page.close()


def types(arrange, *cells):
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    arrange(notebook)
    return [(c.source, c.metadata.slideshow.slide_type) for c in notebook.cells]


def test_the_rules(arrange):
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    long = "x = 1\n" * 21
    assert types(
        arrange,
        text("# Title\n\nWords.\n\n## First\n\n```\n# no heading\n```"),
        code("assert True", metadata={"tags": ["remove-cell"]}),
        code("import hfld_lite"),
        code("short"),
        code(long),
        text("### Third level"),
        code("draw()", metadata={"tags": ["hide-input"]}, outputs=[]),
        text("## Kept", metadata={"slideshow": {"slide_type": "notes"}}),
        text("[more](03_logit_separation.ipynb), [teachers](README_teachers.md)"),
    ) == [
        ("# Title\n\nWords.", "slide"),
        ("## First\n\n```\n# no heading\n```", "slide"),
        ("assert True", "skip"),
        ("import hfld_lite", "skip"),
        ("short", "-"),
        (long, "subslide"),
        ("### Third level", "subslide"),
        ("", "-"),
        ("## Kept", "notes"),
        ("[more](03_logit_separation.html), teachers", "-"),
    ]
