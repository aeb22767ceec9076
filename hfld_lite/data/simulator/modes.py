"""Natural modes of a free, shallow cylindrical shell: the physics behind the simulator.

SI units throughout: m, kg, s, Pa, Hz.

Sources:
  modes of a free plate   Warburton, "The vibration of rectangular plates", 1954
  curvature               Soedel, "Vibrations of shells and plates" (Donnell-Mushtari-Vlasov theory)
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MODES = 12
"""Modes kept of each shell, the lowest."""


@dataclass(frozen=True)
class Shell:
    """A rectangular panel, curved along its second side, of one isotropic material.

    Args:
        length: side along the axis of the motor, m.
        arc: developed side along the curve, m.
        thickness: m.
        radius: mean radius of curvature, m; infinite for a flat plate.
        youngs_modulus: E, Pa.
        density: ρ, kg/m³.
        poisson: ν, no unit.

    The elastic constants are typical of sintered strontium ferrite.
    """

    length: float
    arc: float
    thickness: float
    radius: float
    youngs_modulus: float = 1.6e11
    density: float = 4900.0
    poisson: float = 0.28

    @property
    def mass(self) -> float:
        """Mass in kg."""
        return self.density * self.length * self.arc * self.thickness


def beam_shape(order: int, x: np.ndarray, derivative: int = 0) -> np.ndarray:
    """Mode shape of a free-free beam of unit length, with mean square 1, or its derivative.

    Orders 0 and 1 are the rigid translation and rotation; from 2 on
    φ(x) = cosh βx + cos βx − σ (sinh βx + sin βx), σ = (cosh β − cos β)/(sinh β − sin β),
    cos β cosh β = 1. Here as decaying exponentials, since cosh − sinh cancels at high order.
    """
    x = np.asarray(x, dtype=float)
    if order == 0:
        return np.ones_like(x) if derivative == 0 else np.zeros_like(x)
    if order == 1:
        values = (np.sqrt(3) * (1 - 2 * x), np.full_like(x, -2 * np.sqrt(3)), np.zeros_like(x))
        return values[derivative]
    beta = _beam_roots()[order - 2]
    sigma = (np.cosh(beta) - np.cos(beta)) / (np.sinh(beta) - np.sin(beta))
    # cosh − σ sinh = ((1 − σ) e^βx + (1 + σ) e^−βx) / 2, and (1 − σ) e^β stays finite.
    rising = (1 - sigma) / 2 * np.exp(beta * x)
    falling = (1 + sigma) / 2 * np.exp(-beta * x)
    if derivative == 0:
        return rising + falling + np.cos(beta * x) - sigma * np.sin(beta * x)
    if derivative == 1:
        return beta * (rising - falling - np.sin(beta * x) - sigma * np.cos(beta * x))
    return beta**2 * (rising + falling - np.cos(beta * x) + sigma * np.sin(beta * x))


@lru_cache
def _beam_roots() -> np.ndarray:
    """Solve cos β cosh β = 1 by Newton's method, from (k + 1/2) π."""
    beta = (np.arange(1, 7) + 0.5) * np.pi
    for _ in range(5):
        beta -= (np.cos(beta) - 1 / np.cosh(beta)) / (-np.sin(beta) + np.tanh(beta) / np.cosh(beta))
    return beta


def _warburton(order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Warburton's G, H, J of a free-free side, by number of nodal lines."""
    k = np.maximum(order - 0.5, 1.0)
    g = np.select([order < 2, order == 2], [0.0, 1.506], k)
    h = np.select([order < 2, order == 2], [0.0, 1.248], k**2 * (1 - 2 / (k * np.pi)))
    j = np.select(
        [order == 0, order == 1, order == 2],
        [0.0, 12 / np.pi**2, 5.017],
        k**2 * (1 + 6 / (k * np.pi)),
    )
    return g, h, j


def mode_numbers(shell: Shell, count: int = MODES) -> np.ndarray:
    """Nodal lines ``(count, 2)`` across length and across arc of the lowest modes of a shell."""
    grid = np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="ij"), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) >= 2]  # (0,0), (1,0), (0,1) are rigid motions
    return grid[np.argsort(natural_frequencies(shell, grid), kind="stable")[:count]]


def natural_frequencies(shell: Shell, numbers: np.ndarray) -> np.ndarray:
    """Natural frequencies in Hz of a free shell's modes.

    ω² = D/(ρh) · π⁴ [G_m⁴/a⁴ + G_n⁴/b⁴ + 2 (ν H_m H_n + (1 − ν) J_m J_n)/(a² b²)]
         + E/(ρ R²) · k_a⁴/(k_a² + k_b²)²,     D = E h³ / (12 (1 − ν²)), k = π G / side

    The first line is bending (Warburton), the second stretching by the curvature (Soedel).

    Args:
        shell: one shell; its attributes may also be arrays ``(n, 1)``, for n shells at once.
        numbers: nodal lines ``(modes, 2)``.
    """
    bending, membrane = squared_frequencies(shell, numbers)
    return np.sqrt(bending + membrane) / (2 * np.pi)


def squared_frequencies(shell: Shell, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of ω², in (rad/s)²: of bending and of stretching."""
    (gm, hm, jm), (gn, hn, jn) = _warburton(numbers[:, 0]), _warburton(numbers[:, 1])
    a, b, nu = shell.length, shell.arc, shell.poisson
    bracket = gm**4 / a**4 + gn**4 / b**4 + 2 * (nu * hm * hn + (1 - nu) * jm * jn) / (a * b) ** 2
    ka, kb = (gm / a) ** 2, (gn / b) ** 2
    share = (ka / np.maximum(ka + kb, 1e-9)) ** 2
    return (
        plate_factor(shell) * np.pi**4 * bracket,
        shell.youngs_modulus / (shell.density * shell.radius**2) * share,
    )


def plate_factor(shell: Shell) -> float:
    """D/(ρh) = E h² / (12 ρ (1 − ν²)), m⁴/s²."""
    return shell.youngs_modulus * shell.thickness**2 / (12 * shell.density * (1 - shell.poisson**2))


def mode_values(numbers: np.ndarray, x: np.ndarray, y: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Shape functions (or derivatives by x/a and y/b) of all modes at n points: ``(n, modes)``."""
    return np.stack([beam_shape(m, x, dx) * beam_shape(n, y, dy) for m, n in numbers], -1)


def strain_energy(shell: Shell, numbers: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bending energy ``(n, modes, modes)`` that pairs of modes share at n points, times ρh/D."""
    xx = mode_values(numbers, x, y, 2, 0) / shell.length**2
    yy = mode_values(numbers, x, y, 0, 2) / shell.arc**2
    xy = mode_values(numbers, x, y, 1, 1) / (shell.length * shell.arc)
    nu = shell.poisson

    def outer(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[:, :, None] * v[:, None, :]

    cross = nu * (outer(xx, yy) + outer(yy, xx))
    return outer(xx, xx) + outer(yy, yy) + cross + 2 * (1 - nu) * outer(xy, xy)
