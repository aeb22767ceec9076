"""What all commands share: the console, tables, and arguments with the same meaning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from hfld_lite.app.compared import Comparison
from hfld_lite.app.display import baselines_table
from hfld_lite.storage.progress import print_any_character

if TYPE_CHECKING:
    import pandas as pd

console = Console(highlight=False, markup=False, emoji=False)

RunFolder = Annotated[Path, Argument(help="A run folder that `hfld train` wrote.")]
Role = Annotated[
    str | None,
    Option(
        help="A network of the run: teacher, secondary_teacher, student (the default), "
        "student_alone; in a run on good parts, its score."
    ),
]
Variable = Annotated[
    str | None,
    Option(help="Name of the variable in .mat files, or a pattern, such as 'X*_DE_time'."),
]

_UNBROKEN = 1 << 20


def on_terminal() -> bool:
    """Whether what is printed goes to a terminal, and not into a file or a pipe."""
    return sys.stdout is not None and sys.stdout.isatty()


def prepare_streams() -> None:
    """Print any character, and break lines on a terminal only."""
    print_any_character()
    if not on_terminal():
        console.width = _UNBROKEN


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; off a terminal all of each cell, in columns without lines."""
    if on_terminal():
        grid = Table(*header, box=box.SIMPLE_HEAD)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
        return
    cells = [header, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        console.print("  ".join(padded).rstrip())


def print_table(shown: pd.DataFrame) -> None:
    """Print the networks side by side, so that the table fits 80 columns."""
    first, *others = shown
    print_rows(["", *shown[first]], [[name, *shown[name]] for name in others])


def print_comparison(comparison: Comparison | None) -> None:
    """Print the baselines and the sentence about them, if there are any."""
    if comparison is not None:
        print_table(baselines_table(comparison.table))
        console.print(comparison.sentence)
