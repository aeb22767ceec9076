"""How long a step takes when one training is divided between two processes.

    python tests/benchmarks/bench_parallel.py [--rounds 2]

The teacher (depth 18, width 1/4, from labels) and the student (depth 10, width 1/16, from both) of
the preset classroom on simulated tiles, batches of 32 and of 128: one process with one thread, one
with two threads, two processes with a thread each. A step's time is that of the fastest epoch with
its validation, over the steps; each way runs in processes of its own, in turn.
"""

import argparse
import json
import os
import platform
import subprocess
import sys

from hfld_lite import Network, Recipe, distill_chain, simulate_tiles

WAYS = {"1 × 1 thread": (1, 1), "1 × 2 threads": (1, 2), "2 × 1 thread": (2, 1)}


def measure(devices: int, size: int) -> None:
    """Print the milliseconds of a step by role."""
    recipe = Recipe(
        teacher=Network(18, 1 / 4, epochs=5),
        secondary_teachers=(),
        student=Network(10, 1 / 16, epochs=10),
        batch_size=size,
    )
    data = simulate_tiles("ABC", tiles_per_class=60, drops=2, seed=3)
    chain = distill_chain(data, recipe, controls=(), devices=devices, progress=False)
    steps = len(chain.split.train) // size
    print(
        json.dumps(
            {r: 1e3 * s.fit.history["seconds"].min() / steps for r, s in chain.stages.items()}
        )
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; ms a step")
    for size in (32, 128):
        found: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for way, (devices, threads) in WAYS.items():
                call = [sys.executable, __file__, "--one", str(devices), str(size)]
                env = os.environ | {"OMP_NUM_THREADS": str(threads)}
                done = subprocess.run(call, env=env, capture_output=True, text=True, check=True)
                for role, value in json.loads(done.stdout.splitlines()[-1]).items():
                    known = found.setdefault(role, {})
                    known[way] = min(value, known.get(way, value))
        for role, times in found.items():
            one = times["1 × 1 thread"]
            said = ", ".join(f"{way} {ms:.1f} ({ms / one:.2f})" for way, ms in times.items())
            print(f"batch {size:>3}  {role:<8} {said}", flush=True)


if __name__ == "__main__":
    main()
