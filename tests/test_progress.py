"""Bars on a terminal and in a notebook, lines elsewhere."""

import sys

import pytest

from hfld_lite.storage import progress


def worked(shown_in_place, monkeypatch, capsys, **options):
    monkeypatch.setattr(progress, "in_place", lambda: shown_in_place)
    with progress.bar(total=3, desc="work", **options) as shown:
        for i in range(3):
            shown.update()
            progress.tell(shown, f"epoch {i}")
        progress.note(shown, "a note")
    return capsys.readouterr()


def test_a_log_has_a_line_each_time_and_nothing_is_repainted(monkeypatch, capsys):
    found = worked(False, monkeypatch, capsys, progress=True)
    assert found.out == ""
    assert [line.partition(" [")[0] for line in found.err.splitlines()] == [
        *(f"work, epoch {i}" for i in range(3)),
        "a note",
    ]
    assert "[00:00<00:00]" in found.err
    assert "\r" not in found.err


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    found = worked(True, monkeypatch, capsys, progress=True)
    assert "work: 100%|" in found.err
    assert "epoch 2" in found.err
    assert "a note" in found.err
    assert "\r" in found.err


@pytest.mark.parametrize("in_place", [True, False])
def test_without_progress_only_notes_are_printed(in_place, monkeypatch, capsys):
    assert worked(in_place, monkeypatch, capsys, progress=False).err == "a note\n"


def test_where_something_can_be_repainted(monkeypatch):
    for terminal, term, expected in (
        (True, "xterm", True),
        (True, "dumb", False),
        (False, "xterm", False),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setenv("TERM", term)
        assert progress.in_place() is expected
    monkeypatch.setattr(progress, "tqdm", type("Notebook", (progress.tqdm,), {}))
    assert progress.in_place()
