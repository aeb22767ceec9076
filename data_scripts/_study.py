"""What the studies share: their data, saved cells, and tables that say how they were made."""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from hfld_lite.errors import RecipeError
from hfld_lite.readers import read_folder
from hfld_lite.recipes import Recipe, preset
from hfld_lite.recordings import Recordings
from hfld_lite.report import processor
from hfld_lite.simulate import simulate_tiles
from hfld_lite.transforms import add_noise
from hfld_lite.version import __version__

TILES_PER_CLASS = 130
"""Half of the demo's, so that many runs fit into an hour on two cores."""

BEARINGS_SNR = -6.0
"""dB; without noise every network knows the known bearings perfectly."""


def tiles(seed: int) -> tuple[Recordings, Recipe]:
    """Six classes of simulated tiles, new ones for each seed, and the demo's recipe."""
    recordings = simulate_tiles(seed=500 + seed, tiles_per_class=TILES_PER_CLASS)
    return recordings, preset("demo").replace(seed=seed)


def bearings(folder: Path, seed: int) -> tuple[Recordings, Recipe]:
    """Prepared bearing recordings in white noise, and the classroom's recipe."""
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there; make it with data_scripts/prepare_bearings.py.")
    clean = read_folder(folder)
    noisy = add_noise(clean.signals, BEARINGS_SNR, np.random.default_rng(seed))
    return replace(clean, signals=noisy), preset("classroom").replace(seed=seed)


def cells(
    run: Callable[..., list[dict]],
    jobs: list[tuple],
    folder: Path,
    at_once: int,
    until: float | None = None,
) -> pd.DataFrame:
    """Run ``run(*job)`` for every job, several at once, and keep each result as a file.

    A job whose file is there is not run again; delete the folder to start afresh. No job begins
    after the time ``until`` (seconds since 1970): its rows are then missing.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def one(job: tuple) -> list[dict]:
        path = folder / ("-".join(str(part).replace("/", "_") for part in job) + ".json")
        if not path.exists():
            if until is not None and time.time() > until:
                return []
            torch.set_num_threads(1)  # the jobs share the cores already
            rows = run(*job)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(rows))
            part.replace(path)
        return json.loads(path.read_text())

    found = joblib.Parallel(at_once, verbose=5)(joblib.delayed(one)(job) for job in jobs)
    return pd.DataFrame([row for rows in found for row in rows])


def write_table(path: Path, table: pd.DataFrame, *notes: str) -> None:
    """Write a CSV file whose first lines, behind #, say what it is and how it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        *notes,
        f"hfld_lite {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}, {date.today()}",
    ]
    text = "".join(f"# {line}\n" for line in lines) + table.to_csv(index=False)
    path.write_text(text)
