"""Augmentation: pitch, time, loudness and noise are varied at random, in every step.

It applies to raw signals, before the view that networks read. A teacher's outputs for the original
recordings are not its outputs for these, so with augmentation the teacher runs in every step.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hfld_lite.errors import ArgumentError, RecipeError
from hfld_lite.storage.models import Real, choices

FINER = 4
"""Points between samples, times this many, before linear interpolation: the loss at the highest
frequency is sinc²(1/8), 5 %, instead of 60 %."""


NotNegative = Annotated[Real, Field(ge=0)]


@choices()
class Augmentation:
    """How far recordings are varied while networks learn from them; see :func:`augment`.

    Attributes:
        noise: lowest and highest ratio of the recording's power to the added noise's, dB; None
            for no noise.
        shift: the impact comes earlier or later by this at most, ms.
        gain: louder or softer by this at most, dB.
        frequency: all frequencies higher or lower by this share at most, no unit. Keep it within
            what sound parts differ by, or networks learn to ignore a defect's shift.
    """

    noise: tuple[Real, Real] | None = (10.0, 40.0)
    shift: NotNegative = 2.0
    gain: Annotated[NotNegative, Field(le=60)] = 6.0
    frequency: Annotated[NotNegative, Field(le=0.2)] = 0.005

    def __post_init__(self) -> None:
        if self.noise is not None and self.noise[0] > self.noise[1]:
            raise RecipeError(
                f"The augmentation's noise is {self.noise}; it must be the lowest and the highest "
                "ratio in dB, or null for none."
            )


def augment(
    signals: Tensor, sample_rate: int, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Draw another version of each recording.

    With ε, s, g and r drawn uniformly for each recording::

        y(t) = 10^(g/20) · x((1 + ε)(t − s)) + n(t)

    Every frequency is multiplied by 1 + ε, the impact comes s later, and y is 0 where x is unknown.
    n is white Gaussian noise r dB below x, whatever g is, so a weaker impact (g < 0) has the same
    noise. Views scale each recording to [0, 1], so gain has no effect on them without noise.

    Args:
        signals: ``(n, samples)``, float32; not changed.
        sample_rate: Hz.
        augmentation: the ranges of ε (no unit), s (ms), g (dB) and r (dB).
        generator: on the device of the signals; its draws do not depend on the ranges.

    Returns:
        float32 ``(n, samples)`` on the same device.

    Raises:
        ArgumentError: if the shift is longer than a quarter of a recording.
    """
    count, samples = signals.shape
    check_shift(augmentation, samples, sample_rate)
    drawn = torch.rand(4, count, 1, generator=generator, device=signals.device)
    epsilon, shift, gain = (2 * drawn[:3] - 1).unbind()
    result = signals
    if augmentation.frequency or augmentation.shift:
        late = (shift * augmentation.shift * sample_rate / 1000).round()
        result = moved(signals, 1 + augmentation.frequency * epsilon, late)
    result = result * 10 ** (augmentation.gain * gain / 20)
    if augmentation.noise is not None:
        low, high = augmentation.noise
        ratio = low + (high - low) * drawn[3]
        level = signals.square().mean(1, keepdim=True).sqrt() * 10 ** (-ratio / 20)
        white = torch.randn(count, samples, generator=generator, device=signals.device)
        result = result + level * white
    return result


def check_shift(augmentation: Augmentation, samples: int, sample_rate: int) -> None:
    """Refuse a shift that would move the impact out of the recording."""
    longest = samples / sample_rate * 1000 / 4
    if augmentation.shift > longest:
        raise ArgumentError(
            f"The augmentation's shift is {augmentation.shift:g} ms; recordings of {samples} "
            f"samples at {sample_rate} Hz allow {longest:.3g} ms at most, a quarter of them."
        )


def moved(signals: Tensor, factor: Tensor, late: Tensor) -> Tensor:
    """x(factor · (t − late)), with t and late in samples; 0 outside of x."""
    samples = signals.shape[1]
    fine = torch.fft.irfft(torch.fft.rfft(signals), n=FINER * samples) * FINER
    place = (torch.arange(samples, device=signals.device) - late) * factor
    inside = (place >= 0) & (place <= samples - 1)
    place = place.clamp(0, samples - 1) * FINER
    below = place.floor().clamp_max(FINER * samples - 2)
    share = place - below
    below = below.long()
    found = fine.gather(1, below) * (1 - share) + fine.gather(1, below + 1) * share
    return found * inside
