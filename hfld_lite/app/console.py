"""What all commands share: the console, tables, and arguments with the same meaning."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from hfld_lite.app.compared import Comparison
from hfld_lite.app.report import baselines_table

console = Console(highlight=False, markup=False)

RunFolder = Annotated[Path, Argument(help="A run folder that `hfld train` wrote.")]
Role = Annotated[
    str, Option(help="A network of the run: teacher, secondary_teacher, student, student_alone.")
]
Variable = Annotated[
    str | None,
    Option(help="Name of the variable in .mat files, or a pattern, such as 'X*_DE_time'."),
]


def print_table(shown: pd.DataFrame) -> None:
    """Print the networks side by side, so that the table fits 80 columns."""
    first, *others = shown
    grid = Table("", *shown[first], box=box.SIMPLE_HEAD)
    for name in others:
        grid.add_row(name, *shown[name])
    console.print(grid)


def print_comparison(comparison: Comparison | None) -> None:
    """Print the baselines and the sentence about them, if there are any."""
    if comparison is not None:
        print_table(baselines_table(comparison.table))
        console.print(comparison.sentence)
