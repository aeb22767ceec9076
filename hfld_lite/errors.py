"""The errors that a user of the package can cause, each a sentence that says how to mend it."""

import difflib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class HfldError(Exception):
    """Base of every error that the package raises on purpose; its text is meant for the user."""


class DataError(HfldError):
    """Data that cannot be used as it is.

    Args:
        where: the file, and the row or key in it, that is at fault.
        found: what stands there.
        expected: what would have been right.
        mend: what the user can do about it.

    The message is one sentence: ``where: found; expected …; mend.``
    """

    def __init__(self, where: object, found: str, *, expected: str = "", mend: str = "") -> None:
        self.where, self.found, self.expected, self.mend = str(where), found, expected, mend
        parts = [found, f"expected {expected}" if expected else "", mend]
        super().__init__(f"{where}: " + "; ".join(part for part in parts if part) + ".")

    def __reduce__(self) -> tuple:
        return (_rebuild, (self.where, self.found, self.expected, self.mend))


def _rebuild(where: str, found: str, expected: str, mend: str) -> DataError:
    """Unpickle a DataError (worker processes send theirs back pickled)."""
    return DataError(where, found, expected=expected, mend=mend)


class RecipeError(HfldError):
    """A recipe, a preset or a run folder that cannot be followed."""


class ArgumentError(HfldError, ValueError):
    """An argument of a library function that has the wrong value or shape."""


class Interrupted(KeyboardInterrupt):
    """A training that the user stopped; its text says what is kept and how to go on."""


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint for a name that is not among ``names``: the nearest of them, else all."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, 1, cutoff=0.5)
    return f"the nearest name is {close[0]}" if close else f"choose from {', '.join(names)}"


@contextmanager
def first_interrupt_waits() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed; a second one interrupts as usual."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals reach the main thread only
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN):  # a job in the background is not to be stopped by Ctrl-C
        yield lambda: False
        return

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        # A print could be interrupted by itself here.
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
