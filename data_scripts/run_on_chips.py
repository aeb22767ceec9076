"""A run's student on every emulated core: the tables in hfld_lite/results that begin with chips.

Writes chips.csv (sizes, instructions, accuracy and deviations, by core and precision),
chips_parts.csv (bytes by part) and chips_map.csv (each function and table of the Cortex-M4's
program in int8), which notebook 08 shows where the cross compiler or QEMU is missing. Instructions
and bytes depend on the versions of the compiler and the emulator, which the tables name.
"""

import subprocess
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from _study import write_table
from typer import Option

from hfld_lite.app.on_chip import run_on_chips
from hfld_lite.app.runs import load_run
from hfld_lite.edge.chip import COMPILER, CORES, EMULATOR

MAPPED = "cortex-m4"


def version(program: str) -> str:
    """The first line that a program says of itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")] = Path("runs/demo"),
    out: Annotated[Path, Option(help="Folder of the tables.")] = Path("hfld_lite/results"),
    recordings: Annotated[int, Option(min=0, help="Of the test part; 0 for all.")] = 0,
) -> None:
    """Run on every core and write the tables."""
    loaded, rows, parts = load_run(run), [], []
    for core, found in run_on_chips(loaded, list(CORES), most=recordings).items():
        rows += [
            {"core": core} | row | {"recordings": found.recordings, "machine": found.machine}
            for row in found.table.to_dict("records")
        ]
        for precision, linked in found.linked.items():
            name = {"core": core, "precision": precision}
            parts += [name | part for part in linked.sizes_by_part()]
        if core == MAPPED:
            placed = pd.DataFrame(found.linked["int8"].placed)
    out.mkdir(parents=True, exist_ok=True)
    what = f"The student of {run}: {loaded.facts['source']}"
    ran = f"{found.recordings} of {found.of} test recordings; {version(COMPILER)}; "
    ran += version(EMULATOR)
    command = f"command: python data_scripts/run_on_chips.py {run} --recordings {recordings}"
    tables = {
        "chips": (rows, "Bytes, instructions, accuracy and deviations by core and precision."),
        "chips_parts": (parts, "Bytes of the linked programs by part."),
        "chips_map": (placed, f"What the linker placed where: {MAPPED}, int8."),
    }
    for name, (table, title) in tables.items():
        write_table(out / f"{name}.csv", pd.DataFrame(table), title, what, ran, command)
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    typer.run(main)
