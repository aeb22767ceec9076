"""Watch a training in a notebook: live curves, with pause, stop and resume.

The training runs in a background thread, so that other cells can run meanwhile. It pauses and stops
at the end of an epoch, after its checkpoint was written; a resumed training gives bit-identical
results.
"""

import tempfile
import threading
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from hfld_lite.app.good import parts_of, trained_good
from hfld_lite.app.style import png
from hfld_lite.app.unfinished import Wanted
from hfld_lite.course import figures
from hfld_lite.course.widgets import image
from hfld_lite.data.good_parts import told_apart
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import split
from hfld_lite.errors import ArgumentError, HfldError, Interrupted
from hfld_lite.evaluation.good_parts import GoodParts
from hfld_lite.hierarchy import Chain, distill_chain
from hfld_lite.recipes import Recipe

BETWEEN_PICTURES = 0.5
"""Seconds at least from one picture to the next, so that drawing leaves the cores to training."""

DRAWING = 8
"""The time from one picture to the next, in multiples of the time to draw it, at least."""


class Monitor(ipywidgets.VBox):
    """Train a chain in the background: curves, and buttons to start, pause and stop.

    Start also resumes after a pause or a stop. Pause waits at the end of the current epoch, with
    everything in memory; Stop ends the training there and leaves a checkpoint in `folder`. While it
    runs, other cells should not use torch's global random generator, because dropout uses it.

    Args:
        recordings, recipe, controls: see :func:`distill_chain`; recordings of `as_good` are trained
            on good parts alone.
        folder: for the checkpoints, resumed if it holds some; by default a temporary one.

    Attributes:
        state: "ready", "running", "paused", "stopped", "finished" or "failed".
        history: rows of epochs with ``role``, terms, ``validation_accuracy``.
        chain: the result; None until it is finished.
        good: what a training on good parts gave besides; None for others.
        error: what ended a training that failed; None otherwise.
    """

    def __init__(
        self,
        recordings: Recordings,
        recipe: Recipe,
        controls: Sequence[str] = ("alone",),
        folder: str | Path | None = None,
    ) -> None:
        self.recordings, self.recipe, self.controls = recordings, recipe, tuple(controls)
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="hfld_lite-")
        self.folder = Path(folder or self._temporary.name)
        self.state, self.history = "ready", pd.DataFrame()
        self.chain: Chain | None = None
        self.error: Exception | None = None
        self.good: GoodParts | None = None
        if recordings.kinds is None:
            shares = {"validation": recipe.validation, "test": recipe.test, "seed": recipe.seed}
            parts = split(recordings, **shares)
        else:
            drawn = parts_of(recordings, recipe, Wanted())
            parts = told_apart(recordings, drawn, recipe.seed)[1]
        self._count = round(len(parts.train) * (1 - recipe.meta_share))
        self._next = 0.0  # moment of the next picture at the earliest
        self._pause_at: int | None = None
        self._thread: threading.Thread | None = None
        self._go_on, self._end = threading.Event(), threading.Event()
        self.buttons = {
            name: ipywidgets.Button(description=name, tooltip=does, icon=icon)
            for name, does, icon in (
                ("Start", "start or resume the training", "play"),
                ("Pause", "pause after this epoch", "pause"),
                ("Stop", "stop after this epoch and keep a checkpoint", "stop"),
            )
        }
        for name, action in (("Start", self.start), ("Pause", self.pause), ("Stop", self.stop)):
            self.buttons[name].on_click(lambda _, action=action: action())
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([ipywidgets.HBox([*self.buttons.values()]), self.status, self.picture])
        self._show()

    def start(self, epochs: int | None = None) -> None:
        """Start, or resume after a pause or a stop; no effect if it runs or is finished.

        Args:
            epochs: pause automatically after this number; by default train to the end.
        """
        if self.state not in ("running", "finished"):
            self._pause_at = None if epochs is None else len(self.history) + epochs
        if self.state == "paused":
            self._become("running")
            self._go_on.set()
        elif self.state in ("ready", "stopped", "failed"):
            self._end.clear()
            self._go_on.set()
            self.error = None
            self._become("running")
            self._thread = threading.Thread(target=self._train, daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Pause at the end of the current epoch."""
        if self.state == "running":
            self._go_on.clear()

    def stop(self) -> None:
        """Stop at the end of the current epoch; its checkpoint is kept."""
        if self.state in ("running", "paused"):
            self._end.set()
            self._go_on.set()

    def wait(self, seconds: float | None = None) -> "Chain":
        """Block until the training is finished, and return its chain.

        Args:
            seconds: to wait at most.

        Raises:
            ArgumentError: if it was not started, is paused, or was stopped.
            HfldError: if the time is over, or the error that ended the training.
        """
        until = time.monotonic() + (seconds if seconds is not None else float("inf"))
        while self.state == "running" and time.monotonic() < until:
            self._thread.join(0.1)
        if self.state not in ("ready", "running", "paused"):
            self._thread.join()  # it may be drawing its last picture
        if self.error:
            raise self.error
        if self.state == "running":
            raise HfldError(f"The training is not finished after {seconds:g} seconds; wait longer.")
        if self.chain is None:
            raise ArgumentError(f"The training is {self.state}; press Start, or call start().")
        return self.chain

    def _train(self) -> None:
        how = {"progress": False, "on_epoch": self._after_epoch}
        how |= {"folder": self.folder, "resume": True}
        try:
            if self.recordings.kinds is None:
                given = {"controls": self.controls}
                self.chain = distill_chain(self.recordings, self.recipe, **given, **how)
            else:
                self.good = trained_good(self.recordings, self.recipe, Wanted(), **how)
                self.chain = self.good.chain
        except Interrupted:
            self._become("stopped")
        except Exception as error:  # an exception of a thread would be lost
            self.error = error
            self._become("failed")
        else:
            self.history = self.chain.history()
            self._become("finished")

    def _after_epoch(self, role: str, row: dict[str, Any]) -> None:
        self.history = pd.concat(
            [self.history, pd.DataFrame([{"role": role, **row}])], ignore_index=True
        )
        if time.monotonic() > self._next:
            self._show()
        if len(self.history) == self._pause_at:
            self._go_on.clear()
        if not self._go_on.is_set():
            self._become("paused")
            self._go_on.wait()
        if self._end.is_set():
            raise Interrupted(f"{role} was stopped after epoch {row['epoch']}.")

    def _become(self, state: str) -> None:
        self.state = state
        self._show()

    def _show(self) -> None:
        began = time.monotonic()
        may = {
            "Start": self.state not in ("running", "finished"),
            "Pause": self.state == "running",
            "Stop": self.state in ("running", "paused"),
        }
        for name, button in self.buttons.items():
            button.disabled = not may[name]
        self.alt = self._words()
        self.status.value = f'<div role="status">{escape(self.alt)}</div>'
        figure = figures.live(self.history, self._planned())
        self.picture.value = image(png(figure, dpi=90), self.alt)
        self._next = began + max(BETWEEN_PICTURES, DRAWING * (time.monotonic() - began))

    def _planned(self) -> dict[str, int]:
        roles = [*self.recipe.chain, *(f"student_{name}" for name in self.controls)]
        return {role: self.recipe.epochs(role, self._count) for role in roles}

    def _words(self) -> str:
        if self.error:
            return f"The training failed. {self.error}"
        if self.history.empty:
            return f"The training is {self.state}; curves appear with its first epoch."
        last = self.history.groupby("role", sort=False)["validation_accuracy"].max()
        said = ", ".join(f"{role.replace('_', ' ')} {best:.1%}" for role, best in last.items())
        return f"The training is {self.state}. Best validation accuracy so far: {said}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and for pages without a kernel its picture, or its words if there is none."""
        page = self.status.value if self.history.empty else self.picture.value
        return super()._repr_mimebundle_(**kwargs) | {"text/html": page}


_known: dict[tuple, Monitor] = {}


def monitor(
    recordings: Recordings, recipe: Recipe, controls: Sequence[str] = ("alone",)
) -> Monitor:
    """The monitor of a training, started if it is new; running its cell again gives the same one.

    Args:
        recordings, recipe, controls: see :func:`distill_chain`.

    Raises:
        ArgumentError: if a training of other recordings, recipe or controls is running.
    """
    key = (recordings.fingerprint(), recipe.to_json(), tuple(controls))
    if key in _known:
        return _known[key]
    if any(other.state in ("running", "paused") for other in _known.values()):
        raise ArgumentError(
            "Another training is running in this notebook; press its Stop button and run this cell "
            "again."
        )
    _known[key] = Monitor(recordings, recipe, controls)
    _known[key].start()
    return _known[key]
