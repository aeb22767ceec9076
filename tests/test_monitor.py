"""A training in the background: watched, paused, stopped, gone on with, and its bits."""

import threading
import time

import pytest
import torch

from hfld_lite import ArgumentError, HfldError
from hfld_lite import monitor as module
from hfld_lite.monitor import Monitor, monitor


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


def hold_at(live, count):
    """Pause as soon as so many epochs are over, by the thread itself: no race."""
    original = live._after_epoch

    def after(role, row):
        if len(live.history) + 1 == count:
            live.pause()
        original(role, row)

    live._after_epoch = after


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
    assert threading.main_thread() is threading.current_thread(), "this cell is not blocked"
    chain = live.wait(60)
    assert live.state == "finished"
    assert same(chain, tiny_chain)
    assert live.history["role"].unique().tolist() == list(chain.stages)
    assert "finished" in live.status.value
    assert "student alone" in live.alt
    assert all(button.disabled for button in live.buttons.values())


def test_pause_waits_and_start_goes_on(live, tiny_chain):
    hold_at(live, 3)
    live.start()
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
    hold_at(live, 3)
    live.start()
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
    pictures = []
    live.picture.observe(lambda change: pictures.append(change["new"]), "value")
    live.start()
    live.wait(60)
    assert len(pictures) >= 8
    assert len(set(pictures)) >= 8
    assert live._repr_mimebundle_()["text/html"] == live.picture.value
    assert 'alt="The training is finished.' in live.picture.value


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
    with pytest.raises(ArgumentError, match="Another training is under way"):
        monitor(tiny_recordings, tiny_recipe.replace(seed=5))
    until(lambda: first.state in ("paused", "finished"))
    first.start()
    assert same(first.wait(60), tiny_chain)
    assert monitor(tiny_recordings, tiny_recipe) is first, "its result stays"


def test_who_waits_is_told_what_is_missing(live):
    with pytest.raises(ArgumentError, match="ready; press Start"):
        live.wait()
