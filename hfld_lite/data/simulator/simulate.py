"""Simulated impact sounds of ferrite arc tiles, by modal synthesis.

No recordings of magnetic tiles are public, so this module makes the package's default data from
physics. A tile is a shallow shell with free edges (`modes`); an impact of finite duration excites
its natural modes; a crack or void softens the tile where it lies (`tiles`). SI units throughout.

Sources:
  impact    Hertz; Johnson, "Contact mechanics", 1985, section 11.4
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.modes import mode_numbers, mode_values, natural_frequencies
from hfld_lite.data.simulator.tiles import BLOCK, TILE_TYPES, Bench, Tiles, draw_tiles, tile_type
from hfld_lite.errors import ArgumentError
from hfld_lite.storage.progress import bar

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Of the simulation: another number gives other recordings for the same parameters."""

SAMPLE_RATE = 40_000
"""Hz, as in the published code."""

SAMPLES = 7000
"""Samples of one recording, 175 ms."""

BOUNCES = 4
"""Impacts in one recording, the first included."""

CHUNK = 32
"""Tiles simulated at once, which bounds memory."""

GRAVITY = 9.81
"""m/s²."""


def contact_time(mass: float, speed: np.ndarray, radius: float) -> np.ndarray:
    """Hertz's duration in s of the impact of a sphere-like corner on the block.

    T = 2.87 (m² / (r E*² v))^(1/5), with corner radius r in m, speed v in m/s and
    1/E* = (1 − ν₁²)/E₁ + (1 − ν₂²)/E₂ of ferrite and iron; m is the mass that a plate opposes at
    its corner, a seventh of its own: 1/m + (a²/4)/I_a + (b²/4)/I_b with I = m · side²/12.
    """
    ferrite = TILE_TYPES["A"]
    compliance = sum((1 - s.poisson**2) / s.youngs_modulus for s in (ferrite, BLOCK))
    return 2.87 * ((mass / 7) ** 2 * compliance**2 / (radius * speed)) ** 0.2


def impulse_spectrum(frequency: np.ndarray, duration: np.ndarray) -> np.ndarray:
    """Spectrum of a half-sine force pulse of unit impulse, |F(f)|, no unit (1 at 0 Hz).

    |F| = |cos(π f T)| / |1 − (2 f T)²|; its value at 2fT = 1 is π/4.
    """
    u = 2 * frequency * duration
    near = np.abs(u - 1) < 1e-4
    safe = np.where(near, 0.5, u)
    return np.where(near, np.pi / 4, np.abs(np.cos(np.pi / 2 * safe) / (1 - safe**2)))


def microphone_response(frequency: np.ndarray, resonance: float) -> np.ndarray:
    """Amplitude response: second-order high-pass at 80 Hz, resonance (Q = 1.5), no unit."""
    ratio = frequency / resonance
    high_pass = frequency**2 / (frequency**2 + 80.0**2)
    return high_pass / np.sqrt((1 - ratio**2) ** 2 + (ratio / 1.5) ** 2)


def simulate_drops(tiles: Tiles, drops: int, bench: Bench, rng: Generator) -> np.ndarray:
    """Drop every tile of ``tiles`` ``drops`` times; impacts alone, without noise.

    p(t) = Σ_k Σ_i a_ki exp(−π η_i f_i τ) sin(2π f_i τ), τ = t − t_k ≥ 0, over impacts k and modes
    i; a_ki = v_k · φ_i(contact) · |F(f_i, T_k)| · pickup_i · microphone(f_i).

    Returns:
        float32 ``(tiles * drops, 7000)``, all drops of a tile together, unscaled.
    """
    count = len(tiles.severity) * drops
    frequencies = np.repeat(tiles.frequencies, drops, 0)
    losses = np.repeat(tiles.loss_factors, drops, 0)
    shell, numbers = tile_type(tiles.kind), mode_numbers(tile_type(tiles.kind))

    height = bench.drop_height * (1 + bench.drop_deviation * rng.standard_normal((count, 1)))
    bounce = bench.restitution + bench.restitution_deviation * rng.standard_normal(
        (count, BOUNCES - 1)
    )
    kept = np.cumprod(np.clip(bounce, 0.1, 0.8), 1)
    speed = np.sqrt(2 * GRAVITY * height) * np.concatenate([np.ones((count, 1)), kept], 1)
    flights = np.cumsum(2 * speed[:, 1:] / GRAVITY, 1)
    first = rng.uniform(0.001, bench.first_impact, (count, 1))
    starts = np.concatenate([first, first + flights], 1)
    duration = contact_time(shell.mass, speed, bench.corner_radius)[:, :, None]

    # Tiles land near a corner, another one at each bounce.
    inset = np.abs(0.06 * rng.standard_normal((2, count * BOUNCES)))
    corner = np.where(rng.random((2, count * BOUNCES)) < 0.5, inset, 1 - inset)
    contact = mode_values(numbers, *corner, 0, 0).reshape(count, BOUNCES, -1)
    contact = contact @ np.repeat(tiles.shapes, drops, 0)

    iron = np.broadcast_to(natural_frequencies(BLOCK, mode_numbers(BLOCK, 5)), (count, 5))
    loudness = np.sqrt((contact**2).mean(2, keepdims=True)) * 10 ** (bench.block_level / 20)
    block = loudness * rng.standard_normal((count, BOUNCES, 5))
    frequencies = np.concatenate([frequencies, iron], 1)
    losses = np.concatenate([losses, np.full_like(iron, 0.01)], 1)
    amplitude = np.concatenate([contact, block], 2)

    pickup = np.exp(bench.pickup_deviation * rng.standard_normal(frequencies.shape))
    pickup *= microphone_response(frequencies, bench.resonance)
    pickup[frequencies > 0.48 * SAMPLE_RATE] = 0  # the converter's anti-aliasing filter
    amplitude *= speed[:, :, None] * impulse_spectrum(frequencies[:, None], duration)
    return _ring(frequencies, losses, amplitude * pickup[:, None], starts)


def _ring(
    frequencies: np.ndarray, losses: np.ndarray, amplitude: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Sum decaying sinusoids ``(n, modes)``, struck ``(n, bounces)`` times, into ``(n, SAMPLES)``.

    exp(s t) at t = (q·L + r) dt is the product of exp(s q L dt) and exp(s r dt), so that one
    matrix product of two short tables, L = √SAMPLES long, replaces SAMPLES exponentials a mode.
    """
    step = int(np.ceil(np.sqrt(SAMPLES)))
    rate = (2j * np.pi - np.pi * losses) * frequencies / SAMPLE_RATE
    fine = np.exp(rate[:, :, None] * np.arange(step)).astype(np.complex64)
    coarse = np.exp(rate[:, None, :] * (step * np.arange(step))[:, None]).astype(np.complex64)
    waves = amplitude.astype(np.float32)[:, :, None, :] * coarse[:, None]
    waves = (waves.reshape(len(rate), -1, rate.shape[1]) @ fine).imag
    waves = waves.reshape(*starts.shape, step * step)[:, :, :SAMPLES]
    sound = np.zeros((len(rate), SAMPLES), np.float32)
    for k in range(starts.shape[1]):
        sound += _delay(waves[:, k], np.round(starts[:, k] * SAMPLE_RATE).astype(int))
    return sound


def _delay(signals: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """Shift each row right by its delay (left if negative), filling with silence."""
    index = np.arange(signals.shape[1]) - delays[:, None]
    inside = (index >= 0) & (index < signals.shape[1])
    return np.take_along_axis(signals, np.where(inside, index, 0), 1) * inside


def add_factory(
    signals: np.ndarray, neighbours: np.ndarray, bench: Bench, rng: Generator
) -> np.ndarray:
    """Add pink noise, mains hum and other tiles' impacts, each relative to a recording's loudness.

    Args:
        signals: impacts ``(n, samples)``.
        neighbours: impacts ``(m, samples)`` of other tiles, to be heard in the background.
        bench: levels in dB.
        rng: the generator.

    Returns:
        float32 ``(n, samples)``, each with an RMS of 0.05 of full scale, give or take the
        microphone's gain.
    """
    count, samples = signals.shape
    power = np.sqrt((signals**2).mean(1, keepdims=True))

    def relative(noise: np.ndarray, level: np.ndarray | float) -> np.ndarray:
        rms = np.sqrt((noise**2).mean(1, keepdims=True))
        return noise / np.maximum(rms, 1e-12) * power * 10 ** (level / 20)

    def normal(mean: float, deviation: float) -> np.ndarray:
        return mean + deviation * rng.standard_normal((count, 1))

    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    white = rng.standard_normal((count, samples), dtype=np.float32)
    pink = np.fft.rfft(white) / np.sqrt(np.maximum(frequency, frequency[1]))
    pink = np.fft.irfft(pink * microphone_response(frequency, bench.resonance), samples)
    time = np.arange(samples) / SAMPLE_RATE
    phases = rng.uniform(0, 2 * np.pi, (count, 3, 1))
    harmonics = np.array([50.0, 100.0, 150.0])[:, None]
    hum = (np.sin(2 * np.pi * harmonics * time + phases) / [[1], [2], [3]]).sum(1)
    other = neighbours[rng.integers(len(neighbours), size=count)]
    other = _delay(other, rng.integers(-samples // 2, samples // 2, size=count))
    heard = rng.random((count, 1)) < bench.neighbour_share
    level = normal(bench.neighbour_level, bench.neighbour_deviation)

    mixed = signals + relative(pink, -normal(bench.snr, bench.snr_deviation))
    mixed += relative(hum, bench.hum) + relative(other, level) * heard
    gain = 0.05 * 10 ** (normal(0, bench.gain_deviation) / 20)
    return (mixed / np.sqrt((mixed**2).mean(1, keepdims=True)) * gain).astype(np.float32)


def simulate_tiles(
    types: str = "ABC",
    tiles_per_class: int = 260,
    drops: int = 3,
    seed: int = 0,
    bench: Bench | None = None,
    pooled: bool = True,
    progress: bool = False,
) -> Recordings:
    """Simulate the drop test of many tiles, sound and defective; see :func:`simulate_with_truth`.

    Args:
        types: tile types, any of "A", "B", "C".
        tiles_per_class: tiles of each type that are sound, and as many that are defective.
        drops: recordings of each tile; they share a group.
        seed: of everything.
        bench: tolerance, defects, drop and noise; the defaults are the calibrated ones.
        pooled: classes AN, AD, BN, … if true, else N and D.
        progress: show a progress bar.

    Returns:
        Recordings at 40 kHz of 7000 samples (175 ms), in shares of full scale.

    Raises:
        ArgumentError: for an unknown type, a count below one or a negative seed.
    """
    return simulate_with_truth(types, tiles_per_class, drops, seed, bench, pooled, progress)[0]


def simulate_with_truth(
    types: str = "ABC",
    tiles_per_class: int = 260,
    drops: int = 3,
    seed: int = 0,
    bench: Bench | None = None,
    pooled: bool = True,
    progress: bool = False,
) -> tuple[Recordings, pd.DataFrame]:
    """As :func:`simulate_tiles`, with the true parameters of each tile.

    The second value has one row a tile: ``group``, ``type``, ``defective``, ``severity``,
    ``x``, ``y`` (shares of length and arc), ``f0`` … (Hz) and ``loss0`` … (no unit).
    """
    import pandas as pd

    bench = bench or Bench()
    types = "".join(types)
    if not types or len(set(types)) != len(types):
        raise ArgumentError(f"types is {types!r}; name each tile type once, as in 'ABC'.")
    least = {"tiles_per_class": (tiles_per_class, 1), "drops": (drops, 1), "seed": (seed, 0)}
    for name, (value, low) in least.items():
        if not isinstance(value, int | np.integer) or value < low:
            raise ArgumentError(f"{name} is {value!r}; it must be a whole number, {low} or more.")
    kinds = [(kind, defective) for kind in types for defective in (False, True)]
    *streams, _ = SeedSequence(seed).spawn(len(kinds) + 1)
    # Sound tiles have no severity and drops no noise, so that these are the same at any of both.
    same = replace(bench, severity_low=1.0, severity_high=1.0, snr=0.0)
    neighbours = _neighbours(types, seed, same)

    names = [f"{kind}{'ND'[d]}" for kind, d in kinds] if pooled else ["N", "D"]
    signals = np.empty((len(kinds) * tiles_per_class * drops, SAMPLES), np.float32)
    labels, groups, truth, row = [], [], [], 0
    shown = bar(total=len(signals), desc="simulating", unit="recording", progress=progress)
    for (kind, defective), stream in zip(kinds, streams, strict=True):
        rng = default_rng(stream)
        tiles = draw_tiles(kind, tiles_per_class, defective, bench, rng)
        ids = [f"{kind}{'ND'[defective]}{i:04d}" for i in range(tiles_per_class)]
        truth.append(_truth(tiles, ids, defective))
        labels += [names.index(f"{kind}{'ND'[defective]}" if pooled else "ND"[defective])] * (
            tiles_per_class * drops
        )
        groups += [name for name in ids for _ in range(drops)]
        for first in range(0, tiles_per_class, CHUNK):
            part = tiles.take(slice(first, first + CHUNK))
            impacts = simulate_drops(part, drops, bench, rng)
            signals[row : row + len(impacts)] = add_factory(impacts, neighbours, bench, rng)
            row += len(impacts)
            shown.update(len(impacts))
    shown.close()
    recordings = Recordings(
        signals=signals,
        labels=np.array(labels),
        groups=np.array(groups),
        sample_rate=SAMPLE_RATE,
        class_names=tuple(names),
        normal_classes=tuple(name for name in names if name.endswith("N")),
        # As in the published layout: a file for each type and class, and a row in it.
        origins=np.array(
            [f"{g[:2]}:{i % (tiles_per_class * drops)}" for i, g in enumerate(groups)]
        ),
        source=f"simulated tiles of types {', '.join(types)} (not real recordings), seed {seed}",
        units="full scale",
        simulated=True,
    )
    return recordings, pd.concat(truth, ignore_index=True)


@lru_cache(maxsize=4)  # most of the time of one tile, which a slider simulates again and again
def _neighbours(types: str, seed: int, bench: Bench) -> np.ndarray:
    """Impacts of tiles in the background, none of which belongs to the data set."""
    rng = default_rng(SeedSequence(seed).spawn(2 * len(types) + 1)[-1])
    background = [draw_tiles(kind, 8, False, bench, rng) for kind in types]
    return np.concatenate([simulate_drops(t, 4, bench, rng) for t in background])


def _truth(tiles: Tiles, ids: list[str], defective: bool) -> pd.DataFrame:
    import pandas as pd

    columns = {
        "group": ids,
        "type": tiles.kind,
        "defective": defective,
        "severity": tiles.severity,
        "x": tiles.position[:, 0],
        "y": tiles.position[:, 1],
    }
    columns |= {f"f{i}": tiles.frequencies[:, i] for i in range(tiles.frequencies.shape[1])}
    columns |= {f"loss{i}": tiles.loss_factors[:, i] for i in range(tiles.frequencies.shape[1])}
    return pd.DataFrame(columns)
