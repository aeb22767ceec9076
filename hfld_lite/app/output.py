"""Tables for other programs: ``--output FILE.csv`` or ``FILE.jsonl``, with full numbers."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from hfld_lite.errors import RecipeError
from hfld_lite.storage.files import write_whole

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
        rows: values by column. What is missing, NaN or infinite becomes an empty field or null; in
            CSV a list is written as JSON.

    Raises:
        RecipeError: the file cannot be written.
    """
    import pandas as pd

    if path is None:
        return
    rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
    if path.suffix.lower() == ".csv":
        cells = [
            {name: _json(v) if isinstance(v, list) else v for name, v in row.items()}
            for row in rows
        ]
        text = pd.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator="\n")
    else:
        text = "".join(_json(row) + "\n" for row in rows)
    try:  # a file's name may be no Unicode text
        write_whole(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RecipeError(
            f"--output {path} cannot be written ({error.strerror}); give another name."
        ) from error


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value of Python, with None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
