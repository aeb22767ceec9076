"""The stored tables that notebooks read: what takes longer than a notebook was computed before."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from hfld_lite.errors import ArgumentError, nearest

if TYPE_CHECKING:
    import pandas as pd


def stored_table(name: str) -> pd.DataFrame:
    """A table of ``hfld_lite/results``, found wherever the package is installed.

    The first lines of each file, which begin with ``#``, say which program made it, when and where.

    Args:
        name: The file's name, such as ``"study.csv"``.

    Raises:
        ArgumentError: There is no such table.
    """
    import pandas as pd

    folder = files("hfld_lite") / "results"
    known = sorted(path.name for path in folder.iterdir() if path.name.endswith(".csv"))
    if name not in known:
        raise ArgumentError(f"There is no stored table {name!r}; {nearest(name, known)}.")
    with (folder / name).open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")
