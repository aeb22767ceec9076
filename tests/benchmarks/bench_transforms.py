"""How fast `spectrum` is against NumPy one recording at a time, and how much memory it takes.

    python tests/benchmarks/bench_transforms.py [recordings]

Both run in this process, one after the other, on the same recordings. The published code scaled
recordings one by one, with Python's built-in min and max; that is measured on a subset, and the
time per recording is compared.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from hfld_lite.data.views import CHUNK, spectrum

SAMPLES = 7000
SUBSET = 200
ROUNDS = 3
TARGET_RATIO, TARGET_MEMORY = 5.0, 1024.0


def published(signals: np.ndarray) -> np.ndarray:
    """Scale one by one, as the published code did."""
    result = np.empty((len(signals), SAMPLES // 2))
    for i, signal in enumerate(signals):
        magnitude = np.abs(np.fft.rfft(signal))[: SAMPLES // 2]
        low, high = min(magnitude), max(magnitude)
        result[i] = (magnitude - low) / (high - low)
    return result


def vectorised(signals: np.ndarray) -> np.ndarray:
    """Scale one by one, but with NumPy's min and max: a harder rival."""
    result = np.empty((len(signals), SAMPLES // 2))
    for i, signal in enumerate(signals):
        magnitude = np.abs(np.fft.rfft(signal))[: SAMPLES // 2]
        low = magnitude.min()
        result[i] = (magnitude - low) / (magnitude.max() - low)
    return result


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_seconds(run: Callable[[], object]) -> float:
    """Median over a few rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def verdict(met: bool) -> str:
    """A word for a target."""
    return "met" if met else "MISSED"


def main() -> int:
    """Print the figures; 1 if a target is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    signals = np.random.default_rng(0).standard_normal((count, SAMPLES), dtype=np.float32)
    subset = signals[:SUBSET]
    spectrum(signals[:CHUNK])  # loads and plans
    before = peak_mib()
    inputs = spectrum(signals)
    memory = peak_mib() - before
    difference = np.abs(inputs[: len(subset)].numpy() - published(subset)).max()
    del inputs
    ours = median_seconds(lambda: spectrum(signals)) / count
    theirs = median_seconds(lambda: published(subset)) / len(subset)
    harder = median_seconds(lambda: vectorised(subset)) / len(subset)

    print(f"{count} recordings of {SAMPLES} samples, {torch.get_num_threads()} threads, medians")
    print(f"of {ROUNDS} rounds in one process; the rivals are timed on {len(subset)} recordings.")
    print(f"spectrum             {ours * 1e6:9.1f} µs a recording, {ours * count:.2f} s in all")
    print(f"one by one, built-in {theirs * 1e6:9.1f} µs a recording")
    print(f"one by one, NumPy    {harder * 1e6:9.1f} µs a recording")
    print(f"largest difference between the results: {difference:.1e}")
    ratio, met = theirs / ours, theirs / ours >= TARGET_RATIO
    print(f"ratio to built-in min and max: {ratio:.1f} (target {TARGET_RATIO:g}: {verdict(met)})")
    print(f"ratio to NumPy's min and max: {harder / ours:.1f}")
    small = memory < TARGET_MEMORY
    print(
        f"peak memory above the input: {memory:.0f} MiB, the result's "
        f"{count * (SAMPLES // 2) * 4 / 2**20:.0f} MiB among them "
        f"(target below {TARGET_MEMORY:g} MiB: {verdict(small)})"
    )
    return 0 if met and small else 1


if __name__ == "__main__":
    sys.exit(main())
