"""From recordings to what a network reads: a spectrum, the same in dB, mel bands, or the samples.

Everything is done once, before training, in batches, with torch's FFT. A view depends on its own
recording only, so that nothing is learned from other recordings. Source: `spectrum` and `time_view`
are the preprocessing of the HFLKD paper's released code; mel bands as in Davis and Mermelstein,
"Comparison of parametric representations for monosyllabic word recognition", 1980.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.arrays import pieces

CHUNK = 256
"""Recordings transformed at once: bounds memory, and is long enough to keep the FFT busy."""

CHUNK_SAMPLES = 1 << 21
"""Samples transformed at once, where recordings are long."""

BINS = 600
"""Most values of an averaged spectrum, by default."""

LEAST_BINS = 512
"""Bins that a short recording's spectrum has at least, by zeros that are appended to it."""

LEAST_VALUES = 257
"""Values that the networks need, so that averaging leaves no fewer."""

FLOOR = 80.0
"""dB below a recording's peak; what is weaker counts as this."""

BANDS, FRAMES, FRAME = 16, 16, 0.025
"""Mel bands and most frames of `log_mel`, and the length of a window in s."""

WIDEST_BIN = 50
"""Hz between bins of `log_mel` at most: at every sample rate its lowest band then holds a bin."""

SCALINGS = dict.fromkeys(("spectrum", "time"), "min-max per recording") | {
    "log-spectrum": f"{FLOOR:g} dB below the peak of each recording",
    "log-mel": f"{FLOOR:g} dB below the peak of each recording, mean and {BANDS} bands by {FRAMES}",
}
"""How runs name the scaling of each view; change it when the values of the view change."""


def spectrum(signals: np.ndarray | Tensor, bins: int | None = None) -> Tensor:
    """Magnitude spectrum of each recording, scaled to [0, 1].

    x_k = (|X_k| − min_j |X_j|) / (max_j |X_j| − min_j |X_j|), over the kept bins, with X the
    discrete Fourier transform. At 40 kHz and 7000 samples, 3500 bins reach from 0 to 20 kHz and
    one is 5.71 Hz wide (bin width = sample rate / samples).

    Args:
        signals: ``(n, samples)``, any unit.
        bins: how many bins to keep, from 0 Hz on; by default half the samples.

    Returns:
        float32 ``(n, bins)`` on the signals' device.

    Raises:
        ArgumentError: if ``signals`` has another shape, or more bins are asked for than exist.
        DataError: if a recording is constant or not finite (row named).
    """
    samples = _samples(signals)
    bins = samples // 2 if bins is None else bins
    if not 2 <= bins <= samples // 2 + 1:
        raise ArgumentError(
            f"bins is {bins}; recordings of {samples} samples have 2 to {samples // 2 + 1} bins."
        )
    return _in_chunks(signals, lambda x: _magnitude(torch.fft.rfft(x)[:, :bins]), _min_max)


def time_view(signals: np.ndarray | Tensor, samples: int | None = None) -> Tensor:
    """The first samples of each recording themselves, scaled to [0, 1].

    Args, returns and raises as in :func:`spectrum`, with ``samples`` (default: all) for bins.
    """
    available = _samples(signals)
    samples = available if samples is None else samples
    if not 2 <= samples <= available:
        raise ArgumentError(f"samples is {samples}; the recordings have {available}.")
    return _in_chunks(signals, lambda x: x[:, :samples], _min_max)


def averaged_spectrum(signals: np.ndarray | Tensor, bins: int | None = None) -> Tensor:
    """Magnitude spectrum without DC, neighbouring bins averaged, each recording in [0, 1].

    With K bins of the discrete Fourier transform X of x − mean(x) and f = ⌈K / bins⌉,
    y_k = mean of |X_{f k}| … |X_{f k + f − 1}|, k < ⌈K / f⌉ (the last mean may be over fewer), then
    min-max scaled as in :func:`spectrum`. K is half the samples; recordings shorter than
    2 · LEAST_BINS get zeros appended, which only interpolates their spectrum.

    Args, returns and raises as in :func:`spectrum`; ``bins`` is the most that is kept.
    """
    return _in_chunks(signals, lambda x: _averaged(_magnitudes(x), bins), _min_max)


def log_spectrum(
    signals: np.ndarray | Tensor, bins: int | None = None, level: str = "removed"
) -> Tensor:
    """The averaged magnitude spectrum in dB, down to FLOOR below each recording's peak.

    With a_k the averages of :func:`averaged_spectrum` before scaling, times 2 / samples (the
    amplitude of a sine of that frequency), and p their maximum:
    y_k = 20 log₁₀(max(a_k, p · 10^(−FLOOR/20))) / FLOOR; with the level removed, all of a recording
    are shifted so that its peak is 1.

    Args, returns and raises as in :func:`averaged_spectrum`, and:
        level: ``"kept"``, so that a louder recording has higher values, or ``"removed"``.
    """
    unit = 2 / _samples(signals)
    return _in_chunks(
        signals,
        lambda x: _averaged(_magnitudes(x), bins) * unit,
        lambda x: _decibels(x, 20, level),
    )


def log_mel(
    signals: np.ndarray | Tensor,
    sample_rate: int,
    bins: int | None = None,
    level: str = "removed",
) -> Tensor:
    """Power in dB: the spectrum averaged over time, then BANDS mel bands in FRAMES frames at most.

    Hann windows of FRAME seconds (a quarter of the recording at most) overlap by half; the mean of
    the recording is subtracted before. The power of a window's bin is |2 X_k / window|². The first
    values are the mean of these powers over all windows, with neighbouring bins averaged as in
    :func:`averaged_spectrum`: fine in frequency and steady in noise (Welch, "The use of fast
    Fourier transform for the estimation of power spectra", 1967). The others tell when: the bands
    are triangles, equally wide on the scale m(f) = 2595 log₁₀(1 + f / 700), from 0 Hz to half the
    sample rate, with a peak of 1; neighbouring windows are averaged until FRAMES or fewer are left.
    Then dB as in :func:`log_spectrum`, 10 log₁₀ of a power in place of 20 log₁₀ of an amplitude.

    Args:
        signals: ``(n, samples)``, any unit.
        sample_rate: Hz.
        bins: most values of the mean spectrum.
        level: ``"kept"`` or ``"removed"``.

    Returns:
        float32 ``(n, bins + frames · BANDS)``, a frame's bands from low to high.

    Raises:
        ArgumentError: if ``signals`` has another shape, or fewer than 16 samples.
        DataError: if a recording is constant or not finite (row named).
    """
    samples = _samples(signals)
    if samples < 16:
        raise ArgumentError(f"log_mel needs recordings of 16 samples or more; they have {samples}.")
    size, points = mel_frames(samples, sample_rate)
    weights = torch.from_numpy(mel_weights(points, sample_rate))
    window = torch.hann_window(size)

    def view(x: Tensor) -> Tensor:
        frames = (x - x.mean(1, keepdim=True)).unfold(1, size, size // 2) * window.to(x.device)
        found = torch.fft.rfft(frames, points)
        power = (found.real.square() + found.imag.square()) * (2 / size) ** 2
        mean = _averaged(power.mean(1)[:, : points // 2], bins)
        bands = power @ weights.to(x.device)
        by = -(-bands.shape[1] // FRAMES)
        bands = _mean_of(bands.transpose(1, 2), by).transpose(1, 2)
        return torch.cat([mean, bands.flatten(1)], 1)

    spread = samples * 2 * points // size  # the frames' samples, padded
    return _in_chunks(signals, view, lambda x: _decibels(x, 10, level), spread)


def mel_frames(samples: int, sample_rate: int) -> tuple[int, int]:
    """Samples of a window of :func:`log_mel`, and points of its Fourier transform."""
    size = max(4, min(round(FRAME * sample_rate), samples // 4) // 2 * 2)
    return size, 1 << (max(size, 2 * LEAST_BINS, sample_rate // WIDEST_BIN) - 1).bit_length()


def mel_edges(sample_rate: int, bands: int = BANDS) -> np.ndarray:
    """Where the triangles of :func:`mel_weights` begin, peak and end, Hz: ``(bands + 2,)``."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)


def mel_weights(points: int, sample_rate: int, bands: int = BANDS) -> np.ndarray:
    """Triangular mel bands over the bins of a Fourier transform: float32 ``(bins, bands)``."""
    edges = mel_edges(sample_rate, bands)
    bins = np.arange(points // 2 + 1)[:, None] * (sample_rate / points)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None).astype(np.float32)


def spectrogram(
    signals: np.ndarray | Tensor, sample_rate: int, window: float = 0.025
) -> tuple[Tensor, Tensor, Tensor]:
    """Short-time spectrum in dB, for display: Hann window, one third overlap.

    Args:
        signals: ``(n, samples)``.
        sample_rate: Hz.
        window: length of the window, s.

    Returns:
        Levels ``(n, frequencies, times)`` in dB below each recording's maximum, at least −80;
        the frequencies in Hz; the windows' middles in s.

    Raises:
        ArgumentError: if the window is shorter than 3 samples or longer than a recording.
        DataError: if a recording is constant or not finite (row named).
    """
    samples, size = _samples(signals), round(window * sample_rate)
    if not 3 <= size <= samples:
        raise ArgumentError(
            f"window is {window} s, {size} samples at {sample_rate} Hz; choose 3 samples to the "
            f"recording's {samples}."
        )
    x = _as_tensor(signals)
    _check(x, x.amin(1), x.amax(1), 0)
    hop = size - size // 3
    power = torch.stft(
        x, size, hop, window=torch.hann_window(size), center=False, return_complex=True
    ).abs()
    # A click outside of all windows leaves no power: then all levels are the lowest.
    peak = power.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    levels = 20 * torch.log10((power / peak).clamp_min(1e-12))
    frequencies = torch.arange(power.shape[1]) * (sample_rate / size)
    times = (torch.arange(power.shape[2]) * hop + size / 2) / sample_rate
    return levels.clamp_min(-80.0), frequencies, times


def add_noise(signals: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Signals with white Gaussian noise, at a ratio of powers of ``snr`` dB in each recording.

    Args:
        signals: ``(n, samples)``.
        snr: signal's power to noise's power, dB; at −6 dB the noise is twice the signal's RMS.
        rng: the generator.

    Returns:
        float32 ``(n, samples)``.
    """
    power = np.sqrt(np.mean(np.square(signals), axis=1, keepdims=True))
    noise = rng.standard_normal(signals.shape, dtype=np.float32)
    return (signals + noise * (power * 10 ** (-snr / 20))).astype(np.float32)


def cut(recipe: Any) -> bool:
    """Whether a recipe's view is the spectrum as published: its first bins, DC among them."""
    return recipe.view == "spectrum" and recipe.bins_by == "cutting"


def fourier_points(samples: int) -> int:
    """Points of an averaged spectrum's Fourier transform; half of them are bins."""
    return max(samples, 2 * LEAST_BINS)


def level_of(recipe: Any) -> str:
    """``"kept"`` or ``"removed"``: as a recipe says, by default kept in dB and else removed."""
    return recipe.level or ("kept" if recipe.view.startswith("log-") else "removed")


def neighbours(count: int, most: int | None) -> int:
    """How many of ``count`` bins are averaged, so that ``most`` (None: BINS) or fewer remain.

    LEAST_VALUES remain in any case.
    """
    return min(-(-count // (most or BINS)), count // LEAST_VALUES)


def frequencies(recipe: Any, samples: int, sample_rate: int) -> np.ndarray | None:
    """What frequency each value of a recipe's view stands for, Hz; None for the view "time".

    The middle of the bins that are averaged. Of the view "log-mel" it is that of the first values,
    the spectrum averaged over time; the mel bands come after them.

    Args:
        recipe: whose view it is.
        samples: of a recording.
        sample_rate: Hz.
    """
    samples = recipe.samples or samples
    if recipe.view == "time":
        return None
    if cut(recipe):
        return np.arange(recipe.bins or samples // 2) * (sample_rate / samples)
    mel = recipe.view == "log-mel"
    points = mel_frames(samples, sample_rate)[1] if mel else fourier_points(samples)
    by = neighbours(points // 2, recipe.bins)
    firsts = np.arange(0, points // 2, by)
    lasts = np.minimum(firsts + by, points // 2) - 1
    return (firsts + lasts) / 2 * (sample_rate / points)


def _read_spectrum(signals: np.ndarray | Tensor, recipe: Any, _rate: int) -> Tensor:
    return (spectrum if cut(recipe) else averaged_spectrum)(signals, recipe.bins)


VIEWS: dict[str, Callable[[np.ndarray | Tensor, Any, int], Tensor]] = {
    "spectrum": _read_spectrum,
    "log-spectrum": lambda x, recipe, rate: log_spectrum(x, recipe.bins, level_of(recipe)),
    "log-mel": lambda x, recipe, rate: log_mel(x, rate, recipe.bins, level_of(recipe)),
    "time": lambda x, recipe, rate: time_view(x, recipe.bins),
}
"""The views that networks read, by the name that a recipe gives: of signals, recipe and rate."""


def network_inputs(signals: np.ndarray | Tensor, recipe: Any, sample_rate: int) -> Tensor:
    """What a recipe's networks read of raw signals ``(n, samples)``: its view, ``(n, length)``."""
    if recipe.samples is not None:
        if signals.shape[1] < recipe.samples:
            raise DataError(
                "recordings",
                f"they have {signals.shape[1]} samples",
                expected=f"{recipe.samples} or more, as the recipe's samples says",
            )
        signals = signals[:, : recipe.samples]
    return VIEWS[recipe.view](signals, recipe, sample_rate)


def _samples(signals: np.ndarray | Tensor) -> int:
    if signals.ndim != 2 or signals.shape[1] < 3:
        raise ArgumentError(
            f"signals has shape {tuple(signals.shape)}; it must be (recordings, samples), with at "
            "least 3 samples. For one recording use signal[None]."
        )
    return signals.shape[1]


def _in_chunks(
    signals: np.ndarray | Tensor,
    view: Callable[[Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
    values: int = 0,
) -> Tensor:
    """``view``, a check and ``scale``, a chunk at a time, so that memory stays bounded.

    ``values`` are those that the view transforms of a recording, where they are more than samples.
    """
    most = max(_samples(signals), values)
    size, found, end = min(CHUNK, max(1, CHUNK_SAMPLES // most)), torch.empty(0, 0), 0
    for piece in pieces(signals, size):
        x = _as_tensor(piece)
        seen = view(x)
        start, end = end, end + len(x)
        _check(x, seen.amin(1), seen.amax(1), start)
        if len(x) == len(signals):
            return scale(seen)
        if not start:
            found = seen.new_empty(len(signals), seen.shape[1])
        found[start:end] = scale(seen)
    return found


def _min_max(x: Tensor) -> Tensor:
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return (x - low) / (high - low)


def _magnitudes(x: Tensor) -> Tensor:
    """|X_k| of each recording without its mean, LEAST_BINS values or more."""
    points = fourier_points(x.shape[1])
    return _magnitude(torch.fft.rfft(x - x.mean(1, keepdim=True), points)[:, : points // 2])


def _averaged(x: Tensor, bins: int | None) -> Tensor:
    return _mean_of(x[:, None], neighbours(x.shape[1], bins))[:, 0]


def _mean_of(x: Tensor, by: int) -> Tensor:
    """Means of ``by`` neighbours on the last axis of three."""
    return F.avg_pool1d(x, by, by, ceil_mode=True, count_include_pad=False)


def _decibels(x: Tensor, factor: float, level: str) -> Tensor:
    peak, least = x.amax(1, keepdim=True), 10 ** (-FLOOR / factor)
    if level == "kept":
        return factor / FLOOR * torch.log10(torch.maximum(x, peak * least))
    return factor / FLOOR * torch.log10((x / peak).clamp_min(least)) + 1


def _as_tensor(signals: np.ndarray | Tensor) -> Tensor:
    if isinstance(signals, np.ndarray) and not signals.flags.writeable:
        signals = signals.copy()  # torch warns of read-only memory maps
    return torch.as_tensor(signals, dtype=torch.float32)


def _magnitude(x: Tensor) -> Tensor:
    return (x.real.square() + x.imag.square()).sqrt_()  # Tensor.abs is half as fast on a CPU


def _check(x: Tensor, low: Tensor, high: Tensor, start: int) -> None:
    """Refuse recordings that would become NaN, and name the first."""
    mend = "leave this recording out or record it again"
    low, high = low.flatten(), high.flatten()
    finite = torch.isfinite(low) & torch.isfinite(high)  # NaN passes through min and max
    if not finite.all():
        row = start + int((~finite).nonzero()[0])
        raise DataError(f"recording {row}", "its values are not all finite", mend=mend)
    constant = (x.amax(1) == x.amin(1)) | (low == high)
    if constant.any():
        row = start + int(constant.nonzero()[0])
        raise DataError(
            f"recording {row}", "the signal is constant, so it cannot be scaled", mend=mend
        )
