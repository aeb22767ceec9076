"""How many recordings a second the simulator makes.

python tests/benchmarks/bench_simulate.py [tiles per class]
"""

import os
import statistics
import sys
import time

from hfld_lite.data.simulator.simulate import simulate_tiles

ROUNDS = 3
TARGET = 400.0


def main() -> int:
    """Print the figure; 1 if the target is missed."""
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    simulate_tiles("A", 1, 1)  # loads and plans
    times = []
    for seed in range(ROUNDS):
        start = time.perf_counter()
        count = len(simulate_tiles("ABC", tiles, 5, seed=seed))
        times.append(time.perf_counter() - start)
    rates = [count / seconds for seconds in times]
    rate = statistics.median(rates)
    print(f"{count} recordings of 7000 samples, {ROUNDS} rounds on {os.cpu_count()} cores:")
    print("recordings a second: " + ", ".join(f"{r:.0f}" for r in rates))
    word = "met" if rate >= TARGET else "MISSED"
    print(f"median: {rate:.0f} a second (target {TARGET:g} on two cores: {word})")
    return 0 if rate >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
