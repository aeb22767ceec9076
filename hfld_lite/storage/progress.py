"""What is printed: a bar on a terminal and in a notebook, whole lines in a file or a pipe."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

from tqdm.asyncio import tqdm as on_terminal
from tqdm.auto import tqdm


def bar(*args: Any, progress: bool, **options: Any) -> tqdm:
    """A bar that is shown only where something can repaint it.

    Args:
        args: as tqdm takes them.
        progress: whether the user wants to see any; without it :func:`tell` is silent, too.
        options: as tqdm takes them.
    """
    # Without end the bar waits for its first display, and counts.
    delay = 0 if in_place() else math.inf
    return tqdm(*args, disable=not progress, delay=delay, **options)


def in_place() -> bool:
    """Whether what is shown can be shown again in the same place: on a terminal, in a notebook."""
    if tqdm is not on_terminal:
        return True
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def tell(shown: tqdm, text: str) -> None:
    """Put a text at the end of a bar; where there is no bar, print it as a line of its own."""
    if shown.disable:
        return
    if not shown.delay:
        shown.set_postfix_str(text)
        return
    form = {"postfix": text, "bar_format": "{desc}{postfix} [{elapsed}<{remaining}]"}
    print(shown.format_meter(**shown.format_dict | form), file=sys.stderr, flush=True)


def note(shown: tqdm, text: str) -> None:
    """Print a line on the error stream, above a bar if there is one."""
    if shown.disable or shown.delay:
        print(text, file=sys.stderr)
    else:
        shown.write(text, file=sys.stderr)


def print_any_character() -> None:
    """Print characters that a stream's encoding lacks by their code, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
