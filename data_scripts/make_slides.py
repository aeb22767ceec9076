"""Make slides of the notebooks that work offline: OUT/index.html and a page for each notebook.

Outputs are those that are stored; nothing is executed. A heading begins a slide, and what does not
fit under it continues below. A slide type that is set in JupyterLab (Property Inspector) is kept.
Cells that the course hides are left out. reveal.js and MathJax are copied beside the pages.
"""

import re
import shutil
from copy import deepcopy
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from traitlets.config import Config
from typer import Argument, Option

from hfld_lite.errors import ArgumentError
from hfld_lite.storage.files import write_whole

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"

PACKED = {
    "reveal.js": ("sphinx_revealjs", "_static/revealjs"),
    "mathjax": ("sphinx-mathjax-offline", "static/mathjax"),
}
"""What is copied beside the pages: the package that brings it, and where in it."""
PARTS = ("dist/reset.css", "dist/reveal.css", "dist/reveal.js", "dist/theme", "plugin/notes")

LINES = 22
"""About as many lines of text fit on a slide."""
WIDE = 80
PICTURE_LINES = 13
HIDDEN = {"remove-cell", "hide-cell"}
WITHOUT_CODE = {"hide-input", "remove-input"}
HEADING = re.compile(r"(?m)^(?=#{1,3} )")
FENCED = re.compile(r"(?ms)^(```|~~~).*?^\1")
FOLD = re.compile(r"(?s)</summary>.*?</details>")
LINK = re.compile(r"(?<!!)\[([^][]+)\]\(([\w./-]+)(#[\w-]+)?\)")

# Nothing of nbconvert's page comes from a network: no jQuery, RequireJS, mermaid or fonts.
TEMPLATE = """
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}};</script>
<script src="mathjax/tex-svg-full.js"></script>
{%- endblock -%}
{%- block html_head_css -%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
.reveal .slides { text-align: left; }
.reveal .slides > section, .reveal .slides > section > section { padding: 0; }
.reveal .slides section section, .reveal .slides > section:not(.stack) {
  max-height: 100%; overflow-y: auto; }
.reveal h1, .reveal h2, .reveal h3 { text-transform: none !important; }
.reveal .jp-InputPrompt, .reveal .jp-OutputPrompt, .reveal .jp-Cell-inputCollapser,
.reveal .jp-Cell-outputCollapser, .reveal .jp-InputCollapser, .reveal .jp-OutputCollapser {
  display: none; }
.reveal img { max-width: 100% !important; }
.reveal img[src^="data:image/svg"] { width: 480px !important; height: auto; }
.reveal pre { width: 100%; margin: 0; box-shadow: none; font-size: 17px; line-height: 1.3; }
.reveal table { font-size: 18px; }
.reveal details { font-size: 20px; }
:root { --jp-content-font-size1: 22px; --jp-code-font-size: 17px; }
</style>
{%- endblock -%}
{%- block footer_js -%}
<script src="reveal.js/dist/reveal.js"></script>
<script src="reveal.js/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({hash: true, center: false, width: 1120, height: 700, margin: 0.03,
  slideNumber: "c/t", transition: "none", plugins: [RevealNotes]});
</script>
{%- endblock -%}
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, epilog="Example: python data_scripts/make_slides.py 03 --out slides")
def main(
    numbers: Annotated[list[str] | None, Argument(help="Which, by number; all by default.")] = None,
    out: Annotated[Path, Option(help="The slides' folder; pages in it are renewed.")] = ROOT
    / "build/slides",
) -> None:
    """Write the pages."""
    paths = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if unknown := {n for n in numbers or () if not any(p.name.startswith(n) for p in paths)}:
        raise typer.BadParameter(f"there is no notebook {sorted(unknown)[0]!r} in notebooks/")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"{out} cannot be written ({error.strerror}); name another folder."
        ) from None
    unpack(out)
    if (NOTEBOOKS / "pictures").exists():
        shutil.copytree(NOTEBOOKS / "pictures", out / "pictures", dirs_exist_ok=True)
    chosen = [p for p in paths if not numbers or p.name.startswith(tuple(numbers))]
    titles = {}
    for path in chosen:
        notebook = nbformat.read(path, 4)
        titles[path.stem] = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        write_whole(out / f"{path.stem}.html", page(notebook, path.stem))
    items = "\n".join(
        f'<li><a href="{stem}.html">{title}</a></li>' for stem, title in titles.items()
    )
    write_whole(
        out / "index.html",
        '<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8">\n'
        "<title>Slides of the course</title>\n<h1>Slides of the course</h1>\n"
        f"<ul>\n{items}\n</ul></html>\n",
    )
    print(f"{out / 'index.html'}: {len(chosen)} notebooks; open it in a browser")


def unpack(out: Path) -> None:
    """Copy reveal.js and MathJax from the packages that bring them.

    Raises:
        ArgumentError: if one of them is not installed.
    """
    for name, (package, inside) in PACKED.items():
        if (found := find_spec(package)) is None:
            raise ArgumentError(
                f"{package} is not installed, and slides need its {name}: "
                "pip install -c constraints.txt -e .[book]"
            )
        source = Path(found.origin).parent / inside
        for part in PARTS if name == "reveal.js" else ("tex-svg-full.js",):
            to = out / name / part
            to.parent.mkdir(parents=True, exist_ok=True)
            if (source / part).is_dir():
                shutil.copytree(source / part, to, dirs_exist_ok=True)
            else:
                shutil.copyfile(source / part, to)


def page(notebook: NotebookNode, name: str) -> str:
    """The slides of a notebook as HTML.

    Args:
        notebook: as it is stored; it is changed in place.
        name: its file's name without the ending, the page's title.
    """
    arrange(notebook)
    notebook.metadata["title"] = name
    # A widget's picture stands beside its view; the view would be blank without a kernel.
    order = ["text/html", "image/svg+xml", "image/png", "text/markdown", "text/latex", "text/plain"]
    exporter = SlidesExporter(
        config=Config(NbConvertBase={"display_data_priority": order}),
        raw_template=TEMPLATE,
        reveal_url_prefix="reveal.js",
        reveal_theme="white",
    )
    return exporter.from_notebook_node(notebook)[0]


def arrange(notebook: NotebookNode) -> None:
    """Give every cell a slide type by rule, in place; a type that a cell has is kept."""
    notebook.metadata.pop("widgets", None)
    cells = [part for cell in notebook.cells for part in split(cell)]
    code = (cell for cell in cells if cell.cell_type == "code")
    imports = next((c for c in code if not HIDDEN & set(c.metadata.get("tags", []))), None)
    left = 0
    for cell in cells:
        own = cell.metadata.get("slideshow", {}).get("slide_type")
        tags = set(cell.metadata.get("tags", []))
        if not own and (tags & HIDDEN or cell is imports or empty(cell)):
            own = "skip"  # checks for CI, and the first cell that learners see, which imports
        if tags & WITHOUT_CODE:
            cell.source = ""
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(to_page, cell.source)
        needs = lines(cell)
        if not own:
            head = re.match(r"(#+) ", cell.source) if cell.cell_type == "markdown" else None
            if head and len(head[1]) < 3:
                own = "slide"
            else:
                own = "subslide" if head or needs > left else "-"
        if own in ("slide", "subslide"):
            left = LINES
        if own != "skip":
            left -= needs
        cell.metadata["slideshow"] = {"slide_type": own}
    notebook.cells = cells
    shown = [c for c in cells if c.metadata.slideshow.slide_type != "skip"]
    if shown:
        shown[0].metadata.slideshow.slide_type = "slide"


def split(cell: NotebookNode) -> list[NotebookNode]:
    """A text cell with several headings as several cells; any other as it is."""
    if cell.cell_type != "markdown" or "slideshow" in cell.metadata:
        return [cell]
    # A comment in a fenced program is not a heading.
    fences = [found.span() for found in FENCED.finditer(cell.source)]
    cuts = [
        found.start()
        for found in HEADING.finditer(cell.source)
        if not any(a <= found.start() < b for a, b in fences)
    ]
    ends = sorted({0, *cuts, len(cell.source)})
    parts = [cell.source[a:b].strip() for a, b in pairwise(ends)]
    return [new_markdown_cell(part, metadata=deepcopy(cell.metadata)) for part in parts if part]


def empty(cell: NotebookNode) -> bool:
    """Whether there is nothing to show."""
    return not cell.source.strip() and not cell.get("outputs")


def lines(cell: NotebookNode) -> int:
    """About how many lines of a slide a cell takes."""
    source = FOLD.sub("", cell.source)  # closed, it takes one line
    count = sum(1 + len(line) // WIDE for line in source.splitlines())
    if "<img" in cell.source or "![" in cell.source:
        count += PICTURE_LINES
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if any(key in data for key in ("text/html", "image/png", "image/svg+xml")):
            count += PICTURE_LINES
        else:
            count += len((output.get("text") or data.get("text/plain") or "").splitlines())
    return count


def to_page(link: re.Match[str]) -> str:
    """A link to another notebook leads to its slides; of other files the words are kept."""
    words, target = link[1], Path(link[2])
    if target.suffix == ".ipynb" and target.parent == Path() and (NOTEBOOKS / target).exists():
        return f"[{words}]({target.stem}.html)"
    return link[0] if (NOTEBOOKS / target).parent.name == "pictures" else words


if __name__ == "__main__":
    app()
