"""What the studies share: their data, saved cells, and tables that say how they were made."""

import json
import lzma
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from hfld_lite.app.many import stored_cells, stored_rows
from hfld_lite.data.readers import read_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.views import add_noise
from hfld_lite.edge.analysis import processor
from hfld_lite.errors import HfldError, RecipeError
from hfld_lite.recipes import Network, Recipe
from hfld_lite.storage.files import write_whole
from hfld_lite.version import __version__

TILES_PER_CLASS = 130
"""Half of the demo's, so that many runs fit into an hour on two cores."""

BEARINGS_SNR = -6.0
"""dB; without noise every network knows the known bearings perfectly."""


BEFORE = Recipe(
    name="classroom of 0.2.0",
    teacher=Network(18, 1 / 4, epochs=20),
    secondary_teachers=(Network(18, 1 / 8, epochs=20),),
    student=Network(10, 1 / 16, epochs=20),
    view="spectrum",
    bins_by="cutting",
    learning_rate=3e-3,
    weight_decay=1e-2,
    batch_size=32,
    mu=1.0,
    nu=1.0,
    balance=False,
)
"""The preset "classroom" up to version 0.2.0, by which what is stored in ``hfld_lite/results`` was
made, but for what `choose_defaults.py` wrote."""

DEMO_BEFORE = BEFORE.replace(
    name="demo of 0.2.0",
    teacher=Network(18, 1 / 4, epochs=8),
    secondary_teachers=(Network(18, 1 / 8, epochs=10),),
    student=Network(10, 1 / 16, epochs=16),
)


def tiles(seed: int) -> tuple[Recordings, Recipe]:
    """Six classes of simulated tiles, new ones for each seed, and the demo's recipe of then."""
    recordings = simulate_tiles(seed=500 + seed, tiles_per_class=TILES_PER_CLASS)
    return recordings, DEMO_BEFORE.replace(seed=seed)


def bearings(folder: Path, seed: int) -> tuple[Recordings, Recipe]:
    """Prepared bearing recordings in white noise, and the classroom's recipe of then."""
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there; make it with data_scripts/prepare_bearings.py.")
    clean = read_folder(folder)
    noisy = add_noise(clean.signals, BEARINGS_SNR, np.random.default_rng(seed))
    return replace(clean, signals=noisy), BEFORE.replace(seed=seed)


def cells(
    run: Callable[..., list[dict]],
    jobs: list[tuple],
    folder: Path,
    at_once: int,
    until: float | None = None,
    scheduler: str | None = None,
    folders: Sequence[Path] = (),
) -> pd.DataFrame:
    """Run ``run(*job)`` for every job, several at once, and keep each result as a file.

    A job whose file is there is not run again; delete the folder to start afresh. No job begins
    after the time ``until`` (seconds since 1970): its rows are then missing. The machine that made
    a result stands in the file only. See :func:`hfld_lite.app.many.stored_cells`.
    """
    code = Path(__file__).parent
    rows = stored_cells(run, jobs, folder, at_once, until, scheduler, code, folders)
    return pd.DataFrame(rows)


def start(app: typer.Typer) -> None:
    """Run a program; for an error that its user can mend, print its sentence and exit with 2."""
    try:
        app()
    except HfldError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def pack(folder: Path, path: Path, made_with: str) -> None:
    """Write all finished cells of a folder into one file, from which another machine can resume.

    Args:
        folder: of :func:`cells`.
        path: the file, JSON lines compressed by xz.
        made_with: what the cells depend on; :func:`unpack` asks for the same.
    """
    lines = [json.dumps({"made_with": made_with})]
    for cell in sorted(folder.glob("*-*.json")):
        rows = stored_rows(cell)  # the packed file is published: no names of machines
        lines.append(json.dumps({"cell": cell.name, "rows": rows}, separators=(",", ":")))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lzma.compress("\n".join(lines).encode(), preset=9))


def unpack(path: Path, folder: Path, made_with: str) -> int:
    """Lay the cells of a file that :func:`pack` wrote into a folder that lacks them.

    Returns:
        How many were laid there; none, and a line that says so, if they were made with something
        else.
    """
    if not path.exists():
        return 0
    first, *lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    if json.loads(first)["made_with"] != made_with:
        print(f"{path} was made with other settings; its cells are not used.")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    laid = 0
    for line in lines:
        cell = json.loads(line)
        target = folder / cell["cell"]
        if not target.exists():
            write_whole(target, json.dumps(cell["rows"]))
            laid += 1
    return laid


def forget_peak() -> None:
    """Begin to measure the process's peak memory anew, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The process's peak memory since :func:`forget_peak`, in MiB; NaN where it is unknown."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return float("nan")


def write_table(path: Path, table: pd.DataFrame, *notes: str) -> None:
    """Write a CSV file whose first lines, behind #, say what it is and how it was made.

    A file with the same content stays as it is, with the versions, machine and date that made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = (
        f"hfld_lite {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}, {date.today()}"
    )
    above = "".join(f"# {line}\n" for line in notes)
    below = table.to_csv(index=False)
    if path.exists():
        there = path.read_text("utf-8")
        same = there.startswith(above) and there.endswith("\n" + below)
        if same and there[len(above) : -len(below)].count("\n") == 1:
            return
    write_whole(path, f"{above}# {made}\n{below}")
