"""How Sphinx makes the book; data_scripts/make_book.py calls it."""

from importlib.util import find_spec
from pathlib import Path

from sphinx.util.fileutil import copy_asset_file

from hfld_lite.version import __version__

HERE = Path(__file__).parent
PACKED_MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"

project = "hfld_lite"
author = "The hfld_lite authors"
release = __version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4

nb_execution_mode = "off"  # the book shows the outputs that are stored
# A widget is shown as its picture, which stands beside its view in the output. Without a kernel the
# view would be blank; its scripts would come from the network.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js = {}

# The form of MathJax that needs no fonts: one file, with all extensions.
mathjax_path = "tex-svg-full.js"

html_theme = "sphinx_book_theme"
html_title = "hfld_lite, the course"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search field stands in the sidebar already
}
html_context = {"default_mode": "light"}  # the figures stand on white
html_static_path = [str(HERE / "style.css")]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would be fetched, which file:// pages cannot do
html_domain_indices = False
html_use_index = False


def _copy_mathjax(app, failed):
    if failed is None:
        copy_asset_file(PACKED_MATHJAX / mathjax_path, Path(app.outdir) / "_static")


def setup(app):
    """Let Sphinx copy what it does not know."""
    app.connect("build-finished", _copy_mathjax)
