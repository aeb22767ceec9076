"""The simulator: defects as mechanics wants them, impacts in closed form, honest data."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.integrate import quad
from scipy.stats import spearmanr

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator import simulate
from hfld_lite.data.simulator.modes import (
    Shell,
    mode_numbers,
    natural_frequencies,
    plate_factor,
    strain_energy,
)
from hfld_lite.data.simulator.simulate import (
    BLOCK,
    BOUNCES,
    CHUNK,
    GRAVITY,
    SAMPLE_RATE,
    SAMPLES,
    TILE_TYPES,
    VERSION,
    Bench,
    add_factory,
    contact_time,
    draw_tiles,
    impulse_spectrum,
    microphone_response,
    simulate_drops,
    simulate_tiles,
    simulate_with_truth,
)
from hfld_lite.errors import ArgumentError

EXACT = Bench(
    thickness_deviation=0,
    side_deviation=0,
    modulus_deviation=0,
    mode_deviation=0,
    loss_factor=2.5e-3,
    loss_deviation=0,
    severity_low=0.02,
    severity_high=0.05,
    crack_loss=0.04,
    drop_deviation=0,
    restitution_deviation=0,
    pickup_deviation=0,
    gain_deviation=0,
    snr_deviation=0,
    neighbour_deviation=0,
)
"""A bench on which nothing varies but what a test varies."""

QUIET = replace(EXACT, snr=80.0, hum=-80.0, neighbour_share=0.0, block_level=-80.0)


class Placed:
    """In place of a generator: nothing deviates, and every defect lies at one place."""

    def __init__(self, x: float, y: float) -> None:
        self.place = x, y

    def standard_normal(self, shape):
        return np.zeros(shape)

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.broadcast_to(self.place, size) if np.ndim(size) else np.zeros(size)


def with_defect(x, y, severity, kind="A", bench=EXACT):
    bench = replace(bench, severity_low=severity, severity_high=severity)
    return draw_tiles(kind, 1, True, bench, Placed(x, y))


def sound_frequencies(kind="A"):
    return natural_frequencies(TILE_TYPES[kind], mode_numbers(TILE_TYPES[kind]))


# Tiles and defects


@pytest.mark.parametrize("kind", "ABC")
def test_without_tolerance_every_tile_is_the_nominal_one(kind):
    tiles = draw_tiles(kind, 3, False, EXACT, default_rng(0))
    np.testing.assert_allclose(tiles.frequencies, np.tile(sound_frequencies(kind), (3, 1)))
    np.testing.assert_allclose(tiles.loss_factors, EXACT.loss_factor)
    assert not tiles.severity.any()
    assert np.isnan(tiles.position).all()
    np.testing.assert_array_equal(tiles.shapes[1], np.eye(12))


def test_tolerances_scatter_as_much_as_they_say():
    def scatter(**deviation):
        tiles = draw_tiles("A", 4000, False, replace(EXACT, **deviation), default_rng(0))
        return np.std(tiles.frequencies / sound_frequencies(), axis=0)

    np.testing.assert_allclose(scatter(mode_deviation=0.004), 0.004, rtol=0.05)
    np.testing.assert_allclose(scatter(modulus_deviation=0.02), 0.01, rtol=0.05)  # f ~ √E
    bending = mode_numbers(TILE_TYPES["A"])[:, 0] < 2  # f ~ h where nothing is stretched
    np.testing.assert_allclose(scatter(thickness_deviation=0.01)[bending], 0.01, rtol=0.05)
    assert (scatter(side_deviation=0.01) > 0.005).all()


def test_damping_scatters_as_much_as_it_says():
    bench = replace(EXACT, loss_deviation=0.2)
    logs = np.log(draw_tiles("A", 4000, False, bench, default_rng(0)).loss_factors / 2.5e-3)
    np.testing.assert_allclose(logs.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(logs.std(0), 0.2 * np.sqrt(1.25), rtol=0.05)
    common = np.corrcoef(logs.T)[0, 1]  # shared by the modes of a tile, up to 1 / 1.25
    assert common == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("kind", "ABC")
def test_a_defect_never_raises_a_frequency(kind):
    # The same seed draws the same tiles with and without defects.
    sound, cracked = (
        draw_tiles(kind, 200, defective, Bench(), default_rng(5)) for defective in (False, True)
    )
    before, after = np.sort(sound.frequencies, 1), np.sort(cracked.frequencies, 1)
    assert (after <= before * (1 + 1e-12)).all()
    assert (after < before * (1 - 1e-4)).any(1).all()  # and every one lowers some


def test_a_defect_does_nothing_to_modes_that_do_not_bend_there():
    # On the edge y = 0 the arc has no moment, so modes (0, n) don't bend; all others twist or bend.
    numbers = mode_numbers(TILE_TYPES["A"])
    unbent = numbers[:, 0] == 0
    assert unbent.sum() >= 2
    tiles = with_defect(0.37, 0.0, 0.1)
    before, after = sound_frequencies(), tiles.frequencies[0]
    nearest = abs(before[:, None] / after - 1).min(1)
    assert (nearest[unbent] < 1e-9).all()
    # Their shapes stay, and their damping too.
    for mode in np.flatnonzero(unbent):
        now = np.argmin(abs(after - before[mode]))
        assert abs(tiles.shapes[0, mode, now]) == pytest.approx(1, abs=1e-9)
        assert tiles.loss_factors[0, now] == pytest.approx(EXACT.loss_factor)
    # Modes that bend there have moved: all sorted frequencies but the unbent ones'.
    moved = np.setdiff1d(np.arange(12), [np.argmin(abs(after - f)) for f in before[unbent]])
    lowered = np.sort(before[~unbent]) - after[moved]
    assert (lowered >= 0).all()
    assert lowered.max() > 5


def test_a_small_defect_lowers_frequencies_by_rayleighs_quotient():
    severity, (x, y) = 1e-5, (0.31, 0.42)
    shell, numbers = TILE_TYPES["A"], mode_numbers(TILE_TYPES["A"])
    energy = strain_energy(shell, numbers, np.array([x]), np.array([y]))[0].diagonal()
    before = (2 * np.pi * sound_frequencies()) ** 2
    after = (2 * np.pi * with_defect(x, y, severity).frequencies[0]) ** 2
    expected = severity * plate_factor(shell) * energy
    np.testing.assert_allclose(before - after, expected, rtol=1e-2, atol=1e-3 * expected.max())


@pytest.mark.parametrize("place", [(0.3, 0.4), (0.5, 0.5), (0.9, 0.2)])
def test_more_severe_is_lower_and_more_damped(place):
    tiles = [with_defect(*place, severity) for severity in (0.01, 0.03, 0.1, 0.2)]
    frequencies = np.concatenate([t.frequencies for t in tiles])
    assert (np.diff(frequencies, axis=0) <= 1e-9).all()
    assert (np.diff(frequencies.sum(1)) < -10).all()
    losses = np.stack([t.loss_factors.mean() for t in tiles])
    assert (np.diff(losses) > 0).all()


def test_a_defect_raises_damping_where_the_mode_bends():
    tiles = with_defect(0.5, 0.5, 0.05, bench=replace(EXACT, crack_loss=0.04))
    assert (tiles.loss_factors >= EXACT.loss_factor * (1 - 1e-9)).all()
    assert tiles.loss_factors.max() > EXACT.loss_factor + 0.04 * 0.05
    without = with_defect(0.5, 0.5, 0.05, bench=replace(EXACT, crack_loss=0.0))
    np.testing.assert_allclose(without.loss_factors, EXACT.loss_factor)


def test_a_defect_splits_a_degenerate_pair(monkeypatch):
    monkeypatch.setitem(TILE_TYPES, "square", Shell(0.1, 0.1, 0.006, np.inf))
    sound = sound_frequencies("square")
    pairs = np.flatnonzero(np.diff(sound) < 1e-6 * sound[1:])
    assert len(pairs) >= 3
    cracked = with_defect(0.3, 0.15, 0.05, kind="square").frequencies[0]
    gap = np.diff(cracked)[pairs] / cracked[pairs]
    assert (gap > 1e-4).all()
    # In a pair a defect at one point can lower only one of two mixed shapes much.
    assert gap.max() > 5e-3


def test_shapes_stay_orthonormal():
    shapes = draw_tiles("B", 50, True, Bench(), default_rng(0)).shapes
    eye = np.broadcast_to(np.eye(12), (50, 12, 12))
    np.testing.assert_allclose(shapes.transpose(0, 2, 1) @ shapes, eye, atol=1e-9)


def test_severities_are_log_uniform_in_their_range():
    bench = replace(EXACT, severity_low=0.02, severity_high=0.08)
    tiles = draw_tiles("A", 4000, True, bench, default_rng(0))
    assert tiles.severity.min() >= 0.02
    assert tiles.severity.max() <= 0.08
    assert np.median(tiles.severity) == pytest.approx(0.04, rel=0.03)
    assert ((tiles.position > 0) & (tiles.position < 1)).all()


@pytest.mark.parametrize("kind", "ABC")
def test_severity_shifts_frequencies_but_no_threshold_on_one_tells_the_tiles_apart(kind):
    sound, cracked = (draw_tiles(kind, 400, d, Bench(), default_rng(7)) for d in (False, True))
    shift = (1 - np.sort(cracked.frequencies, 1) / np.sort(sound.frequencies, 1)).mean(1)
    assert spearmanr(shift, cracked.severity).statistic > 0.5
    other = draw_tiles(kind, 400, False, Bench(), default_rng(8))  # not the same tiles again
    right = []
    for low, high in zip(cracked.frequencies.T, np.sort(other.frequencies, 1).T, strict=True):
        thresholds = np.concatenate([low, high])[:, None]
        right.append(((low < thresholds).mean(1) + (high >= thresholds).mean(1)).max() / 2)
    assert max(right) < 0.95  # the twisting mode (1, 1), which bends alike everywhere
    assert np.median(right) < 0.88


@pytest.mark.parametrize("kind", "ABC")
def test_no_defect_takes_more_stiffness_than_there_is(kind):
    sound, cracked = (draw_tiles(kind, 2000, d, Bench(), default_rng(7)) for d in (False, True))
    kept = cracked.frequencies / np.sort(sound.frequencies, 1)
    assert kept.min() > 0.5


def test_unknown_type_lists_the_types():
    with pytest.raises(ArgumentError, match="'Z' is unknown; choose from A, B, C"):
        draw_tiles("Z", 1, False, Bench(), default_rng(0))


# The impact


def test_contact_time_is_hertzs():
    ferrite, radius = TILE_TYPES["A"], 0.002
    modulus = 1 / sum((1 - s.poisson**2) / s.youngs_modulus for s in (ferrite, BLOCK))
    speed = np.array([0.3, 1.0])
    expected = 2.87 * ((0.2 / 7) ** 2 / (radius * modulus**2 * speed)) ** (1 / 5)
    np.testing.assert_allclose(contact_time(0.2, speed, radius), expected)
    faster, slower = contact_time(0.2, np.array([32.0, 1.0]), radius)
    assert slower / faster == pytest.approx(2)
    assert contact_time(0.2 * 2**5, speed, radius) == pytest.approx(4 * expected)


def test_the_opposing_mass_at_a_corner_is_a_seventh():
    a, b, mass = 0.07, 0.1, 1.0
    turning = sum((side / 2) ** 2 / (mass * side**2 / 12) for side in (a, b))
    assert 1 / (1 / mass + turning) == pytest.approx(mass / 7)


@pytest.mark.parametrize("frequency", [0.0, 500.0, 2499.0, 2500.0, 4000.0, 7500.0, 19_000.0])
def test_impulse_spectrum_is_that_of_a_half_sine(frequency):
    duration = 2e-4  # 2 f T = 1 at 2500 Hz

    def part(wave):
        force = lambda t: np.pi / 2 * np.sin(np.pi * t) * wave(2 * np.pi * frequency * duration * t)  # noqa: E731
        return quad(force, 0, 1, limit=200)[0]

    expected = np.hypot(part(np.cos), part(np.sin))
    found = impulse_spectrum(np.array([frequency]), np.array([duration]))
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_impulse_spectrum_passes_smoothly_through_its_removable_singularity():
    duration = np.array(1e-4)
    assert impulse_spectrum(np.array([5000.0]), duration)[0] == pytest.approx(np.pi / 4, rel=1e-12)
    beside = impulse_spectrum(5000 * (1 + np.array([-1e-13, 1e-14])), duration)
    np.testing.assert_allclose(beside, np.pi / 4, rtol=1e-6)
    near = impulse_spectrum(5000 * (1 + np.linspace(-1e-3, 1e-3, 401)), duration)
    assert np.isfinite(near).all()
    assert abs(np.diff(near)).max() < 1e-4
    # π/4 (1 − e/2) to first order.
    exact = np.pi / 4 * (1 - np.linspace(-1e-3, 1e-3, 401) / 2)
    np.testing.assert_allclose(near, exact, atol=6e-5)


def test_microphone_cuts_rumble_and_peaks_at_its_resonance():
    frequency = np.array([0.0, 80.0, 2000.0, 15_000.0])
    dc, cut, flat, peak = microphone_response(frequency, 15_000.0)
    assert dc == 0
    assert cut == pytest.approx(0.5, rel=1e-3)
    assert flat == pytest.approx(1, rel=0.03)
    assert peak == pytest.approx(1.5, rel=1e-3)


def test_fast_synthesis_equals_a_direct_sum_of_sinusoids():
    rng = default_rng(0)
    frequencies = rng.uniform(800, 19_000, (3, 4))
    losses = rng.uniform(1e-3, 1e-2, (3, 4))
    amplitude = rng.standard_normal((3, 2, 4))
    starts = np.array([[0.001, 0.080], [0.0, 0.02], [0.1, 0.2]])  # the last is past the end
    direct = np.zeros((3, SAMPLES))
    for i, k in np.ndindex(starts.shape):
        t = (np.arange(SAMPLES) - round(starts[i, k] * SAMPLE_RATE)) / SAMPLE_RATE
        for a, f, eta in zip(amplitude[i, k], frequencies[i], losses[i], strict=True):
            wave = a * np.exp(-np.pi * eta * f * np.maximum(t, 0)) * np.sin(2 * np.pi * f * t)
            direct[i] += wave * (t >= 0)
    found = simulate._ring(frequencies, losses, amplitude, starts)
    assert found.dtype == np.float32
    assert found.shape == (3, SAMPLES)
    np.testing.assert_allclose(found, direct, atol=2e-5)


@pytest.mark.parametrize("delay", [0, 2, -2, 5, -5, 9, -9])
def test_delay_fills_with_silence(delay):
    row = np.arange(1.0, 6.0)
    padded = np.concatenate([np.zeros(9), row, np.zeros(9)])
    expected = padded[9 - delay : 14 - delay]
    found = simulate._delay(np.stack([row, row]), np.array([delay, 0]))
    np.testing.assert_array_equal(found, [expected, row])


def test_impacts_follow_each_other_as_a_bouncing_tile_does():
    bench = replace(QUIET, first_impact=0.001, drop_height=0.05, loss_factor=0.05)
    bench = replace(bench, restitution=0.35)
    tiles = draw_tiles("A", 4, False, bench, default_rng(0))
    sound = simulate_drops(tiles, 1, bench, default_rng(1))
    speed = np.sqrt(2 * GRAVITY * bench.drop_height)
    flights = 2 * speed * 0.35 ** np.arange(1, BOUNCES) / GRAVITY
    starts = np.round((0.001 + np.append(0, np.cumsum(flights))) * SAMPLE_RATE).astype(int)
    assert not sound[:, : starts[0]].any()
    for start in starts[starts < SAMPLES - 60]:
        before = abs(sound[:, max(0, start - 20) : start]).max(1)
        after = abs(sound[:, start : start + 60]).max(1)
        assert (after > 10 * before).all()


def test_all_drops_of_a_tile_ring_at_its_frequencies_and_none_is_a_copy():
    tiles = draw_tiles("A", 3, False, Bench(), default_rng(0))
    bench = replace(Bench(), block_level=-80.0)
    sound = simulate_drops(tiles, 4, bench, default_rng(1))
    assert sound.shape == (12, SAMPLES)
    assert sound.dtype == np.float32
    assert len(np.unique(sound, axis=0)) == 12
    peaks = abs(np.fft.rfft(sound)).argmax(1) * SAMPLE_RATE / SAMPLES
    own = np.repeat(tiles.frequencies, 4, 0)
    assert (abs(own - peaks[:, None]).min(1) < 2 * SAMPLE_RATE / SAMPLES).all()


def test_nothing_sounds_above_the_converters_filter():
    high = draw_tiles("A", 2, False, EXACT, default_rng(0))
    high = replace(high, frequencies=np.full_like(high.frequencies, 0.49 * SAMPLE_RATE))
    bench = replace(QUIET, block_level=-300.0)
    assert abs(simulate_drops(high, 1, bench, default_rng(0))).max() < 1e-12
    heard = replace(high, frequencies=high.frequencies * 0.47 / 0.49)
    assert abs(simulate_drops(heard, 1, bench, default_rng(0))).max() > 1e-3


# The factory


@lru_cache
def impacts(count=200):
    tiles = draw_tiles("A", count, False, EXACT, default_rng(0))
    return simulate_drops(tiles, 1, QUIET, default_rng(1))


def added(bench, seed=0):
    """Level in dB of what was added to each recording, against its impact."""
    signals = impacts().astype(np.float64)
    mixed = add_factory(signals, impacts(8)[::-1], bench, default_rng(seed)).astype(np.float64)
    gain = (mixed * signals).sum(1, keepdims=True) / (signals**2).sum(1, keepdims=True)
    rest = mixed / gain - signals
    return 10 * np.log10((rest**2).mean(1) / (signals**2).mean(1))


@pytest.mark.parametrize("snr", [-3.0, 5.0, 20.0])
def test_the_requested_snr_is_met_on_average(snr):
    levels = added(replace(QUIET, snr=snr))
    assert levels.mean() == pytest.approx(-snr, abs=0.3)
    assert levels.std() < 0.5
    scattered = added(replace(QUIET, snr=snr, snr_deviation=4.0))
    assert scattered.mean() == pytest.approx(-snr, abs=0.8)
    assert scattered.std() == pytest.approx(4, abs=0.6)


def test_hum_has_its_level_and_its_frequencies():
    assert added(replace(QUIET, hum=-10.0)).mean() == pytest.approx(-10, abs=0.3)
    mixed = add_factory(impacts(20), impacts(2), replace(QUIET, hum=30.0), default_rng(0))
    power = (abs(np.fft.rfft(mixed)) ** 2).mean(0)
    mains = np.round(np.array([50, 100, 150]) * SAMPLES / SAMPLE_RATE).astype(int)
    near = np.unique(mains[:, None] + np.arange(-3, 4))
    assert power[near].sum() > 0.97 * power.sum()


def test_neighbours_are_heard_as_often_and_as_loud_as_asked():
    always = added(replace(QUIET, neighbour_share=1.0, neighbour_level=-12.0))
    assert np.median(always) == pytest.approx(-12, abs=0.3)
    sometimes = added(replace(QUIET, neighbour_share=0.3, neighbour_level=-12.0))
    assert (sometimes > -40).mean() == pytest.approx(0.3, abs=0.08)
    assert (added(QUIET) < -40).all()


def test_noise_is_pink():
    silence_like = impacts(200) * 1e-3
    mixed = add_factory(silence_like, impacts(2), replace(QUIET, snr=-60.0), default_rng(0))
    power = (abs(np.fft.rfft(mixed)) ** 2).mean(0)
    low, high = (power[int(f * 0.9 / 5.714) : int(f * 1.1 / 5.714)].mean() for f in (800, 3200))
    assert 10 * np.log10(low / high) == pytest.approx(6, abs=0.8)  # 3 dB an octave


def test_loudness_is_a_twentieth_of_full_scale_give_or_take_the_gain():
    exact = add_factory(impacts(), impacts(8), QUIET, default_rng(0))
    np.testing.assert_allclose(np.sqrt((exact**2).mean(1)), 0.05, rtol=1e-4)
    varied = add_factory(impacts(), impacts(8), replace(QUIET, gain_deviation=2.0), default_rng(0))
    levels = 20 * np.log10(np.sqrt((varied**2).mean(1)) / 0.05)
    assert levels.std() == pytest.approx(2, abs=0.3)
    assert exact.dtype == np.float32


# The data set


@pytest.fixture(scope="module")
def dataset() -> tuple[Recordings, object]:
    return simulate_with_truth("ABC", tiles_per_class=34, drops=5, seed=3)


def test_another_simulation_has_another_version():
    """Runs are recognised by these numbers within a tolerance, since processors round otherwise.

    If they change, raise VERSION. A change of all defective tiles alone may be the signs of the
    modes, which numpy's library for eigenvectors chooses: MKL and Accelerate choose others than
    OpenBLAS.
    """
    signals = simulate_tiles("AB", tiles_per_class=2, drops=1, seed=3).signals
    levels = np.sqrt(np.square(signals, dtype=float).mean(1))
    known = [0.052673, 0.047271, 0.052700, 0.057003, 0.047975, 0.044677, 0.049505, 0.043375]
    values = [-0.080479, -0.094834, 0.091760, 0.036563, -0.086944, 0.007547, -0.093916, 0.014442]
    assert VERSION == 1
    np.testing.assert_allclose(levels, known, atol=2e-6)
    np.testing.assert_allclose(signals[:, 1000], values, atol=2e-6)


def test_format_of_the_published_recordings(dataset):
    recordings, _ = dataset
    assert recordings.signals.shape == (3 * 2 * 34 * 5, 7000)
    assert recordings.signals.dtype == np.float32
    assert recordings.sample_rate == 40_000
    assert recordings.simulated
    assert "not real" in recordings.source


def test_labels_groups_and_classes(dataset):
    recordings, truth = dataset
    assert recordings.class_names == ("AN", "AD", "BN", "BD", "CN", "CD")
    assert recordings.normal_classes == ("AN", "BN", "CN")
    assert np.bincount(recordings.labels).tolist() == [170] * 6
    groups, counts = np.unique(recordings.groups, return_counts=True)
    assert len(groups) == 204
    assert set(counts) == {5}
    assert set(truth["group"]) == set(groups)
    table = truth.set_index("group").loc[recordings.groups]
    names = np.array(recordings.class_names)[recordings.labels]
    assert ((table["type"] + np.where(table["defective"], "D", "N")).to_numpy() == names).all()
    assert len(set(recordings.origins)) == len(recordings)


def test_truth_of_sound_and_defective_tiles(dataset):
    _, truth = dataset
    sound, cracked = truth[~truth.defective], truth[truth.defective]
    assert (sound.severity == 0).all()
    assert sound[["x", "y"]].isna().all(axis=None)
    assert (cracked.severity > 0).all()
    assert ((cracked[["x", "y"]] > 0) & (cracked[["x", "y"]] < 1)).all(axis=None)
    modes = truth[[f"f{i}" for i in range(12)]]
    assert ((modes >= 100) & (modes < 100_000)).all(axis=None)
    assert (truth[[f"loss{i}" for i in range(12)]] > 0).all(axis=None)


def test_recordings_do_not_clip(dataset):
    peaks = abs(dataset[0].signals).max(1)
    assert (peaks <= 1).mean() >= 0.999
    assert np.isfinite(peaks).all()
    assert np.median(peaks) > 0.1  # nor do they waste the converter's range


def test_recordings_are_all_different(dataset):
    assert len({signal.tobytes() for signal in dataset[0].signals}) == len(dataset[0])


def test_recordings_ring_at_their_own_tiles_frequencies():
    # More tiles than are simulated at once, so that a row in the wrong place would be seen.
    recordings, truth = simulate_with_truth("A", CHUNK + 8, 1, seed=1, bench=QUIET)
    own = truth.set_index("group").loc[recordings.groups, [f"f{i}" for i in range(12)]]
    peaks = abs(np.fft.rfft(recordings.signals)).argmax(1) * SAMPLE_RATE / SAMPLES
    defective = recordings.labels == 1
    distance = abs(own.to_numpy() - peaks[:, None]).min(1)
    assert (distance < SAMPLE_RATE / SAMPLES).mean() > 0.9
    # Defective tiles differ from each other, so a neighbour's frequencies would not do.
    shifted = np.roll(own.to_numpy()[defective], 1, 0)
    wrong = abs(shifted - peaks[defective, None]).min(1)
    assert (wrong < SAMPLE_RATE / SAMPLES).mean() < 0.6


def test_two_classes_where_types_are_not_pooled():
    recordings = simulate_tiles("CA", 2, 3, pooled=False)
    assert recordings.class_names == ("N", "D")
    assert recordings.normal_classes == ("N",)
    assert recordings.labels.tolist() == [0] * 6 + [1] * 6 + [0] * 6 + [1] * 6
    assert [group[0] for group in recordings.groups] == ["C"] * 12 + ["A"] * 12
    assert len(set(recordings.groups)) == 8
    pooled = simulate_tiles("CA", 2, 3)
    assert np.array_equal(pooled.signals, recordings.signals)
    assert pooled.class_names == ("CN", "CD", "AN", "AD")


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (simulate_with_truth("B", 3, 2, seed=s) for s in (4, 4, 5))
    assert first[0].signals.tobytes() == again[0].signals.tobytes()
    assert first[1].equals(again[1])
    assert not np.isclose(first[0].signals, other[0].signals).all(1).any()
    assert not np.isclose(first[1]["f0"], other[1]["f0"]).any()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert np.array_equal(simulate_tiles("B", 3, 2, seed=4).signals, first[0].signals)


def test_the_bench_is_heard():
    loud, quiet = (
        simulate_tiles("A", 2, 2, bench=replace(QUIET, snr=snr)).signals for snr in (0.0, 60.0)
    )
    start = slice(0, 35)  # before the first impact
    assert (loud[:, start] ** 2).mean() > 100 * (quiet[:, start] ** 2).mean()


def test_tiles_in_the_background_are_not_in_the_data(monkeypatch):
    drawn, dropped, heard = [], [], []

    def draw(*arguments):
        drawn.append(draw_tiles(*arguments))
        return drawn[-1]

    def drop(tiles, *arguments):
        dropped.append((tiles.frequencies, simulate_drops(tiles, *arguments)))
        return dropped[-1][1]

    def mix(signals, neighbours, *arguments):
        heard.append(neighbours)
        return add_factory(signals, neighbours, *arguments)

    monkeypatch.setattr(simulate, "draw_tiles", draw)
    monkeypatch.setattr(simulate, "simulate_drops", drop)
    monkeypatch.setattr(simulate, "add_factory", mix)
    _, truth = simulate_with_truth("AB", 4, 2)
    tiles = set(truth["f0"])
    assert len(heard) == 4
    sources = set()
    for neighbour in heard[0]:  # whose impact is each of them?
        tile = next(f for f, sounds in dropped if (sounds == neighbour).all(1).any())
        sources |= set(tile[:, 0])
    assert len(sources) >= 8
    assert not sources & tiles
    assert all(neighbours is heard[0] for neighbours in heard)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"types": "AX"}, "'X' is unknown; choose from A, B, C"),
        ({"types": "AA"}, "name each tile type once"),
        ({"types": ""}, "name each tile type once"),
        ({"tiles_per_class": 0}, "tiles_per_class is 0; it must be"),
        ({"tiles_per_class": -2}, "tiles_per_class is -2"),
        ({"drops": 0}, "drops is 0; it must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    for function in (simulate_tiles, simulate_with_truth):
        with pytest.raises(ArgumentError, match=message):
            function(**({"types": "A", "tiles_per_class": 1, "drops": 1} | arguments))
