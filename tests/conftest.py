"""What several test files share: tiny recordings, a tiny recipe, a chain trained on them."""

import os
import re
import signal
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import torch

from hfld_lite import Network, Recipe, distill_chain, resnet1d, simulate_tiles
from hfld_lite.app.runs import save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.edge.analysis import with_costs
from hfld_lite.edge.export import to_onnx

OFFLINE = str(Path(__file__).parent / "offline")


def pytest_configure():
    before = os.environ.get("PYTHONPATH", "")
    if OFFLINE not in before:  # the programs and kernels that tests start have no network
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (OFFLINE, before)))
    if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads only wait
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that tests start
    # Two trainings of a test have the same number, whatever else runs then.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background, as by a shell's &, where Ctrl-C is ignored; tests press it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


_seconds: dict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report):
    """Add up what the cells of each notebook took."""
    name = report.nodeid.split("::")[0]
    if name.endswith(".ipynb") and "/examination/" not in name:  # it states a learner's minutes
        _seconds[name] += report.duration


def pytest_terminal_summary(terminalreporter):
    for name, seconds in sorted(_seconds.items()):
        stated = stated_seconds(name)
        late = " TOO LONG: more than twice that" if seconds > 2 * stated else ""
        terminalreporter.write_line(f"{name}: {seconds:.0f} s, stated {stated} s{late}")


def pytest_sessionfinish(session):
    if any(seconds > 2 * stated_seconds(name) for name, seconds in _seconds.items()):
        session.exitstatus = 1


def stated_seconds(name: str) -> int:
    """What a notebook's first cell says that it takes."""
    text = (Path(__file__).parent.parent / name).read_text()
    return 60 * int(re.search(r"\*\*(\d) minutes?\*\*", text)[1])


@pytest.fixture(scope="session")
def study_figures():
    """The module of data_scripts that draws the study's figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "data_scripts"))
        import _figures

        yield _figures


@pytest.fixture
def shown(monkeypatch):
    """What the course's pictures display in a cell, as HTML."""
    from hfld_lite.course import animation, drawing

    pages = []
    for module in (animation, drawing):
        monkeypatch.setattr(module, "display", lambda page: pages.append(page.data))
    return pages


@pytest.fixture(scope="session")
def tiny_recordings():
    """Four classes, 10 tiles each, 2 drops of each tile."""
    return simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)


@pytest.fixture(scope="session")
def tiny_recipe():
    return Recipe(
        name="tiny",
        teacher=Network(10, 1 / 8, epochs=2),
        secondary_teachers=(Network(10, 1 / 16, epochs=2),),
        student=Network(10, 1 / 16, epochs=2),
        bins=600,
        view="spectrum",
        bins_by="cutting",
        learning_rate=3e-3,
        weight_decay=1e-2,
        batch_size=8,
        mu=1.0,
        nu=1.0,
    )


@pytest.fixture(scope="session")
def tiny_chain(tiny_recordings, tiny_recipe):
    return distill_chain(tiny_recordings, tiny_recipe, progress=False)


@pytest.fixture(scope="session")
def save_chain():
    """Train a chain and save it as a run, in a folder where its recordings stand, too."""

    def save(folder, recordings, recipe):
        recordings.save(folder / "data")
        chain = distill_chain(recordings, recipe, progress=False)
        with new_run(folder / "run") as part:
            origin = {"folder": str(folder / "data"), "options": {}}
            result = with_costs(chain.test(recordings), chain.detector, recordings.signals[0])
            save_run(part, chain, result, recordings, origin)
        return folder / "run"

    return save


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory, tiny_recipe, save_chain):
    """A run whose student has learned something, so that its answers differ, and its recordings."""
    recordings = simulate_tiles("AB", tiles_per_class=20, drops=2, seed=3)
    longer = Network(10, 1 / 16, epochs=12)
    recipe = tiny_recipe.replace(student=longer, secondary_teachers=(longer,))
    return save_chain(tmp_path_factory.mktemp("saved"), recordings, recipe), recordings


@pytest.fixture(scope="session")
def exported():
    """A function that gives an untrained ResNet whose batch norms have seen inputs, and its graph.

    Each is made once, since an export takes seconds.
    """

    @cache
    def get(depth, width, length, head):
        with torch.random.fork_rng():
            torch.manual_seed(depth)
            network = resnet1d(depth, 4, width, head)
            with torch.no_grad():
                for _ in range(20):
                    network(torch.rand(16, length))
        return network.eval(), to_onnx(network, length)

    return get
