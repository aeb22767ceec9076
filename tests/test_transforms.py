"""From recordings to network inputs: against NumPy, one recording at a time."""

import subprocess
import sys
import warnings

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.signal import stft

from hfld_lite.data.views import (
    BANDS,
    CHUNK,
    FRAMES,
    VIEWS,
    add_noise,
    averaged_spectrum,
    frequencies,
    log_mel,
    log_spectrum,
    mel_frames,
    mel_weights,
    network_inputs,
    spectrogram,
    spectrum,
    time_view,
)
from hfld_lite.errors import ArgumentError, DataError, RecipeError
from hfld_lite.recipes import Recipe

RATE, SAMPLES = 40_000, 7000


def signals(count=5, samples=200, seed=0):
    return np.random.default_rng(seed).standard_normal((count, samples)).astype(np.float32)


def tone(frequency, count=1, samples=SAMPLES):
    wave = np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)
    return np.repeat(wave[None], count, 0).astype(np.float32)


def by_numpy(signal, bins):
    magnitude = np.abs(np.fft.rfft(signal.astype(np.float64)))[:bins]
    return (magnitude - magnitude.min()) / (magnitude.max() - magnitude.min())


@pytest.mark.parametrize(("samples", "bins"), [(200, None), (201, None), (200, 101), (200, 17)])
def test_spectrum_equals_numpy_one_by_one(samples, bins):
    x = signals(samples=samples) + 0.3
    found = spectrum(x, bins)
    expected = np.stack([by_numpy(row, bins or samples // 2) for row in x])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.amin(1).tolist() == [0.0] * 5
    assert found.amax(1).tolist() == [1.0] * 5


def test_default_bins_are_half_the_samples():
    assert spectrum(signals(1, SAMPLES)).shape == (1, 3500)
    assert spectrum(signals(1, 201)).shape == (1, 100)


@pytest.mark.parametrize("bin_", [1, 175, 875, 3499])
def test_a_pure_tone_lands_in_its_bin(bin_):
    width = RATE / SAMPLES
    assert width == pytest.approx(5.71, abs=0.005)
    found = spectrum(tone(bin_ * width))[0]
    assert found.argmax() == bin_
    assert found[bin_] == 1
    others = torch.arange(3500) != bin_
    assert found[others].max() < 1e-3


def test_a_thousand_hertz():
    assert spectrum(tone(1000.0))[0].argmax() == 175


def test_scaling_forgets_the_unit_but_keeps_the_shape():
    x = signals()
    torch.testing.assert_close(spectrum(1000 * x), spectrum(x))
    torch.testing.assert_close(time_view(x * 7 + 2), time_view(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "view", [spectrum, time_view, averaged_spectrum, lambda x: log_mel(x, RATE)]
)
@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_chunks_do_not_show(view, count):
    x = signals(count, 32)
    together, rows = view(x), [0, CHUNK - 2, count - 2, count - 1]
    assert len(together) == count
    alone = torch.cat([view(x[row : row + 1]) for row in rows])
    torch.testing.assert_close(together[rows], alone, rtol=0, atol=1e-6)


def test_time_view_is_the_scaled_signal():
    x = signals()
    expected = np.stack([(r - r.min()) / (r.max() - r.min()) for r in x.astype(np.float64)])
    np.testing.assert_allclose(time_view(x), expected, atol=1e-6)
    first = x[:, :50].astype(np.float64)
    expected = np.stack([(r - r.min()) / (r.max() - r.min()) for r in first])
    np.testing.assert_allclose(time_view(x, 50), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["float64", "int16", "tensor", "fortran"])
def test_kinds_of_input(kind):
    x = np.round(1000 * signals())
    made = {
        "float64": x.astype(np.float64),
        "int16": x.astype(np.int16),
        "tensor": torch.from_numpy(x.copy()),
        "fortran": np.asfortranarray(x),
    }[kind]
    for view in VIEWS.values():
        torch.testing.assert_close(view(made, Recipe(), RATE), view(x, Recipe(), RATE))


def test_inputs_are_left_alone():
    x = signals()
    before = x.copy()
    for view in VIEWS.values():
        view(x, Recipe(), RATE)
    spectrogram(x, 200, 0.1)
    assert np.array_equal(x, before)


# The views that recipes name, against references that are written anew


def averaged_by_numpy(signal, bins):
    """Magnitudes without DC, averaged in a loop; not scaled."""
    points = max(len(signal), 1024)
    signal = signal.astype(np.float64)
    magnitude = np.abs(np.fft.rfft(signal - signal.mean(), points))[: points // 2]
    by = int(np.ceil(len(magnitude) / bins))
    return np.array([magnitude[i : i + by].mean() for i in range(0, len(magnitude), by)])


def decibels_by_numpy(amplitude, level):
    levels = 20 * np.log10(amplitude)
    levels = np.maximum(levels, levels.max() - 80)
    return levels / 80 if level == "kept" else (levels - levels.max()) / 80 + 1


def mel_by_scipy(signal, rate, level):
    """Short-time spectra by SciPy, triangles drawn one by one, means over frames in a loop."""
    size = max(4, min(round(0.025 * rate), len(signal) // 4) // 2 * 2)
    points = 1024
    while points < max(size, rate // 50):
        points *= 2
    signal = signal.astype(np.float64)
    hertz, _, found = stft(
        signal - signal.mean(), rate, "hann", size, size // 2, points, boundary=None, padded=False
    )
    power, top = np.abs(found) ** 2, 2595 * np.log10(1 + rate / 1400)
    edges = [700 * (10 ** (top * i / 17 / 2595) - 1) for i in range(18)]
    bands = np.array(
        [
            np.interp(hertz, [low, middle, high], [0, 1, 0]) @ power
            for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False)
        ]
    )
    by = int(np.ceil(bands.shape[1] / 16))
    frames = [bands[:, i : i + by].mean(1) for i in range(0, bands.shape[1], by)]
    mean, together = power.mean(1)[:-1], min(-(-points // 1200), points // 514)
    spectrum = [mean[i : i + together].mean() for i in range(0, points // 2, together)]
    return decibels_by_numpy(np.sqrt(np.concatenate([spectrum, *frames])), level)


def knocks(count=4, samples=7000, seed=0):
    """Decaying noise with an offset."""
    rng = np.random.default_rng(seed)
    fading = np.exp(-np.arange(samples) / (samples * rng.uniform(0.05, 0.5, (count, 1))))
    return (fading * rng.standard_normal((count, samples)) + 0.2).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "bins"), [(7000, None), (7001, 300), (4410, 600), (1100, None), (800, 512)]
)
def test_averages_are_numpys_also_the_last_over_fewer(samples, bins):
    x = knocks(samples=samples)
    expected = np.stack([averaged_by_numpy(row, bins or 600) for row in x])
    low, high = expected.min(1, keepdims=True), expected.max(1, keepdims=True)
    found = averaged_spectrum(x, bins)
    assert found.shape[1] <= (bins or 600)
    np.testing.assert_allclose(found, (expected - low) / (high - low), atol=2e-6)
    for level in ("removed", "kept"):
        levels = [decibels_by_numpy(row * 2 / samples, level) for row in expected]
        np.testing.assert_allclose(log_spectrum(x, bins, level), levels, atol=1e-5)


@pytest.mark.parametrize("level", ["removed", "kept"])
@pytest.mark.parametrize(
    ("samples", "rate"),
    [(7000, 40_000), (96_000, 48_000), (4410, 44_100), (800, 8000), (64, 1000), (3000, 192_000)],
)
def test_mel_bands_are_those_of_scipys_short_time_spectra(samples, rate, level):
    x = knocks(samples=samples)
    found = log_mel(x, rate, level=level)
    assert 257 < found.shape[1] <= 600 + FRAMES * BANDS
    expected = np.stack([mel_by_scipy(row, rate, level) for row in x])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rate", [100, 8000, 16_000, 40_000, 51_100, 96_000, 192_000, 1_000_000])
@pytest.mark.parametrize("samples", [64, 1000, 7000, 192_000])
def test_every_mel_band_holds_a_bin(rate, samples):
    _, points = mel_frames(samples, rate)
    assert (mel_weights(points, rate).sum(0) > 0).all()


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    samples=st.integers(64, 3000),
    seed=st.integers(0, 99),
    offset=st.floats(-2, 2),
    gain=st.floats(0.01, 100),
    kind=st.sampled_from(["spectrum", "log-spectrum", "log-mel"]),
    level=st.sampled_from(["removed", "kept"]),
    bins=st.sampled_from([None, 257, 300, 700]),
)
def test_an_offset_changes_nothing_and_a_gain_its_decibels_only(
    samples, seed, offset, gain, kind, level, bins
):
    level = "removed" if kind == "spectrum" else level
    recipe = Recipe(view=kind, level=level, bins=bins)
    x = np.random.default_rng(seed).standard_normal((2, samples))
    found = network_inputs(gain * (x + offset), recipe, 16_000)
    shift = 20 * np.log10(gain) / 80 if recipe.level == "kept" else 0
    assert 257 <= found.shape[1] <= 1024
    torch.testing.assert_close(found, network_inputs(x, recipe, 16_000) + shift, rtol=0, atol=2e-3)


def test_a_louder_recording_of_equal_shape_differs_by_its_level_only_where_it_is_kept():
    x = knocks(1)
    both = np.concatenate([x, 4 * x])
    for view in (log_spectrum, lambda s, level: log_mel(s, RATE, level=level)):
        removed, kept = view(both, level="removed"), view(both, level="kept")
        torch.testing.assert_close(removed[0], removed[1], rtol=0, atol=1e-5)
        shift = torch.full_like(kept[0], 20 * np.log10(4) / 80)
        torch.testing.assert_close(kept[1] - kept[0], shift, rtol=0, atol=1e-5)
        assert removed.amax(1).tolist() == [1.0, 1.0]
        assert removed.min() >= -1e-6


def test_a_sines_level_is_that_of_its_amplitude():
    wave = 0.5 * np.sin(2 * np.pi * 50 * np.arange(1024) / 1024)[None].astype(np.float32)
    found = log_spectrum(wave, level="kept")[0]
    assert found.argmax() == 50
    assert found[50].item() == pytest.approx(20 * np.log10(0.5) / 80, abs=1e-6)
    assert found.min().item() == pytest.approx(found[50].item() - 1, abs=1e-6), "the floor"


def test_zeros_behind_a_short_recording_only_interpolate():
    x = knocks(3, 64)
    coarse = np.abs(np.fft.rfft((x - x.mean(1, keepdims=True)).astype(float)))[:, :32]
    found = averaged_spectrum(x).numpy()
    assert found.shape == (3, 512)
    scale = np.stack([averaged_by_numpy(row, 600) for row in x])
    low, high = scale.min(1, keepdims=True), scale.max(1, keepdims=True)
    np.testing.assert_allclose(found[:, ::16] * (high - low) + low, coarse, atol=1e-4)


@pytest.mark.parametrize("recording", [(7000, 40_000), (7001, 40_000), (500, 8000)])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(view="spectrum"),
        Recipe(view="spectrum", bins=300),
        Recipe(view="log-spectrum"),
        Recipe(view="spectrum", bins_by="cutting"),
        Recipe(view="log-mel"),
        Recipe(view="log-mel", bins=300),
        Recipe(view="spectrum", samples=480),
    ],
    ids=lambda recipe: f"{recipe.view} {recipe.bins} {recipe.bins_by} {recipe.samples}",
)
def test_frequencies_are_where_tones_show(recipe, recording):
    samples, rate = recording
    hertz = frequencies(recipe, samples, rate)
    for tone_ in (0.11 * rate, 0.34 * rate):
        wave = np.sin(2 * np.pi * tone_ * np.arange(samples) / rate)[None].astype(np.float32)
        seen = network_inputs(wave, recipe, rate)[0, : len(hertz)]
        place = int(seen.argmax())
        spacing = np.diff(hertz)[min(place, len(hertz) - 2)]
        assert abs(hertz[place] - tone_) <= 0.51 * max(spacing, rate / samples)


def test_samples_have_no_frequency():
    assert frequencies(Recipe(view="time"), 7000, RATE) is None


def test_what_does_not_fit_a_view_is_one_sentence():
    with pytest.raises(RecipeError, match="bins_by is 'cutting', but its view 'log-mel' averages"):
        Recipe(view="log-mel", bins_by="cutting")
    with pytest.raises(ArgumentError, match="16 samples or more; they have 15"):
        network_inputs(signals(2, 15), Recipe(view="log-mel"), 1000)
    with pytest.raises(DataError, match="they have 800 samples; expected 900 or more"):
        network_inputs(signals(2, 800), Recipe(samples=900), 8000)
    with pytest.raises(ArgumentError, match="bins is 600; recordings of 800 samples have 2 to 401"):
        network_inputs(signals(2, 800), Recipe(view="spectrum", bins=600, bins_by="cutting"), 8000)


@pytest.mark.parametrize("view", ["spectrum", "log-spectrum", "log-mel", "time"])
@pytest.mark.parametrize(("value", "message"), [(0.25, "constant"), (np.nan, "finite")])
def test_every_view_names_a_bad_recording(view, value, message):
    x = signals(CHUNK + 10, 300)
    x[CHUNK + 3] = value
    with pytest.raises(DataError, match=rf"^recording {CHUNK + 3}: .*{message}"):
        network_inputs(x, Recipe(view=view), 8000)


@pytest.mark.parametrize("view", [spectrum, time_view])
@pytest.mark.parametrize("row", [0, 7, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize(
    ("value", "message"), [("constant", "constant"), (np.nan, "finite"), (np.inf, "finite")]
)
def test_bad_rows_are_named(view, row, value, message):
    x = signals(2 * CHUNK + 10, 32)
    if value == "constant":
        x[row] = 0.25
    else:
        x[row, 3] = value
    with pytest.raises(DataError, match=f"^recording {row}: .*{message}"):
        view(x)


def test_silence_is_refused_by_every_view():
    x = signals(3)
    x[1] = 0
    for view in (spectrum, time_view, lambda s: spectrogram(s, 200, 0.1)):
        with pytest.raises(DataError, match=r"^recording 1: .*constant"):
            view(x)


def test_the_first_of_several_bad_rows_is_named():
    x = signals(600, 32)
    x[[300, 400], 2] = np.nan
    with pytest.raises(DataError, match=r"^recording 300:"):
        spectrum(x)


def test_a_signal_that_is_constant_where_it_is_looked_at():
    x = signals(3, 100)
    x[2, :50] = 1.0
    time_view(x)
    with pytest.raises(DataError, match=r"^recording 2: .*constant"):
        time_view(x, 50)


@pytest.mark.parametrize("bins", [1, 0, -5, 102])
def test_bins_that_do_not_exist(bins):
    with pytest.raises(ArgumentError, match=f"bins is {bins}; .* 200 samples have 2 to 101"):
        spectrum(signals(), bins)


@pytest.mark.parametrize("samples", [1, 0, 201])
def test_samples_that_do_not_exist(samples):
    with pytest.raises(ArgumentError, match=f"samples is {samples}; the recordings have 200"):
        time_view(signals(), samples)


@pytest.mark.parametrize("shape", [(200,), (2, 3, 200), (5, 2), (0,)])
def test_wrong_shapes_are_named(shape):
    for view in (spectrum, time_view, lambda s: spectrogram(s, RATE)):
        with pytest.raises(ArgumentError, match="recordings, samples") as error:
            view(np.zeros(shape, np.float32))
        assert str(shape) in str(error.value)


# The spectrogram


def test_spectrogram_axes_in_hertz_and_seconds():
    levels, frequencies, times = spectrogram(signals(2, SAMPLES), RATE)
    size, hop = 1000, 667  # 25 ms, one third overlap
    assert levels.shape == (2, len(frequencies), len(times))
    np.testing.assert_allclose(frequencies, np.arange(size // 2 + 1) * RATE / size)
    middles = (np.arange((SAMPLES - size) // hop + 1) * hop + size / 2) / RATE
    np.testing.assert_allclose(times, middles, rtol=1e-6)
    assert frequencies[-1] == RATE / 2
    assert times[-1] < SAMPLES / RATE


def test_spectrogram_shows_a_tone_at_its_frequency_and_time():
    x = np.zeros((1, SAMPLES), np.float32)
    begin, end = 3000, 4600
    x[0, begin:end] = tone(5000.0)[0, begin:end]
    levels, frequencies, times = spectrogram(x, RATE)
    at = levels[0].amax(0).argmax()
    assert begin / RATE <= times[at] <= end / RATE
    assert frequencies[levels[0, :, at].argmax()] == 5000
    assert levels.max() == 0
    assert levels.min() == -80
    assert (levels[0, :, 0] == -80).all()  # nothing sounded yet


def test_spectrogram_levels_are_amplitudes_in_decibel():
    # A tone ten times as weak lies 20 dB lower.
    x = tone(2000.0) + 0.1 * tone(10_000.0)
    levels, frequencies, _ = spectrogram(x, RATE)
    weak = levels[0, int((frequencies == 10_000).nonzero()), 3]
    assert weak.item() == pytest.approx(-20, abs=0.05)


@pytest.mark.parametrize("where", [slice(0, 1), slice(3000, 3001), slice(-1, None)])
def test_spectrogram_is_finite_on_a_click_in_silence(where):
    x = np.zeros((1, SAMPLES), np.float32)
    x[0, where] = 1
    assert spectrogram(x, RATE)[0].isfinite().all()


def test_spectrogram_is_finite_on_padded_recordings():
    x = signals(3, SAMPLES)
    x[0, 2000:] = 0
    x[1, :5000] = 0
    levels = spectrogram(x, RATE)[0]
    assert levels.isfinite().all()
    assert levels.amax((1, 2)).tolist() == [0.0] * 3
    assert levels.min() >= -80


@pytest.mark.parametrize("window", [0.0, 2 / RATE, -1.0, 0.2])
def test_windows_that_do_not_fit(window):
    with pytest.raises(ArgumentError, match="choose 3 samples to the recording's 7000"):
        spectrogram(signals(1, SAMPLES), RATE, window)


def test_spectrogram_names_a_bad_row():
    x = signals(3, SAMPLES)
    x[1, 5] = np.nan
    with pytest.raises(DataError, match=r"^recording 1: .*finite"):
        spectrogram(x, RATE)


# Memory


@pytest.mark.parametrize("name", ["spectrum", "time_view", "spectrogram"])
def test_a_read_only_memory_map_is_read_without_a_warning(name, tmp_path):
    np.save(tmp_path / "signals.npy", signals(CHUNK + 5, 64))
    mapped = np.load(tmp_path / "signals.npy", mmap_mode="r")
    view = {
        "spectrum": spectrum,
        "time_view": time_view,
        "spectrogram": lambda x: spectrogram(x, 64, 0.5)[0],
    }[name]
    torch.set_warn_always(True)  # else torch warns of it once a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = view(mapped)
    finally:
        torch.set_warn_always(False)
    torch.testing.assert_close(found, view(np.array(mapped)))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_beside_input_and_result_is_bounded():
    # 3000 recordings of 7000 samples: all at once the complex spectrum alone takes 84 MB.
    program = """
import resource, numpy as np, torch
from hfld_lite.data.views import spectrum
torch.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((3000, 7000), dtype=np.float32)
spectrum(x[:256])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = spectrum(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before - y.nbytes // 1024)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 40 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("view", ["averaged_spectrum(x)", "log_mel(x, 48_000)"])
def test_long_recordings_take_no_more_memory(view):
    # 60 of 4 s at 48 kHz: all at once their mel frames take 370 MB.
    program = f"""
import resource, numpy as np, torch
from hfld_lite.data.views import *
torch.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((60, 192_000), dtype=np.float32)
whole, x = x, x[:1]
{view}
x, before = whole, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{view}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 120 * 1024


def test_noise_has_the_power_that_was_asked_for():
    signals = np.sin(np.linspace(0, 900, 20_000, dtype=np.float32))[None] * [[1.0], [50.0]]
    noise = add_noise(signals, -6.0, np.random.default_rng(0)) - signals
    ratio = 10 * np.log10((signals**2).mean(1) / (noise**2).mean(1))
    np.testing.assert_allclose(ratio, -6, atol=0.2)
