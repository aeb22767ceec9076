"""From recordings to what a network reads: spectrum or time view, scaled recording by recording.

Everything is done once, before training, in batches, with torch's FFT. Source: the preprocessing of
the HFLKD paper's released code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfld_lite.errors import ArgumentError, DataError

SCALING = "min-max per recording"
"""How runs name the scaling; change it when the values of the views change."""

CHUNK = 256
"""Recordings transformed at once: bounds memory, and is long enough to keep the FFT busy."""


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
    return _in_chunks(signals, bins, lambda x: _RAW["spectrum"](x, bins))


def time_view(signals: np.ndarray | Tensor, samples: int | None = None) -> Tensor:
    """The first samples of each recording themselves, scaled to [0, 1].

    Args, returns and raises as in :func:`spectrum`, with ``samples`` (default: all) for bins.
    """
    available = _samples(signals)
    samples = available if samples is None else samples
    if not 2 <= samples <= available:
        raise ArgumentError(f"samples is {samples}; the recordings have {available}.")
    return _in_chunks(signals, samples, lambda x: _RAW["time"](x, samples))


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


VIEWS: dict[str, Callable[[np.ndarray | Tensor, int | None], Tensor]] = {
    "spectrum": spectrum,
    "time": time_view,
}
"""The views that networks read, by the name that a recipe gives."""


def network_inputs(signals: np.ndarray | Tensor, recipe: Any) -> Tensor:
    """What a recipe's networks read of raw signals ``(n, samples)``: its view, scaled to [0, 1]."""
    if recipe.samples is not None:
        if signals.shape[1] < recipe.samples:
            raise DataError(
                "recordings",
                f"they have {signals.shape[1]} samples",
                expected=f"{recipe.samples} or more, as the recipe's samples says",
            )
        signals = signals[:, : recipe.samples]
    return VIEWS[recipe.view](signals, recipe.bins)


def _samples(signals: np.ndarray | Tensor) -> int:
    if signals.ndim != 2 or signals.shape[1] < 3:
        raise ArgumentError(
            f"signals has shape {tuple(signals.shape)}; it must be (recordings, samples), with at "
            "least 3 samples. For one recording use signal[None]."
        )
    return signals.shape[1]


def _in_chunks(
    signals: np.ndarray | Tensor, length: int, view: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply ``view`` and min-max scaling, a chunk at a time, so that memory stays bounded."""
    device = signals.device if isinstance(signals, Tensor) else None
    result = torch.empty(len(signals), length, device=device)
    for start in range(0, len(signals), CHUNK):
        chunk = signals[start : start + CHUNK]
        x = _as_tensor(chunk)
        seen = view(x)
        low, high = seen.amin(1, keepdim=True), seen.amax(1, keepdim=True)
        _check(x, low, high, start)
        result[start : start + CHUNK] = (seen - low) / (high - low)
    return result


def _as_tensor(signals: np.ndarray | Tensor) -> Tensor:
    if isinstance(signals, np.ndarray) and not signals.flags.writeable:
        signals = signals.copy()  # torch warns of read-only memory maps
    return torch.as_tensor(signals, dtype=torch.float32)


def _magnitude(x: Tensor) -> Tensor:
    return (x.real.square() + x.imag.square()).sqrt_()  # Tensor.abs is half as fast on a CPU


_RAW: dict[str, Callable[[Tensor, int], Tensor]] = {
    "spectrum": lambda x, bins: _magnitude(torch.fft.rfft(x)[:, :bins]),
    "time": lambda x, samples: x[:, :samples],
}


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
