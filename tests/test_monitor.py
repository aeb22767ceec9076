"""A training in the background: watched, paused, stopped, gone on with, and its bits."""

import time

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from hfld_lite import ArgumentError, HfldError
from hfld_lite.course import monitor as module
from hfld_lite.course.monitor import Monitor, monitor


@pytest.fixture
def live(tiny_recordings, tiny_recipe):
    """A monitor of the tiny chain; its training is ended with the test."""
    watched = Monitor(tiny_recordings, tiny_recipe)
    yield watched
    watched.stop()
    if watched._thread:
        watched._thread.join(60)


def until(condition):
    """Wait until it holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def same(one, other):
    """Whether two chains have the same bits."""
    return all(
        torch.equal(a, b)
        for role in other.stages
        for a, b in zip(
            one.stages[role].network.state_dict().values(),
            other.stages[role].network.state_dict().values(),
            strict=True,
        )
    )


def test_trains_in_the_background_to_the_same_bits(live, tiny_chain):
    assert live.state == "ready"
    assert not live.buttons["Start"].disabled
    live.buttons["Start"].click()
    assert live.state == "running"
    chain = live.wait(60)
    assert live.state == "finished"
    assert same(chain, tiny_chain)
    assert live.history["role"].unique().tolist() == list(chain.stages)
    assert "finished" in live.status.value
    assert "student alone" in live.alt
    assert all(button.disabled for button in live.buttons.values())


def test_pause_waits_and_start_goes_on(live, tiny_chain):
    live.start(epochs=3)
    until(lambda: live.state == "paused")
    before = len(live.history)
    time.sleep(0.3)
    assert len(live.history) == before == 3, "it waits"
    assert "paused" in live.status.value
    with pytest.raises(ArgumentError, match="paused"):
        live.wait(1)
    live.buttons["Start"].click()
    assert same(live.wait(60), tiny_chain)
    assert len(live.history) == 8


def test_stop_keeps_a_checkpoint_and_start_resumes_from_it(live, tiny_chain):
    live.start(epochs=3)
    until(lambda: live.state == "paused")
    live.buttons["Stop"].click()
    until(lambda: live.state == "stopped")
    live._thread.join(60)
    assert not live._thread.is_alive()
    assert len(live.history) == 3
    with pytest.raises(ArgumentError, match="stopped"):
        live.wait(1)
    live.buttons["Start"].click()
    assert same(live.wait(60), tiny_chain)
    assert len(live.history) == 8, "no epoch is trained or told twice"


def test_the_picture_follows_and_stands_in_static_pages(live, monkeypatch):
    monkeypatch.setattr(module, "BETWEEN_PICTURES", 0)
    monkeypatch.setattr(module, "DRAWING", 0)
    pictures = []
    live.picture.observe(lambda change: pictures.append(change["new"]), "value")
    live.start()
    live.wait(60)
    assert len(pictures) >= 8
    assert len(set(pictures)) >= 8
    assert live._repr_mimebundle_()["text/html"] == live.picture.value
    assert 'alt="The training is finished.' in live.picture.value


def test_before_its_first_epoch_a_static_page_has_words_and_no_empty_axes(live):
    page = live._repr_mimebundle_()["text/html"]
    assert "<img" not in page
    assert "The training is ready" in page


def test_the_button_pauses_a_training_that_runs(live, tiny_chain):
    live.start()
    until(lambda: len(live.history))
    live.buttons["Pause"].click()
    until(lambda: live.state in ("paused", "finished"))
    if live.state == "paused":
        assert live.buttons["Pause"].disabled
        assert not live.buttons["Stop"].disabled
    live.start()
    assert same(live.wait(60), tiny_chain)


def test_another_monitor_goes_on_from_the_folder(
    tiny_recordings, tiny_recipe, tiny_chain, tmp_path
):
    """As after a restart of the kernel."""
    first = Monitor(tiny_recordings, tiny_recipe, folder=tmp_path)
    first.start(epochs=3)
    until(lambda: first.state == "paused")
    first.stop()
    until(lambda: first.state == "stopped")
    first._thread.join(60)
    second = Monitor(tiny_recordings, tiny_recipe, folder=tmp_path)
    second.start()
    assert same(second.wait(60), tiny_chain)


CELLS = (
    """
from hfld_lite import Network, Recipe, simulate_tiles
from hfld_lite.course.monitor import monitor
tiles = simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)
small = Network(10, 1 / 16, epochs=60)
recipe = Recipe(teacher=small, secondary_teachers=(), student=small, batch_size=8)
""",
    "live = monitor(tiles, recipe, controls=())\nlive",
    "print(live.state)",
    "print(monitor(tiles, recipe, controls=()) is live)",
    "live.stop()\ntry:\n    live.wait()\nexcept Exception as error:\n    print(error)",
)


def test_other_cells_of_a_notebook_run_while_it_trains():
    """In a kernel, whose cells are sent one after the other."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    NotebookClient(notebook, timeout=120).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert "widget-view" in str(outputs[1][0].data.keys())
    said = ["".join(o.get("text", "") for o in output).strip() for output in outputs[2:]]
    assert said == ["running", "True", "The training is stopped; press Start, or call start()."]


def test_a_failure_is_shown_and_given_to_who_waits(tiny_recordings, tiny_recipe):
    live = Monitor(tiny_recordings, tiny_recipe.replace(bins=10_000))
    live.start()
    with pytest.raises(HfldError, match="bins"):
        live.wait(60)
    assert live.state == "failed"
    assert "bins" in live.status.value
    assert not live.buttons["Start"].disabled


def test_running_its_cell_again_gives_the_same_training(
    tiny_recordings, tiny_recipe, tiny_chain, monkeypatch
):
    monkeypatch.setattr(module, "_known", {})
    first = monitor(tiny_recordings, tiny_recipe)
    assert monitor(tiny_recordings, tiny_recipe) is first
    first.pause()
    with pytest.raises(ArgumentError, match="Another training is running"):
        monitor(tiny_recordings, tiny_recipe.replace(seed=5))
    until(lambda: first.state in ("paused", "finished"))
    first.start()
    assert same(first.wait(60), tiny_chain)
    assert monitor(tiny_recordings, tiny_recipe) is first, "its result stays"


def test_who_waits_is_told_what_is_missing(live):
    with pytest.raises(ArgumentError, match="ready; press Start"):
        live.wait()
