"""Natural modes of a free shell: beam functions, known plates, and how frequencies scale."""

from dataclasses import replace

import numpy as np
import pytest

from hfld_lite.data.simulator.modes import (
    MODES,
    Shell,
    _warburton,
    beam_shape,
    mode_numbers,
    mode_values,
    natural_frequencies,
    plate_factor,
    squared_frequencies,
    strain_energy,
)
from hfld_lite.data.simulator.tiles import TILE_TYPES

SQUARE = Shell(length=0.1, arc=0.1, thickness=0.006, radius=np.inf)
TILE = Shell(length=0.07, arc=0.1, thickness=0.006, radius=0.065)
NUMBERS = np.array([(m, n) for m in range(7) for n in range(7) if m + n >= 2])
ORDERS = range(7)


def midpoints(count=20_000):
    return (np.arange(count) + 0.5) / count


# Beam functions


def test_beam_functions_are_orthonormal():
    shapes = np.stack([beam_shape(order, midpoints()) for order in ORDERS])
    np.testing.assert_allclose(shapes @ shapes.T / 20_000, np.eye(7), atol=1e-6)


@pytest.mark.parametrize("order", range(2, 7))
def test_beam_functions_satisfy_the_frequency_equation(order):
    # φ'''' = β⁴ φ, so ∫ φ''² = β⁴ for a free-free beam; and cos β cosh β = 1.
    beta = np.mean(beam_shape(order, midpoints(), 2) ** 2) ** 0.25
    assert np.cos(beta) == pytest.approx(1 / np.cosh(beta), abs=1e-6)
    assert beta == pytest.approx((order - 0.5) * np.pi, rel=5e-3)


def test_the_first_roots_are_those_of_the_textbook():
    betas = [np.mean(beam_shape(k, midpoints(), 2) ** 2) ** 0.25 for k in (2, 3, 4)]
    np.testing.assert_allclose(betas, [4.730041, 7.853205, 10.995608], rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_free_ends_bear_no_moment_and_no_shear(order):
    ends = np.array([0.0, 1.0])
    scale = ((order - 0.5) * np.pi) ** 2 if order >= 2 else 1.0
    np.testing.assert_allclose(beam_shape(order, ends, 2) / scale, 0, atol=1e-6)
    inner = np.array([1e-4, 1 - 1e-4])
    slope = (beam_shape(order, inner, 2) - beam_shape(order, ends, 2)) / 1e-4
    np.testing.assert_allclose(slope / scale**1.5, 0, atol=5e-3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("derivative", [1, 2])
def test_derivatives_agree_with_finite_differences(order, derivative):
    x, step = np.linspace(0.05, 0.95, 37), 1e-5
    rise = beam_shape(order, x + step, derivative - 1) - beam_shape(order, x - step, derivative - 1)
    exact = beam_shape(order, x, derivative)
    np.testing.assert_allclose(exact, rise / (2 * step), atol=1e-5 * max(1, abs(exact).max()))


@pytest.mark.parametrize("order", ORDERS)
def test_symmetry_and_nodal_lines(order):
    x = midpoints(2001)
    shape = beam_shape(order, x)
    np.testing.assert_allclose(shape[::-1], (-1) ** order * shape, atol=1e-6)
    crossings = np.sum(np.sign(shape[shape != 0][1:]) != np.sign(shape[shape != 0][:-1]))
    assert crossings == order


# Frequencies


def test_a_flat_square_plate_has_doublets():
    frequencies = dict(zip(map(tuple, NUMBERS), natural_frequencies(SQUARE, NUMBERS), strict=True))
    for (m, n), frequency in frequencies.items():
        assert frequency == pytest.approx(frequencies[n, m], rel=1e-12)


def test_the_first_mode_of_a_square_plate_is_the_textbooks():
    # Leissa, "Vibration of plates", free square plate, ν = 0.3: λ = ω a² √(ρh/D) = 13.49 for the
    # twisting mode; Warburton's approximation lies a few percent above such values.
    plate = replace(SQUARE, poisson=0.3)
    omega = 2 * np.pi * natural_frequencies(plate, np.array([[1, 1]]))[0]
    assert omega * 0.1**2 / np.sqrt(plate_factor(plate)) == pytest.approx(13.49, rel=0.07)


def test_a_slender_plate_bends_as_a_beam():
    # f = β² / (2π L²) √(E I / (ρ A)), I / A = h² / 12, but for Poisson's stiffening of a plate.
    plate = Shell(1.0, 0.01, 0.002, np.inf, poisson=0.0)
    beam = 4.730041**2 / (2 * np.pi) * np.sqrt(plate.youngs_modulus / plate.density / 12) * 0.002
    assert natural_frequencies(plate, np.array([[2, 0]]))[0] == pytest.approx(beam, rel=1e-3)


def test_frequencies_scale_with_the_modulus_and_the_density():
    base = natural_frequencies(TILE, NUMBERS)
    stiff = replace(TILE, youngs_modulus=4 * TILE.youngs_modulus)
    heavy = replace(TILE, density=4 * TILE.density)
    np.testing.assert_allclose(natural_frequencies(stiff, NUMBERS), 2 * base)
    np.testing.assert_allclose(natural_frequencies(heavy, NUMBERS), base / 2)


def test_frequencies_scale_with_thickness_and_size():
    flat = natural_frequencies(SQUARE, NUMBERS)
    thick = replace(SQUARE, thickness=3 * SQUARE.thickness)
    np.testing.assert_allclose(natural_frequencies(thick, NUMBERS), 3 * flat)
    large = replace(SQUARE, length=0.2, arc=0.2)
    np.testing.assert_allclose(natural_frequencies(large, NUMBERS), flat / 4)
    # A tile enlarged in all dimensions sounds lower in proportion, curved or not.
    double = Shell(2 * TILE.length, 2 * TILE.arc, 2 * TILE.thickness, 2 * TILE.radius)
    expected = natural_frequencies(TILE, NUMBERS) / 2
    np.testing.assert_allclose(natural_frequencies(double, NUMBERS), expected)


def test_curvature_raises_axial_bending_and_leaves_the_rest_alone():
    flat = natural_frequencies(replace(TILE, radius=np.inf), NUMBERS)
    curved = natural_frequencies(TILE, NUMBERS)
    axial = NUMBERS[:, 0] >= 2
    assert (curved[axial] > flat[axial] * (1 + 1e-6)).all()
    np.testing.assert_array_equal(curved[~axial], flat[~axial])
    # Pure axial bending stretches the most, with E / (ρ R²) added to ω².
    pure = (NUMBERS == [2, 0]).all(1)
    extra = (2 * np.pi) ** 2 * (curved[pure] ** 2 - flat[pure] ** 2)
    np.testing.assert_allclose(extra, TILE.youngs_modulus / (TILE.density * TILE.radius**2))


def test_the_parts_of_a_squared_frequency_add_up():
    bending, stretching = squared_frequencies(TILE, NUMBERS)
    assert (bending > 0).all()
    assert (stretching >= 0).all()
    omega = 2 * np.pi * natural_frequencies(TILE, NUMBERS)
    np.testing.assert_allclose(bending + stretching, omega**2)


def test_many_shells_at_once():
    shells = [replace(TILE, thickness=h, length=a) for h, a in ((0.005, 0.06), (0.007, 0.08))]
    together = replace(
        TILE, thickness=np.array([[0.005], [0.007]]), length=np.array([[0.06], [0.08]])
    )
    expected = np.stack([natural_frequencies(shell, NUMBERS) for shell in shells])
    np.testing.assert_allclose(natural_frequencies(together, NUMBERS), expected)


def test_mode_numbers_are_the_lowest_without_rigid_motions():
    numbers = mode_numbers(TILE)
    frequencies = natural_frequencies(TILE, numbers)
    assert numbers.shape == (MODES, 2)
    assert (numbers.sum(1) >= 2).all()
    assert (np.diff(frequencies) >= 0).all()
    np.testing.assert_allclose(frequencies, np.sort(natural_frequencies(TILE, NUMBERS))[:MODES])
    assert mode_numbers(TILE, 5).tolist() == numbers[:5].tolist()


@pytest.mark.parametrize("kind", sorted(TILE_TYPES))
def test_tiles_sound_in_the_audible_band(kind):
    shell = TILE_TYPES[kind]
    frequencies = natural_frequencies(shell, mode_numbers(shell))
    assert frequencies[0] > 500
    assert frequencies[4] < 20_000


def test_the_order_of_the_grid_is_high_enough_for_every_tile():
    # Were a mode of 7 nodal lines among the lowest, the grid of 7 x 7 would have left it out.
    for shell in TILE_TYPES.values():
        assert mode_numbers(shell).max() < 6


def test_mass_and_plate_factor():
    assert TILE.mass == pytest.approx(4900 * 0.07 * 0.1 * 0.006)
    d = TILE.youngs_modulus * TILE.thickness**3 / (12 * (1 - TILE.poisson**2))
    assert plate_factor(TILE) == pytest.approx(d / (TILE.density * TILE.thickness))


def test_warburtons_constants_are_integrals_of_the_beam_functions():
    orders, x = np.arange(7), midpoints()
    shapes = [np.stack([beam_shape(k, x, d) for k in orders]) for d in range(3)]
    g, h, j = _warburton(orders)
    np.testing.assert_allclose((g * np.pi) ** 4, (shapes[2] ** 2).mean(1), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(h * np.pi**2, -(shapes[0] * shapes[2]).mean(1), rtol=6e-3, atol=1e-6)
    np.testing.assert_allclose(j * np.pi**2, (shapes[1] ** 2).mean(1), rtol=6e-3, atol=1e-6)


# Shapes and energy on the plate


def test_mode_values_are_products_of_beam_functions():
    x, y = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 1.0])
    values = mode_values(np.array([[2, 0], [1, 3]]), x, y, 0, 1)
    assert values.shape == (3, 2)
    np.testing.assert_array_equal(values[:, 0], 0)
    np.testing.assert_allclose(values[:, 1], beam_shape(1, x) * beam_shape(3, y, 1))


def test_strain_energy_is_symmetric_and_never_negative():
    x, y = np.random.default_rng(0).uniform(size=(2, 50))
    energy = strain_energy(TILE, mode_numbers(TILE), x, y)
    assert energy.shape == (50, MODES, MODES)
    np.testing.assert_allclose(energy, energy.transpose(0, 2, 1))
    values = np.linalg.eigvalsh(energy)
    assert values.min() > -1e-9 * values.max()


def test_mean_strain_energy_is_the_squared_frequency_of_bending():
    # Rayleigh's quotient with the beam functions; Warburton's constants G, H, J are its integrals.
    side = midpoints(400)
    x, y = (grid.ravel() for grid in np.meshgrid(side, side))
    numbers = mode_numbers(TILE)
    mean = np.einsum("nii->i", strain_energy(TILE, numbers, x, y)) / len(x)
    bending = squared_frequencies(TILE, numbers)[0] / plate_factor(TILE)
    np.testing.assert_allclose(mean, bending, rtol=0.02)
