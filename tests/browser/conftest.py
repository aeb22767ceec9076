"""JupyterLab on copies of the notebooks, and Debian's Chromium to look at it as a learner does."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from in_lab import AS_STORED, CHROMIUM, NOTEBOOKS, REFERENCE, TIMED, Lab, Open


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Skip without Chromium, unless it must be there; open each notebook once.

    So tests of one notebook stand together, and those of a notebook whose widget is timed go along
    with the timing, all in the call that runs by itself.
    """
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    skip = pytest.mark.skip(reason="needs Chromium, which is not there: apt install chromium")
    for item in mine:
        if CHROMIUM is None and not os.environ.get("HFLD_NEED_BROWSER"):
            item.add_marker(skip)
        if notebook_of(item) in TIMED:
            item.add_marker(pytest.mark.timed)
    places = [place for place, item in enumerate(items) if item in mine]
    for place, item in zip(places, sorted(mine, key=notebook_of), strict=True):
        items[place] = item


def notebook_of(item):
    """The notebook that a test opens, or nothing."""
    return item.callspec.params.get("name", "") if hasattr(item, "callspec") else ""


@pytest.fixture(scope="session")
def chromium():
    """Debian's browser; Playwright itself never fetches one."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "HFLD_NEED_BROWSER is set, and Chromium is not there: apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Of notebooks without outputs: what is seen has run here, or holds no widget."""
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code" and path.stem not in AS_STORED:
                cell.outputs, cell.execution_count = [], None
        if path.stem in TIMED:
            notebook.cells.append(nbformat.v4.new_code_cell(REFERENCE))
        nbformat.write(notebook, folder / path.name)
    started = Lab(folder, tmp_path_factory.mktemp("home"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def opened(lab, chromium):
    """Open a notebook, and run all of it, unless it is read as stored; the next one closes it."""
    now = []

    def open_(name, run=True):
        if not now or now[0].name != name:
            while now:
                now.pop().close()
            now.append(Open(lab, chromium, name))
        if run and not now[0].has_run and name not in AS_STORED:
            now[0].run_all()
        return now[0]

    yield open_
    while now:
        now.pop().close()
