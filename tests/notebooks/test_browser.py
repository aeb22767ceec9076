"""The course as a learner sees it: JupyterLab in Chromium, driven by the keyboard.

Needs Debian's Chromium (`apt install chromium`). With HFLD_NEED_BROWSER set, as in CI, its absence is
a failure and not a skip.
"""

import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STATE = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const session = panel?.sessionContext?.session;
  if (!panel?.content?.widgets || !session?.kernel) return null;
  const code = panel.content.widgets.filter(cell => cell.model.type === 'code');
  return {
    kernel: session.kernel.status,
    counts: code.map(cell => cell.model.executionCount),
    errors: code.flatMap(cell => cell.model.sharedModel.toJSON().outputs)
      .filter(output => output.output_type === 'error').map(output => output.evalue),
  };
}"""
FOLLOW = """() => {
  const shown = () => document.querySelector('.widget-html img')?.src;
  window.pictures = [];
  let before = shown();
  new MutationObserver(() => {
    const now = shown();
    if (now && now !== before) { before = now; window.pictures.push(performance.now()); }
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
  window.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
}"""
"""Notes when a key is pressed, and when the first widget's picture is another one."""

LATEST = 150
"""Milliseconds from a key to the new picture, the median, at most."""


def test_chromium_is_there_where_it_must_be():
    assert CHROMIUM or not os.environ.get("HFLD_NEED_BROWSER"), "apt install chromium"


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not there: apt install chromium"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, with its token."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS / "results", folder / "results")
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:  # what is seen has run here
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / path.name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    home = tmp_path_factory.mktemp("home")  # neither reads nor changes the user's settings
    places = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(home), "JUPYTERLAB_WORKSPACES_DIR": str(home)}
    arguments = ["--no-browser", "--LabApp.expose_app_in_browser=True", "--allow-root"]
    arguments += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"]
    arguments += [f"--port={port}", "--ServerApp.port_retries=0", "--LabApp.news_url=None"]
    log = (home / "log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", *arguments],
        env=os.environ | places,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        try:
            urlopen(f"{address}/api/status?token={token}", timeout=1)
            break
        except (URLError, OSError):
            log.seek(0)
            assert server.poll() is None, log.read()
            assert time.monotonic() < end, log.read()
            time.sleep(0.2)
    yield lambda name: f"{address}/lab/workspaces/auto-{name}/tree/{name}.ipynb?token={token}&reset"
    server.terminate()
    server.wait(20)
    log.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def run_all(lab, browser):
    """Open a notebook, run all its cells, and give the page; its kernel ends with the test."""
    pages = []

    def opened(name):
        page = browser.new_page(viewport={"width": 1200, "height": 1600})
        pages.append(page)
        page.goto(lab(name))
        page.wait_for_function(f"({STATE})()?.kernel === 'idle'", timeout=90_000)
        page.evaluate(
            "jupyterapp.shell.currentWidget.content.notebookConfig = {"
            "...jupyterapp.shell.currentWidget.content.notebookConfig,"
            "windowingMode: 'none'}"
        )
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells') && null")
        page.wait_for_function(
            f"(() => {{ const s = ({STATE})(); return s && s.kernel === 'idle' &&"
            " s.counts.every((n, i) => n === i + 1); })()",
            timeout=240_000,
        )
        page.evaluate(FOLLOW)
        return page

    yield opened
    for page in pages:
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()


def shown(page):
    """The widget's picture: its source and its words."""
    image = page.locator(".widget-html img").first
    return image.get_attribute("src"), image.get_attribute("alt")


@needs_browser
def test_the_temperature_slider_moves_by_keyboard(run_all):
    page = run_all("03_logit_separation")
    state = page.evaluate(STATE)
    assert state["errors"] == []
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.scroll_into_view_if_needed()
    before, words, value = *shown(page), handle.get_attribute("aria-valuenow")
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "words => document.querySelector('.widget-html img').alt !== words", arg=words
    )
    assert handle.get_attribute("aria-valuenow") != value
    after, said = shown(page)
    assert after != before
    temperatures = [float(re.search(r"temperature ([\d.]+)", w)[1]) for w in (words, said)]
    assert temperatures[1] > temperatures[0]
    assert re.findall(r"TCKD is [\d.e-]+", said) != re.findall(r"TCKD is [\d.e-]+", words)


@needs_browser
@pytest.mark.timed
@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("01_data_preparation", ".widget-slider .noUi-handle >> nth=1"),
        ("03_logit_separation", ".widget-slider .noUi-handle"),
        ("04_feature_matching", ".widget-slider .noUi-handle"),
        ("07_edge_size_analysis", ".widget-dropdown select"),
    ],
)
def test_a_new_picture_follows_the_key_at_once(run_all, name, control, record_property):
    page = run_all(name)
    assert page.evaluate(STATE)["errors"] == []
    element = page.locator(control).first
    element.scroll_into_view_if_needed()
    element.focus()
    there, back = ("ArrowDown", "ArrowUp") if "select" in control else ("ArrowLeft", "ArrowRight")
    if "03" in name or "04" in name:
        there, back = back, there
    took = []
    for press in range(20):
        count = page.evaluate("window.pictures.length")
        page.keyboard.press(back if press % 4 == 3 else there)
        page.wait_for_function("count => window.pictures.length > count", arg=count)
        took.append(page.evaluate("window.pictures.at(-1) - window.pressed"))
    median = statistics.median(took)
    print(f"{name}: {median:.0f} ms from key to picture, median of {len(took)}")
    assert median <= LATEST
