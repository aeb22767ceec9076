"""A JupyterLab of its own, and a notebook that is open in it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from axe_playwright_python.sync_playwright import Axe

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
    errors: code.flatMap(cell => Array.from({length: cell.model.outputs.length},
      (_, i) => cell.model.outputs.get(i)))
      .filter(output => output.type === 'error').map(output => String(output.toJSON().evalue)),
  };
}"""
"""The status bar lags; the model of the notebook does not."""

ALL_RUN = f"""() => {{
  const state = ({STATE})();
  return state?.kernel === 'idle' && (state.errors.length || state.counts.every(count => count));
}}"""

PLACE = """words => {
  const content = window.jupyterapp.shell.currentWidget.content;
  const holds = cell => cell.model.type === 'code' && cell.model.sharedModel.source.includes(words);
  content.activeCellIndex = content.widgets.findIndex(holds);
  return content.activeCellIndex;
}"""

ATTACH_ALL = """() => {
  const content = window.jupyterapp.shell.currentWidget.content;
  content.notebookConfig = {...content.notebookConfig, windowingMode: 'none'};
}"""
"""Cells outside the view would not be in the page."""


TIMED = (
    "01_data_preparation",
    "03_logit_separation",
    "04_feature_matching",
    "08_edge_size_analysis",
)
"""Notebooks whose widget must follow at once."""

AS_STORED = ("06_build_the_chain",)
"""Notebooks without a widget: their outputs are the same whether they run here or were stored."""

REFERENCE = """
import base64, io, ipywidgets
from matplotlib.figure import Figure

slider, picture = ipywidgets.IntSlider(description="reference"), ipywidgets.HTML()


def follow(_=None):
    figure, file = Figure(figsize=(8, 3)), io.BytesIO()
    for axis in figure.subplots(1, 2):
        axis.plot([0, slider.value])
    figure.savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    alt = "a line from zero to where the slider stands, twice"
    picture.value = f'<img alt="{alt}" src="data:image/png;base64,{data}">'


slider.observe(follow, "value")
follow()
ipywidgets.VBox([slider, picture]).add_class("reference")
"""
"""A last cell for these notebooks: a widget without hfld_lite, for what the machine can do now."""


def violations(page, *parts, **rules):
    """What axe finds in these parts of a page, by rule; the rest is JupyterLab's or a theme's."""
    # Not preloaded: axe would fetch the style sheets, and file:// pages cannot fetch.
    options = {"preload": False, "resultTypes": ["violations"], "rules": rules}
    context = {"include": [[part] for part in parts], "exclude": [[".reference"]]}
    found = Axe().run(page, context=context, options=options).response
    assert found["passes"], "axe looked at nothing"
    return {v["id"]: [node["html"][:200] for node in v["nodes"]] for v in found["violations"]}


class Lab:
    """A JupyterLab of its own, with its own settings, on copies of the notebooks."""

    def __init__(self, folder, home):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.address = f"http://127.0.0.1:{port}"
        # The user's own settings are neither read nor changed.
        places = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "RUNTIME")}
        places |= {"JUPYTERLAB_SETTINGS_DIR": str(home), "JUPYTERLAB_WORKSPACES_DIR": str(home)}
        self.log = (home / "log").open("w+")
        self.server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
                *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"),
                *(f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={self.token}"),
                *(f"--port={port}", "--ServerApp.port_retries=0"),
            ],
            env=os.environ | places,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + 60
        while True:
            try:
                urlopen(f"{self.address}/api/status?token={self.token}", timeout=1).close()
                break
            except OSError:
                assert self.server.poll() is None, self.said()
                assert time.monotonic() < end, self.said()
                time.sleep(0.2)

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def url(self, name):
        """Of a notebook, in a workspace of its own."""
        place = f"lab/workspaces/auto-{name}/tree/{name}.ipynb"
        return f"{self.address}/{place}?token={self.token}&reset"

    def close(self):
        self.server.terminate()
        self.server.wait(30)
        self.log.close()


class Open:
    """A notebook that is open in the browser: its ``page``, and the kernel behind it."""

    def __init__(self, lab, chromium, name):
        self.name, self.has_run = name, False
        self.page = chromium.new_page(viewport={"width": 1200, "height": 1600})
        self.page.goto(lab.url(name))
        self.page.wait_for_function(f"({STATE})()?.kernel === 'idle'", timeout=90_000, polling=200)
        self.page.evaluate(ATTACH_ALL)

    def command(self, name):
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def run_all(self):
        """Run every cell, and wait until all have run without an error."""
        self.command("notebook:run-all-cells")
        # Not at every frame, Playwright's default: looking is work for the page, too.
        self.page.wait_for_function(ALL_RUN, timeout=400_000, polling=500)
        assert self.page.evaluate(STATE)["errors"] == []
        self.has_run = True

    def run_cell(self, words):
        """Run the first code cell that holds these words, and give its place among all cells."""
        place = self.page.evaluate(PLACE, words)
        self.command("notebook:run-cell")
        return place

    def close(self):
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
