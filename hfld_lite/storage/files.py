"""Files that somebody else wrote: what is looked at before anything is read or reserved.

Everything here raises a ValueError or an OSError whose text completes the sentence "… cannot be
read (…)"; the callers know which file it is and how to mend it.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

JSON_BYTES = 1 << 23
"""The longest JSON file that is read, 8 MiB: its values take up to 30 times that in memory."""

SLACK = 1 << 24
RATIO = 64
"""Compressed data may unfold to ``SLACK + RATIO · size``; no recording comes near: noise stays."""

_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def unfolded(size: int) -> int:
    """The most that ``size`` bytes of a file may unfold to, in bytes or samples."""
    return SLACK + RATIO * size


def regular_size(path: Path) -> int:
    """Size in bytes of a regular file.

    Raises:
        ValueError: it is a folder, a device or a pipe, whose reading might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file but a folder, a device or a pipe")
    return status.st_size


def read_text(path: Path, most: int, encoding: str = "utf-8") -> str:
    """The text of a regular file of ``most`` bytes at most."""
    size = regular_size(path)
    if size > most:
        raise ValueError(f"it has {size} bytes, and {most} are the most that is read")
    with path.open(encoding=encoding, newline="") as file:
        return file.read(most)


def read_json(path: Path) -> Any:
    """The value in a JSON file (RFC 8259), without what makes two readers differ.

    Raises:
        ValueError: it is too long, nested too deeply, no JSON; a key stands twice in an object; a
            number is NaN, infinite or beyond a float; a string is no Unicode text.
    """
    text = read_text(path, JSON_BYTES)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_constant=_float
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _SURROGATE.search(text):  # half a character: it could be read but never be printed
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} stands twice")
    return result


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
