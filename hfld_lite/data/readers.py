"""The readers of foreign files, and the one that finds out which of them a folder needs.

Each returns `Recordings`, raises `DataError` with the file and the row, and leaves nothing out in
silence: what it leaves out, mixes down, cuts or pads is counted in a warning or in `source`.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np

from hfld_lite.errors import ArgumentError, DataError, nearest
from hfld_lite.data.layouts import (
    LONG_NAME,
    SOUND_LAYOUT,
    SOUNDS,
    TILE_LAYOUT,
    float32,
    listing,
    some,
)
from hfld_lite.data.mat_files import mat_variable, read_long_mat, read_mat
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.sound_files import read_sound, read_wav_folder

__all__ = ["read_folder", "read_long_mat", "read_mat", "read_signals", "read_wav_folder"]


def read_folder(folder: str | Path, *, progress: bool = False, **options) -> Recordings:
    """Read a folder of any layout known here: prepared, tiles in .mat files, long, WAV or FLAC.

    Args:
        folder: what to read.
        progress: show a bar.
        options: for the reader of that layout: `Recordings.load`, `read_mat`, `read_long_mat` or
            `read_wav_folder`.

    Raises:
        DataError: the folder holds no known layout, or several.
        ArgumentError: the reader has no such option.
    """
    folder = Path(folder)
    inside = listing(folder)
    stems = [path.stem for path in inside if path.suffix.lower() == ".mat"]
    below = [p for path in inside if path.is_dir() for p in listing(path)]
    long = stems and all(re.fullmatch(LONG_NAME, stem) for stem in stems)
    layouts = {
        "a prepared folder": (MANIFEST in {path.name for path in inside}, Recordings.load),
        "long recordings in .mat files": (long, read_long_mat),
        "tiles in .mat files": (stems and not long, read_mat),
        "WAV or FLAC files": (
            "manifest.csv" in {path.name for path in inside}
            or any(path.suffix.lower() in SOUNDS for path in below),
            read_wav_folder,
        ),
    }
    found = {name: reader for name, (there, reader) in layouts.items() if there}
    if len(found) != 1:
        raise DataError(
            folder,
            f"holds {' and '.join(found) or 'nothing that can be read: ' + some(inside)}",
            expected=f"one of: a prepared folder; {TILE_LAYOUT}; {SOUND_LAYOUT}",
            mend="give each its own folder" if found else "",
        )
    name, reader = found.popitem()
    known = list(inspect.signature(reader).parameters)[1:]
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"{folder} holds {name}, which have no option {option!r}; {nearest(option, known)}."
            )
    return reader(folder, **options, **({"progress": progress} if "progress" in known else {}))


def read_signals(
    file: str | Path,
    *,
    sample_rate: int,
    samples: int,
    hop: int | None = None,
    variable: str | None = None,
) -> np.ndarray:
    """Read one WAV, FLAC or .mat file as the training data was read, for a trained network.

    Args:
        file: a sound file, or a .mat file with a recording a row (or, with `hop`, one long one).
        sample_rate: in Hz, what a sound file must have; .mat files don't tell it.
        samples: of one recording; the first so many are used, as in training.
        hop: where the training data were windows of long recordings, the step between them.
        variable: in a .mat file; by default ``data``, or ``DE_time`` for long recordings.

    Returns:
        float32 ``(n, samples)``.

    Raises:
        DataError: the file is missing, damaged, too short, at another rate, or holds a recording
            that is constant or not finite.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(file, "is not there", expected="a WAV, FLAC or .mat file")
    ending = file.suffix.lower()
    if ending == ".mat":
        signals = mat_variable(file, variable or ("data" if hop is None else "DE_time"))
    elif ending in SOUNDS:
        signals, rate = read_sound(file)
        if rate != sample_rate:
            raise DataError(
                file, f"is at {rate} Hz", expected=f"{sample_rate} Hz", mend="resample it"
            )
        signals = signals[None]
    else:
        raise DataError(file, f"ends in {ending!r}", expected="a WAV, FLAC or .mat file")
    if hop is not None:
        signals = signals.reshape(1, -1)
    if signals.shape[1] < samples:
        raise DataError(
            file, f"a recording has {signals.shape[1]} samples", expected=f"{samples} or more"
        )
    if hop is None:
        signals = signals[:, :samples]
    else:
        signals = np.lib.stride_tricks.sliding_window_view(signals[0], samples)[::hop]
    signals = float32(signals)
    for row, signal in enumerate(signals):
        if not np.isfinite(signal).all():
            raise DataError(f"{file}, row {row}", "holds NaN or infinity", mend="record it again")
        if signal.min() == signal.max():
            raise DataError(f"{file}, row {row}", "is constant (silent)", mend="record it again")
    return signals
