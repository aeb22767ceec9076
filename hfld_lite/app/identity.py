"""Whether recordings are those of a training, by numbers that other machines give, too.

A digest of samples is another one where a processor, a simulator or a resampling filter rounds
otherwise. A sketch of each recording is compared with a tolerance instead: with y = x − mean(x) and
its root mean square l, the numbers are m / (|m| + l) of the mean m, ln l, and the projections
Σ y_t cos(a_k t²) / ‖y‖ for a few fixed a_k. Two recordings of noise agree in all of them by chance
once in 10¹² pairs.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import RecipeError
from hfld_lite.storage.arrays import pieces
from hfld_lite.storage.files import bytes_digest, regular_size, write_whole

FILE = "recordings.safetensors"
"""In a run's folder: the sketch of each recording of the training, in their order."""

TOLERANCE = 1e-3
_RATES = np.array([0.6180339887, 0.4142135623, 0.3027756377, 0.2360679774])
_CHUNK = 1 << 22  # samples taken together, 32 MiB in double precision


def sketch(signals: np.ndarray) -> np.ndarray:
    """The numbers of each signal ``(n, samples)``, float32 ``(n, 6)``."""
    samples = signals.shape[1]
    waves = np.cos(np.square(np.arange(samples, dtype=float))[:, None] * _RATES)
    found = np.empty((len(signals), 2 + len(_RATES)), np.float32)
    step = max(1, _CHUNK // samples)
    for start, piece in zip(range(0, len(signals), step), pieces(signals, step), strict=True):
        part = np.asarray(piece, dtype=float)
        mean = part.mean(1, keepdims=True)
        part = part - mean
        level = np.sqrt(np.mean(np.square(part), 1, keepdims=True)).clip(1e-30)
        offset = mean / (np.abs(mean) + level)
        shape = part @ waves / (level * np.sqrt(samples))
        found[start : start + step] = np.hstack([offset, np.log(level), shape])
    return found


def labelling(recordings: Recordings) -> str:
    """Digest of the classes and groups of recordings, in their order."""
    names = [recordings.class_names, recordings.labels.tolist(), recordings.groups.tolist()]
    return bytes_digest([json.dumps(names).encode()])


def write_sketch(folder: Path, recordings: Recordings) -> None:
    """Keep the sketch of a training's recordings in its run folder."""
    numbers = {"sketch": torch.from_numpy(sketch(recordings.signals))}
    write_whole(folder / FILE, lambda part: save_file(numbers, part))
    (folder / FILE).chmod(0o644)  # safetensors makes private files; the others are not


def read_sketch(folder: Path) -> np.ndarray | None:
    """The sketch in a run folder, ``(n, 6)``; None in one of hfld_lite 0.2.0.

    Raises:
        RecipeError: if it is damaged.
    """
    path = folder / FILE
    try:
        regular_size(path)
        found = load_file(path)["sketch"]
        if found.dtype != torch.float32 or found.shape[1:] != (2 + len(_RATES),):
            raise ValueError(f"it holds {found.dtype} of shape {tuple(found.shape)}")
        if not found.isfinite().all():
            raise ValueError("it holds NaN or infinity")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); copy the run again.") from error
    return found.numpy()


def differ(known: np.ndarray, recordings: Recordings) -> np.ndarray:
    """Rows of recordings that are not those of a sketch of as many."""
    return np.flatnonzero(np.abs(sketch(recordings.signals) - known).max(1) > TOLERANCE)


def among(known: np.ndarray, signals: np.ndarray) -> np.ndarray:
    """Whether each signal ``(n, samples)`` is one of those of a sketch, booleans ``(n,)``."""
    if not len(known):
        return np.zeros(len(signals), dtype=bool)
    from scipy.spatial import cKDTree  # slow to load

    near, _ = cKDTree(known).query(sketch(signals), p=np.inf, distance_upper_bound=TOLERANCE)
    return np.isfinite(near)
