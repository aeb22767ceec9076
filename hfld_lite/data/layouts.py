"""The layouts of recordings on disk, and what their readers share."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hfld_lite.errors import ArgumentError, DataError, nearest

TILE_LAYOUT = "one .mat file per type and class, *N.mat normal and *D.mat defective"
SOUND_LAYOUT = "one subfolder of WAV or FLAC files per class, or a manifest.csv"
LONG_NAME = r"(?P<label>.+)_load\d+"
SOUNDS = {".wav", ".flac"}


def listing(folder: Path) -> list[Path]:
    """Return what is in `folder`, sorted by name."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "is not there"
        raise DataError(folder, found, expected="a folder")
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(folder, f"cannot be listed ({error.strerror})") from error


def some(paths: Sequence[Path]) -> str:
    """Name the first few of `paths`."""
    names = ", ".join(path.name for path in paths[:5])
    return f"{names}, … ({len(paths)} in all)" if len(paths) > 5 else names or "it is empty"


def left_out(folder: Path, paths: Sequence[Path], why: str) -> None:
    """Warn that `paths` weren't read."""
    if paths:
        text = f"{folder}: left out {len(paths)} that {why}: {some(paths)}"
        warnings.warn(text, stacklevel=3)


def need_two(names: Sequence[str], where: object) -> None:
    """Refuse data of one class, before it is read."""
    if len(names) < 2:
        raise DataError(
            where if isinstance(where, str | os.PathLike) else "the given files",
            f"there is only the class {names[0]!r}" if names else "there is no class",
            expected="two classes or more",
            mend="add the recordings of another class",
        )


def known_classes(
    names: str | Sequence[str], classes: Iterable[str], what: str = "normal"
) -> list[str]:
    """Return `names`, all of them among `classes`, else raise an ArgumentError."""
    names, classes = [names] if isinstance(names, str) else list(names), sorted(set(classes))
    for name in names:
        if name not in classes:
            raise ArgumentError(f"{what}: no class is named {name!r}; {nearest(name, classes)}.")
    return names


def expression(text: str, what: str, named: str = "") -> re.Pattern:
    """Compile a regular expression that has exactly one group, `named` if so wanted."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ArgumentError(f"{what} {text!r} is no regular expression: {error}.") from error
    if pattern.groups != 1 or (named and named not in pattern.groupindex):
        form = f"(?P<{named}>…)" if named else "(…)"
        raise ArgumentError(f"{what} {text!r} must have exactly one group, {form}.")
    return pattern


def pooled_order(name: str) -> tuple[str, bool]:
    """Sort key: by type, and N before D."""
    return name[:-1], name[-1] != "N"


def float32(array: np.ndarray) -> np.ndarray:
    """Convert; what overflows becomes infinite and is named when Recordings looks at it."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, order="C")  # MATLAB keeps columns together
