"""Tables for other programs: ``--output FILE.csv`` or ``FILE.jsonl``, with full numbers."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from typer import Option

from hfld_lite.errors import RecipeError
from hfld_lite.storage.files import write_whole
from hfld_lite.storage.locks import lock_beside, unlock_beside

Output = Annotated[
    Path | None,
    Option(help="Also write the figures, unrounded, into this file: .csv or .jsonl."),
]


def check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written, before anything runs.

    Raises:
        RecipeError: the ending is neither .csv nor .jsonl, or a file cannot be written there.
    """
    if path is None:
        return
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise RecipeError(f"--output is {path}; give a name that ends in .csv or .jsonl.")
    fault = "it is a folder" if path.is_dir() else ""
    if not path.parent.is_dir():
        fault = f"there is no folder {path.parent}"
    elif not os.access(path.parent, os.W_OK):
        fault = f"nothing may be written into {path.parent}"
    if fault:
        raise RecipeError(f"--output {path} cannot be written ({fault}); give another name.")


def write_output(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows whole or not at all, in UTF-8; a file that is there is replaced.

    Args:
        path: that `check_output` has accepted; with None nothing is written.
        rows: values by column, see :func:`records`.

    Raises:
        RecipeError: the file cannot be written.
    """
    if path is None:
        return
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    form = path.suffix.lower()
    with or_sentence(path):
        write_whole(path, header(columns, form) + records(rows, columns, form))


@contextmanager
def growing_output(path: Path | None, columns: Sequence[str]) -> Iterator["Growing"]:
    """Write rows as they come into ``FILE.part``, which gets its name when the block has ended.

    So a file under its own name is always whole. If the process is killed or the user stops it,
    what was written stays in ``FILE.part``; an error removes it. A second process at the same file
    is refused.

    Args:
        path: that `check_output` has accepted; with None nothing is written.
        columns: of every row; what a row lacks is an empty field or null.

    Raises:
        RecipeError: the file cannot be written, or another process writes it.
    """
    if path is None:
        yield Growing(None, columns, "")
        return
    part = path.with_name(path.name + ".part")
    with or_sentence(path):
        lock = lock_beside(path, "writes it; let it finish, or give another --output")
    try:
        with or_sentence(path):
            file = part.open("wb")
        try:
            with file:
                grown = Growing(file, columns, path.suffix.lower(), path)
                yield grown
                with or_sentence(path):
                    file.flush()
                    os.fsync(file.fileno())
            with or_sentence(path):
                os.replace(part, path)
        except Exception:
            part.unlink(missing_ok=True)
            raise
    finally:
        unlock_beside(lock, path)


class Growing:
    """A table that grows; see `growing_output`."""

    def __init__(
        self, file: BinaryIO | None, columns: Sequence[str], form: str, path: Path | None = None
    ) -> None:
        self._file, self._columns, self._form, self._path = file, columns, form, path
        self._write(header(columns, form) if file else b"")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows, whole."""
        if self._file:
            self._write(records(rows, self._columns, self._form))

    def _write(self, data: bytes) -> None:
        if self._file:
            with or_sentence(self._path):
                self._file.write(data)
                self._file.flush()


@contextmanager
def or_sentence(path: Path | None) -> Iterator[None]:
    """Make an OSError the sentence about the option."""
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"--output {path} cannot be written ({error.strerror}); give another name."
        ) from error


def header(columns: Sequence[str], form: str) -> bytes:
    """The line before the records: the columns' names in CSV, and nothing in JSON lines."""
    return _csv([columns]) if form == ".csv" else b""


def records(rows: Iterable[dict[str, Any]], columns: Sequence[str], form: str) -> bytes:
    """Rows as CSV or as a JSON object a line, in UTF-8.

    Args:
        rows: values by column. What is missing, NaN or infinite becomes an empty field or null; in
            CSV a list is written as JSON.
        columns: of CSV; an object has the row's own.
        form: ``".csv"`` or ``".jsonl"``.
    """
    plain = ({name: _plain(value) for name, value in row.items()} for row in rows)
    if form == ".jsonl":
        return _encoded("".join(_json(row) + "\n" for row in plain))
    cells = ([row.get(name) for name in columns] for row in plain)
    return _csv([_json(v) if isinstance(v, list) else v for v in row] for row in cells)


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return _encoded(text.getvalue())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a file's name may be no Unicode text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value of Python, with None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
