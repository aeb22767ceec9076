"""Build the course as static pages that work offline, opened as files.

All notebooks are shown with the outputs that are stored in them; nothing is executed. Exercises are
in the book, their solutions and the page for teachers are not.
"""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import nbformat
import typer
from typer import BadParameter, Option

from hfld_lite.errors import ArgumentError

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "data_scripts" / "book"
DRAWING = "pictures/framework.svg"
NEEDED = ("myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline")
MARK = ".buildinfo"
"""A file that Sphinx writes into each folder of pages."""
LINK = re.compile(r"(?<!!)\[([^][]+)\]\(([\w./-]+\.(?:md|ipynb))(?:#[\w-]+)?\)")
"""A link to another page, as [words](file)."""
EXERCISE = re.compile(r"(?m)^check_\d+\(")
"""In the cell that learners edit."""
PICTURE = re.compile(r'<img [^>]*?src="data:image/png;base64,([^"]+)"[^>]*>')
LEAST_WIDTH = 640
"""Pixels: narrower, a wide figure's text has less than 10; style.css has this number, too."""
WIDE_FIGURE = (
    '<div class="wide" tabindex="0" role="group" '
    'aria-label="figure; it scrolls sideways on a narrow screen">{}</div>'
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, epilog="Example: python data_scripts/make_book.py --out build/book")
def main(
    out: Annotated[Path, Option(help="The book's folder; an earlier book in it is replaced.")] = (
        ROOT / "build/book"
    ),
) -> None:
    """Write the book."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ArgumentError(
            f"{missing[0]} is not installed, and the book needs it: "
            "pip install -c constraints.txt -e .[book]"
        )
    from sphinx.cmd.build import build_main

    if out.exists() and not (out / MARK).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadParameter(
            f"{out} is there and is not an earlier book; name a new or empty folder."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=out.parent)
    except OSError as error:
        raise BadParameter(f"{out} cannot be written ({error.strerror}); name another.") from None
    with folder as folder:
        source = Path(folder) / "source"
        collect(ROOT / "notebooks", source)
        # -W: what Sphinx warns of, a link to nowhere for example, is an error.
        options = ["-b", "html", "-q", "-W", "--keep-going", "-j", "auto", "-c", str(SETTINGS)]
        doctrees = ["-d", str(Path(folder) / "doctrees")]
        made = Path(folder) / "html"
        if build_main([*options, *doctrees, str(source), str(made)]):
            raise typer.Exit(1)  # an earlier book is still there
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out / 'index.html'}: open it in a browser ({size / 1e6:.0f} MB)")


def collect(notebooks: Path, source: Path) -> None:
    """Copy what belongs into the book, and write its first page."""
    (source / "exercises").mkdir(parents=True)
    pages = [*notebooks.glob("[0-9]*.ipynb"), *notebooks.glob("*.md")]
    if (notebooks / "pictures").exists():
        shutil.copytree(notebooks / "pictures", source / "pictures")
    pages += notebooks.glob("exercises/*.ipynb")
    pages = [path for path in pages if not path.name.startswith("README")]  # for teachers
    for path in pages:
        shutil.copy(path, source / path.relative_to(notebooks))
    for path in pages:
        unlink_outside(path, source / path.relative_to(notebooks))
    for path in source.glob("[0-9]*.ipynb"):
        for_readers(path)
    first = (SETTINGS / "index.md").read_text(encoding="utf-8")
    shown = drawing(notebooks / DRAWING)
    (source / "index.md").write_text(first.replace("%DRAWING%", shown), encoding="utf-8")


def unlink_outside(page: Path, copy: Path) -> None:
    """Of a link to a file that the book leaves out, README.md for example, keep the words."""

    def words(link: re.Match[str]) -> str:
        left_out = (page.parent / link[2]).exists() and not (copy.parent / link[2]).exists()
        return link[1] if left_out else link[0]

    copy.write_text(LINK.sub(words, copy.read_text(encoding="utf-8")), encoding="utf-8")


def for_readers(page: Path) -> None:
    """Let wide figures scroll where the screen is narrow; leave out what an empty exercise says."""

    def scrolling(picture: re.Match[str]) -> str:
        # A PNG file has its width in bytes 16 to 19.
        width = int.from_bytes(b64decode(picture[1][:32])[16:20])
        return WIDE_FIGURE.format(picture[0]) if width >= LEAST_WIDTH else picture[0]

    notebook = nbformat.read(page, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and EXERCISE.search(cell.source):
            cell.outputs = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = PICTURE.sub(scrolling, data["text/html"])
    nbformat.write(notebook, page)


def drawing(path: Path) -> str:
    """The drawing as Markdown, with the alternative text that stands in it; nothing without it."""
    if not path.exists():
        return ""
    root = ElementTree.parse(path).getroot()
    said = [root.findtext(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc")]
    words = re.sub(r"\s+", " ", " ".join(filter(None, said))).strip()
    return f"![{words}]({DRAWING})"


if __name__ == "__main__":
    app()
