"""Development sets: the data by which the defaults of recipes are chosen.

Everything is simulated or read here and is the same for the same seed. Groups are kept whole. Where
data are made, each seed makes new ones. Where there is one fixed stock (bearings, digits), the test
part comes from recordings that no seed of the same set uses for training or validation. There are
two exceptions: in ``bearings-size-noise`` the held-out fault size, and with it the test part,
changes with the seed; and the four bearings sets share one stock, so that a test window of one set
can be a training or validation window of another.

The noise of each synthetic family was set so that scikit-learn's logistic regression on the
magnitudes of the FFT is right in 80 to 97 % of the test recordings; no network or view of this
library was used (tests/test_development.py repeats that). In ``modulation`` those magnitudes
contain no information on the class, as the carrier is white noise; there the signal is squared
first. In ``imbalance`` the range is that of the balanced accuracy, with balanced class weights.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from _study import BEARINGS_SNR
from numpy.random import Generator, default_rng
from sklearn.datasets import load_digits

from hfld_lite.data.mat_files import read_long_mat
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.splits import Split, check_split, split
from hfld_lite.data.views import add_noise

Development = tuple[Recordings, Split]
Event = Callable[[np.ndarray], np.ndarray]
"""One recording of an object without the noise: amplitudes at times in s."""

FIXED_SEED = 777
"""Of the test parts that every seed shares."""

GROUP = 2
"""Recordings of one object in the synthetic families."""

SIZES = ("007", "014", "021")
"""Fault sizes that all three kinds of bearing faults have; one is held out, by seed."""


def tiles(
    seed: int, *, types: str, tiles_per_class: int, drops: int, first_seed: int
) -> Development:
    """Simulated tiles, new ones for each seed; a group is one tile."""
    recordings = simulate_tiles(types, tiles_per_class, drops, seed=first_seed + seed)
    return recordings, split(recordings, seed=seed)


def bearings(seed: int, *, condition: str, snr: float | None, folder: Path) -> Development:
    """Real bearings: 623 windows of 2048 samples, from every third block of time, the groups.

    Args:
        seed: of noise and split.
        condition: ``"block"``: 11 known bearings, tested on other blocks; ``"load"``: trained at
            loads 0 to 2, tested at 3; ``"size"``: B, IR or OR, tested on another fault size.
        snr: of added white noise in dB; None for none.
        folder: with ``CLASS_loadL.mat``.
    """
    recordings = _windows(folder)
    names = np.array(recordings.class_names)[recordings.labels]
    if condition == "load":
        test = np.char.find(recordings.groups, "_load3") >= 0
    elif condition == "size":
        test = np.char.endswith(names, SIZES[seed % len(SIZES)])
        faults = ("B", "IR", "OR")
        labels = np.array([faults.index(name.rstrip("0123456789")) for name in names])
        recordings = replace(recordings, labels=labels, class_names=faults)
    else:
        test = np.zeros(len(recordings), bool)
        test[split(recordings, validation=0, seed=FIXED_SEED).test] = True
    if snr is not None:
        noisy = add_noise(recordings.signals, snr, default_rng(seed))
        recordings = replace(recordings, signals=noisy)
    return recordings, _with_test(recordings, test, seed)


def digits(seed: int) -> Development:
    """600 of scikit-learn's 8 × 8 digits, row after row as 64 samples at 64 Hz; ten classes."""
    images, labels = load_digits(return_X_y=True)
    stock, rng = default_rng(FIXED_SEED).permutation(len(labels)), default_rng(seed)
    test_stock, known_stock = np.split(stock, [len(stock) // 3])
    drawn = np.concatenate(
        [rng.choice(known_stock, 480, False), rng.choice(test_stock, 120, False)]
    )
    recordings = Recordings(
        images[drawn],
        labels[drawn],
        [f"digit {row}" for row in drawn],
        64,
        tuple("0123456789"),
        source="scikit-learn's digits, each image a signal",
    )
    return recordings, _with_test(recordings, np.arange(600) >= 480, seed)


def chirp(label: int, rng: Generator) -> Event:
    """A linear chirp from about 1500 Hz, up or down, slow or fast."""
    start = 1500 + 120 * rng.standard_normal()
    rate = (800, -800, 2000, -2000)[label] * (1 + 0.15 * rng.standard_normal())  # Hz/s
    return lambda time: np.sin(
        2 * np.pi * (start + rate * time / 2) * time + rng.uniform(0, 2 * np.pi)
    )


def impact(label: int, rng: Generator, latest: float = 0.01) -> Event:
    """Five damped modes, struck between 0 and `latest` s; a defect lowers and damps them."""
    modes = np.array([900.0, 1700.0, 2600.0, 3900.0, 5200.0])
    frequencies = modes * (1 + 0.012 * rng.standard_normal(5)) * (1, 0.975)[label]
    decay = np.pi * frequencies * (0.008, 0.012)[label]  # 1/s

    def strike(time: np.ndarray) -> np.ndarray:
        since = np.maximum(time - rng.uniform(0, latest), 0)
        strength = rng.normal(1, 0.3, 5) * 10 ** (rng.normal(0, 2) / 20)
        ringing = np.exp(-decay * since[:, None]) * np.sin(2 * np.pi * frequencies * since[:, None])
        return ringing @ strength

    return strike


def modulation(label: int, rng: Generator) -> Event:
    """A carrier of white noise whose amplitude swings about 8 or 12 times a second."""
    rate = (8, 12)[label] * (1 + 0.12 * rng.standard_normal())

    def hum(time: np.ndarray) -> np.ndarray:
        swing = np.sin(2 * np.pi * rate * time + rng.uniform(0, 2 * np.pi))
        return (1 + 0.6 * swing) * rng.standard_normal(len(time))

    return hum


def level(label: int, rng: Generator) -> Event:
    """Low-passed noise of one spectrum, 4 dB louder in the second class."""
    gain = 10 ** ((4 * label + 1.6 * rng.standard_normal()) / 20)
    return lambda time: gain * np.convolve(rng.standard_normal(len(time)), np.hanning(8), "same")


def family(
    seed: int,
    *,
    draw: Callable[[int, Generator], Event],
    classes: tuple[str, ...],
    objects: tuple[int, ...],
    sample_rate: int,
    seconds: float,
    noise: float,
) -> Development:
    """Make a synthetic family: objects of each class, two recordings of each, with white noise.

    Args:
        seed: of everything.
        draw: draws an object of a class.
        classes: their names; the first is the normal one if it is "sound".
        objects: how many of each class; each is a group.
        sample_rate: in Hz.
        seconds: of a recording.
        noise: standard deviation of the added white noise.
    """
    rng = default_rng([FIXED_SEED, seed])
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    of_object = np.repeat(np.arange(len(classes)), objects)
    signals = []
    for label in of_object:
        record = draw(label, rng)
        signals += [record(time) + noise * rng.standard_normal(len(time)) for _ in range(GROUP)]
    recordings = Recordings(
        np.array(signals),
        np.repeat(of_object, GROUP),
        np.repeat(np.arange(len(of_object)), GROUP),
        sample_rate,
        classes,
        normal_classes=("sound",) if classes[0] == "sound" else (),
        source=f"simulated, {len(classes)} classes: {', '.join(classes)}",
        simulated=True,
    )
    return recordings, split(recordings, seed=seed)


@lru_cache(1)
def _windows(folder: Path) -> Recordings:
    everything = read_long_mat(folder, window=2048, blocks=20, leave_out=("N",))
    return everything.select(np.array([int(name[-2:]) % 3 == 0 for name in everything.groups]))


def _with_test(recordings: Recordings, test: np.ndarray, seed: int) -> Split:
    """Keep the test part (a mask); draw a quarter of the rest for validation."""
    known = np.flatnonzero(~test)
    drawn = split(recordings.select(known), validation=0, test=0.25, seed=seed)
    parts = Split(known[drawn.train], known[drawn.test], np.flatnonzero(test))
    return check_split(parts, recordings)


def _bearings_sets() -> dict[str, Callable[[int], Development]]:
    """The four sets of real bearings, or none and a printed sentence where they are not there."""
    root = os.environ.get("HFLD_REAL_DATA", "")
    folder = Path(root) / "cwru"
    if not root or not folder.is_dir():
        found = f"has no folder {folder}" if root else "is not set"
        mend = "set it to the folder that contains cwru/"
        print(f"The bearings are left out: HFLD_REAL_DATA {found}; {mend}.", file=sys.stderr)
        return {}
    conditions = {
        "bearings-block-noise": ("block", BEARINGS_SNR),
        "bearings-block-clean": ("block", None),
        "bearings-load-noise": ("load", BEARINGS_SNR),
        "bearings-size-noise": ("size", BEARINGS_SNR),
    }
    return {
        name: partial(bearings, condition=condition, snr=snr, folder=folder)
        for name, (condition, snr) in conditions.items()
    }


_SOUND = ("sound", "defective")
_IMPACT = {"draw": impact, "classes": _SOUND, "sample_rate": 16_000, "seconds": 0.2}

SETS: dict[str, Callable[[int], Development]] = {
    # Four or six classes; the second is the README's example with other seeds.
    "tiles-80": partial(tiles, types="AB", tiles_per_class=10, drops=2, first_seed=21_000),
    "tiles-240": partial(tiles, types="AB", tiles_per_class=30, drops=2, first_seed=100),
    "tiles-504": partial(tiles, types="ABC", tiles_per_class=28, drops=3, first_seed=22_000),
    "tiles-2808": partial(tiles, types="ABC", tiles_per_class=156, drops=3, first_seed=23_000),
    **_bearings_sets(),
    "digits": digits,
    "chirps": partial(
        family,
        draw=chirp,
        classes=("slow up", "slow down", "fast up", "fast down"),
        objects=(25,) * 4,
        sample_rate=8000,
        seconds=0.5,
        noise=1.7,
    ),
    "impacts": partial(family, **_IMPACT, objects=(50, 50), noise=0.9),
    "modulation": partial(
        family,
        draw=modulation,
        classes=("slow", "fast"),
        objects=(50, 50),
        sample_rate=8000,
        seconds=1.0,
        noise=0.0,
    ),
    # No view that removes the level can tell these apart.
    "level": partial(
        family,
        draw=level,
        classes=("soft", "loud"),
        objects=(50, 50),
        sample_rate=8000,
        seconds=0.25,
        noise=0.0,
    ),
    "late-impacts": partial(
        family,
        **_IMPACT | {"draw": partial(impact, latest=0.8), "seconds": 1.0},
        objects=(50, 50),
        noise=0.55,
    ),
    # Eight sound objects to one defective: read the balanced accuracy.
    "imbalance": partial(family, **_IMPACT, objects=(160, 20), noise=0.3),
}
"""Name of a set -> function of a seed that gives recordings and split."""
