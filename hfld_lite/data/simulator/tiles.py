"""Ferrite tiles with tolerance and defects, and their true modes.

SI units throughout. Source of the defect's effect: Rayleigh-Ritz in the basis of the sound tile's
modes; to first order this is Rayleigh's quotient, and the off-diagonal terms couple close modes and
split pairs.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from hfld_lite.data.simulator.modes import (
    Shell,
    mode_numbers,
    natural_frequencies,
    plate_factor,
    squared_frequencies,
    strain_energy,
)
from hfld_lite.errors import ArgumentError, nearest

TILE_TYPES = {
    "A": Shell(length=0.070, arc=0.100, thickness=0.0065, radius=0.065),
    "B": Shell(length=0.078, arc=0.086, thickness=0.0080, radius=0.058),
    "C": Shell(length=0.060, arc=0.124, thickness=0.0072, radius=0.076),
}
"""Three arc tiles of small motors. The dimensions are invented, the orders of magnitude usual."""

BLOCK = Shell(0.200, 0.150, 0.040, np.inf, youngs_modulus=1.1e11, density=7200.0, poisson=0.26)
"""The cast-iron block on which tiles drop; a thin-plate model, so its upper modes are rough."""


@dataclass(frozen=True)
class Bench:
    """Everything about the drop test but the tile type. Deviations are standard deviations.

    Tolerance, per tile:
        thickness_deviation, side_deviation: relative, no unit.
        modulus_deviation: of E, relative (sintering).
        mode_deviation: of each natural frequency on its own, relative (form errors).
        loss_factor: η = 2 × damping ratio, no unit; loss_deviation: of ln η.
    Defect, per defective tile:
        severity_low, severity_high: ε, the bending compliance that the defect adds, as a share of
            the tile's (its share of the area times the relative rise of compliance there), drawn
            log-uniformly; no unit.
        crack_loss: rise of η per unit of ε times the mode's relative strain energy at the defect.
    Drop, per recording:
        drop_height: m; drop_deviation: relative.
        corner_radius: of the tile's edge where it hits, m.
        restitution: speed after a bounce over speed before; restitution_deviation.
        first_impact: latest start of the first impact, s (uniform from 1 ms).
        block_level: loudness of the block's modes against the tile's, dB.
        pickup_deviation: of ln(loudness) of each mode in each drop (direction, room).
    Microphone and factory, per recording:
        resonance: frequency of the microphone's resonance, Hz; gain_deviation: dB.
        snr: impact to pink noise, dB; snr_deviation: dB.
        hum: mains hum at 50, 100, 150 Hz against the impact, dB.
        neighbour_share: share of recordings in which another tile is heard; no unit.
        neighbour_level: its loudness, dB; neighbour_deviation: dB.
    """

    thickness_deviation: float = 0.014
    side_deviation: float = 0.003
    modulus_deviation: float = 0.012
    mode_deviation: float = 0.001
    loss_factor: float = 2.5e-3
    loss_deviation: float = 0.25
    severity_low: float = 0.06
    severity_high: float = 0.20
    crack_loss: float = 0.02
    drop_height: float = 0.05
    drop_deviation: float = 0.05
    corner_radius: float = 0.002
    restitution: float = 0.35
    restitution_deviation: float = 0.08
    first_impact: float = 0.008
    block_level: float = -12.0
    pickup_deviation: float = 0.3
    resonance: float = 15_000.0
    gain_deviation: float = 1.0
    snr: float = 18.0
    snr_deviation: float = 5.0
    hum: float = -25.0
    neighbour_share: float = 0.3
    neighbour_level: float = -18.0
    neighbour_deviation: float = 5.0


@dataclass(frozen=True)
class Tiles:
    """Tiles of one type with their true modal parameters (the first axis is the tile).

    ``frequencies`` Hz and ``loss_factors`` (n, modes); ``shapes`` (n, basis, modes) are the modes
    in the basis of the nominal tile's; ``severity`` ε (n,); ``position`` (n, 2), the defect's
    place along length and arc as shares of them (NaN in a sound tile).
    """

    kind: str
    frequencies: np.ndarray
    loss_factors: np.ndarray
    shapes: np.ndarray
    severity: np.ndarray
    position: np.ndarray

    def take(self, rows: slice) -> "Tiles":
        """Some of the tiles."""
        arrays = (self.frequencies, self.loss_factors, self.shapes, self.severity, self.position)
        return Tiles(self.kind, *(a[rows] for a in arrays))


def draw_tiles(kind: str, count: int, defective: bool, bench: Bench, rng: Generator) -> Tiles:
    """Draw tiles of one type with tolerance and, if asked for, a defect each.

    In the modal basis of the nominal tile the defect adds compliance, K⁻¹ = diag(1/ω²) +
    ε D/(ρh) e_ij(x₀, y₀) / (ω_i² ω_j²), where e holds the bending energy that two modes share at
    the defect: modes that bend there fall, modes that do not stay, and close ones mix and part. To
    first order that is K − ε D/(ρh) e, but it never takes more stiffness than there is.
    Damping rises with the energy at the defect:
    η_i = η (1 + scatter) + crack_loss · ε · e_ii / mean e_ii. Lost mass is neglected.

    Raises:
        ArgumentError: for an unknown type.
    """
    shell, numbers = tile_type(kind), mode_numbers(tile_type(kind))

    def vary(value: float, deviation: float) -> np.ndarray:
        return value * (1 + deviation * rng.standard_normal((count, 1)))

    actual = replace(
        shell,
        length=vary(shell.length, bench.side_deviation),
        arc=vary(shell.arc, bench.side_deviation),
        thickness=vary(shell.thickness, bench.thickness_deviation),
        youngs_modulus=vary(shell.youngs_modulus, bench.modulus_deviation),
    )
    frequencies = natural_frequencies(actual, numbers)
    frequencies *= 1 + bench.mode_deviation * rng.standard_normal(frequencies.shape)
    scatter = rng.standard_normal((count, 1)) + 0.5 * rng.standard_normal(frequencies.shape)
    loss = bench.loss_factor * np.exp(bench.loss_deviation * scatter)
    # Drawn for sound tiles too, so that a seed gives the same tiles with and without defects.
    position = rng.uniform(0.05, 0.95, (count, 2))
    spread = np.log(bench.severity_high / bench.severity_low)
    severity = bench.severity_low * np.exp(spread * rng.uniform(size=count))
    if not defective:
        severity, position = np.zeros(count), np.full((count, 2), np.nan)
        shapes = np.broadcast_to(np.eye(len(numbers)), (count, len(numbers), len(numbers)))
        return Tiles(kind, frequencies, loss, shapes, severity, position)

    energy = strain_energy(shell, numbers, position[:, 0], position[:, 1])
    squares = (2 * np.pi * frequencies) ** 2
    compliance = severity[:, None, None] * plate_factor(shell) * energy
    compliance /= squares[:, :, None] * squares[:, None, :]
    diagonal = np.arange(len(numbers))
    compliance[:, diagonal, diagonal] += 1 / squares
    inverse, shapes = np.linalg.eigh(compliance)
    inverse, shapes = inverse[:, ::-1], shapes[:, :, ::-1]  # the lowest frequency first
    # η belongs to a basis mode; the mixed modes inherit it by their shares, and add the crack's.
    mean_energy = squared_frequencies(shell, numbers)[0] / plate_factor(shell)
    relative = energy / np.sqrt(mean_energy[:, None] * mean_energy[None, :])
    at_crack = np.einsum("nbm,nbc,ncm->nm", shapes, relative, shapes)
    loss = np.einsum("nbm,nb->nm", shapes**2, loss)
    loss += bench.crack_loss * severity[:, None] * np.maximum(at_crack, 0)
    frequencies = 1 / np.sqrt(inverse) / (2 * np.pi)
    return Tiles(kind, frequencies, loss, shapes, severity, position)


def tile_type(kind: str) -> Shell:
    """The nominal shell of a tile type, or an ArgumentError that lists the types."""
    if kind not in TILE_TYPES:
        raise ArgumentError(f"Tile type {kind!r} is unknown; {nearest(kind, TILE_TYPES)}.")
    return TILE_TYPES[kind]
