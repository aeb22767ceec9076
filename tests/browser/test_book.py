"""The book: every notebook as a page, opened as a file, without a network and without Python."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from in_lab import NOTEBOOKS, violations

ROOT = NOTEBOOKS.parent
SOURCES = [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted(NOTEBOOKS.glob("exercises/*.ipynb"))]
TEXTS = [path for path in NOTEBOOKS.glob("*.md") if not path.name.startswith("README")]
PAGES = [p.relative_to(NOTEBOOKS).with_suffix("").as_posix() for p in SOURCES + TEXTS]
PAGES += ["index"]
PICTURE = re.compile(r"<(?:img|audio|svg)\b")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    out = tmp_path_factory.mktemp("book")
    program = ROOT / "data_scripts" / "make_book.py"
    done = subprocess.run(
        [sys.executable, program, "--out", out], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_a_folder_that_is_no_book_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    program = ROOT / "data_scripts" / "make_book.py"
    done = subprocess.run(
        [sys.executable, program, "--out", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "is not an earlier book" in " ".join(done.stderr.split())
    assert (tmp_path / "thesis.txt").read_text() == "three years"


class Links(HTMLParser):
    """The places that a page names, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.targets = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.targets |= {attributes[name] for name in ("href", "src") if attributes.get(name)}


def test_no_link_of_the_book_is_dead_or_leads_to_a_network(book):
    paths = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in paths}
    followed = 0
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme in ("data", "mailto"):
                continue
            assert not parts.scheme, f"{path.name}: {target}"
            assert not parts.netloc, f"{path.name}: {target}"
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert to.exists(), f"{path.name}: {target}"
            if parts.fragment and to in pages:
                assert unquote(parts.fragment) in pages[to].anchors, f"{path.name}: {target}"
            followed += 1
    assert followed > 10 * len(PAGES)


def test_every_notebook_is_a_page_with_all_its_pictures_and_players(book):
    for source, page in zip(SOURCES, PAGES, strict=False):
        shown = (book / f"{page}.html").read_text(encoding="utf-8")
        article = shown[shown.index("<article") : shown.index("</article>")]
        stored = 0
        for cell in nbformat.read(source, 4).cells:
            if cell.cell_type == "code" and not {"remove-cell", "remove-output"} & set(
                cell.metadata.get("tags", [])
            ):
                for output in cell.outputs:
                    stored += len(PICTURE.findall(output.get("data", {}).get("text/html", "")))
        assert len(PICTURE.findall(article)) >= stored, page
        assert "widget-view" not in article
    assert stored == 0, "an exercise is not executed"


def test_exercises_are_in_and_solutions_and_the_page_for_teachers_are_not(book):
    assert len(list(book.glob("exercises/*.html"))) == len(list(NOTEBOOKS.glob("solutions/*")))
    everything = "".join(p.read_text("utf-8") for p in book.rglob("*.html"))
    assert "Not answered yet" not in everything
    assert "YOUR CODE HERE" in everything
    assert "BEGIN SOLUTION" not in everything
    assert not [
        path for path in book.rglob("*") if "solution" in path.stem or "README" in path.stem
    ]


def test_the_drawing_stands_on_the_first_page_with_its_words(book):
    (alt,) = re.findall(r'<img alt="([^"]+)"', (book / "index.html").read_text(encoding="utf-8"))
    assert len(alt) > 100


@pytest.fixture(scope="module")
def reader(chromium):
    """A page that has no network, and what it asked for."""
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_on_a_screen_and_on_a_telephone(book, reader, name):
    reader.asked.clear()
    # Contrast takes most of the time. It is the same at both widths, and exercises have no outputs.
    rules = {1280: {}, 400: {"color-contrast": {"enabled": False}}}
    for width in (400,) if name.startswith("exercises") else (1280, 400):
        reader.set_viewport_size({"width": width, "height": 900})
        reader.goto((book / f"{name}.html").as_uri())
        assert reader.evaluate("document.documentElement.scrollWidth") <= width
        assert not violations(reader, ".bd-article", **rules[width])
    wide = reader.locator(".bd-article .wide img")  # now at 400 pixels
    sizes = wide.evaluate_all(
        "all => all.map(i => [i.getBoundingClientRect().width, i.alt.length])"
    )
    assert all(width >= 640 and words > 30 for width, words in sizes), sizes
    assert sizes or not name.startswith("04")
    widths = "images => images.map(image => image.naturalWidth)"
    assert all(width > 80 for width in reader.locator(".bd-article img").evaluate_all(widths))
    formulas = reader.locator(".bd-article .math")
    if formulas.count():
        reader.wait_for_function("window.MathJax?.startup?.promise")
        reader.evaluate("MathJax.startup.promise")
        assert formulas.locator("mjx-container svg").count() >= formulas.count()
        assert not reader.locator("[data-mml-node=merror]").count()
    assert all(url.startswith(("file:", "data:")) for url in reader.asked)


def test_the_search_finds_a_page(book, reader):
    reader.goto(f"{(book / 'search.html').as_uri()}?q=temperature")
    reader.locator("#search-results a", has_text="03 Logit separation").first.wait_for()
