"""A run's student on every emulated core: the tables in notebooks/results that begin with chips.

Writes chips.csv (sizes, instructions, accuracy and deviations, by core and precision),
chips_parts.csv (bytes by part) and chips_map.csv (each function and table of the Cortex-M4's
program in int8), which notebook 07 shows where the cross compiler or QEMU is missing. Instructions
and bytes depend on the versions of the compiler and the emulator, which the tables name.
"""

import subprocess
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from typer import Option

from hfld_lite.app.on_chip import run_on_chips
from hfld_lite.app.runs import load_run
from hfld_lite.edge.chip import COMPILER, CORES, EMULATOR
from hfld_lite.storage.files import write_whole

MAPPED = "cortex-m4"


def version(program: str) -> str:
    """The first line that a program says of itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")] = Path("runs/demo"),
    out: Annotated[Path, Option(help="Folder of the tables.")] = Path("notebooks/results"),
    recordings: Annotated[int, Option(min=0, help="Of the test part; 0 for all.")] = 0,
) -> None:
    """Run on every core and write the tables."""
    loaded, rows, parts = load_run(run), [], []
    tools = {"compiler": version(COMPILER), "emulator": version(EMULATOR)}
    for core, found in run_on_chips(loaded, list(CORES), most=recordings).items():
        for row in found.table.to_dict("records"):
            counts = {"recordings": found.recordings, "machine": found.machine}
            rows.append({"core": core} | row | counts | tools)
        for precision, linked in found.linked.items():
            name = {"core": core, "precision": precision}
            parts += [name | part for part in linked.sizes_by_part()]
        if core == MAPPED:
            placed = pd.DataFrame(found.linked["int8"].placed)
    out.mkdir(parents=True, exist_ok=True)
    tables = {"chips": pd.DataFrame(rows), "chips_parts": pd.DataFrame(parts), "chips_map": placed}
    for name, table in tables.items():
        write_whole(out / f"{name}.csv", table.to_csv(index=False))
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    typer.run(main)
