"""What trainings cost each other, and what a busy program costs them, on this machine.

    python tests/benchmarks/bench_neighbours.py [--seconds 4]

Trainings of the library, each a process of its own, whose threads it chooses: one alone, two and
four that start at the same moment, one beside a busy loop. For comparison, one whose busy loop
begins after it, since the number of threads is fixed by then. A student (ResNet10-1D 1/16) and a
teacher (ResNet18-1D 1/4) read 875 values in batches of 32. Each ratio is to two threads alone with
OpenMP's default waiting, and is that of the slowest training. What runs alone is measured three
times in turn, and the fastest counts. It needs a machine on which nothing else runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import suppress

import torch
from torch.utils.data import TensorDataset

from hfld_lite.edge.analysis import processor
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import Network, Recipe
from hfld_lite.storage.cores import physical_cores, used_by_others
from hfld_lite.storage.threads import WISHES, threads_used

NETWORKS = {"student": Network(10, 1 / 16), "teacher": Network(18, 1 / 4)}
CLASSES, VALUES, BATCH, STEPS = 6, 875, 32, 6

TODAY = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"}
"""Two threads, and the spin count that GNU OpenMP has if nothing is said."""

CASES = [
    ("two threads", 1, TODAY, None, None),
    ("one alone", 1, {}, None, 1.10),
    ("two at once", 2, {}, None, 2.3),
    ("four at once", 4, {}, None, 4.6),
    ("one beside a busy loop", 1, {}, 0.0, 2.3),
    ("one, busy loop begins later", 1, {}, 4.0, None),
]
"""Name, trainings, environment, seconds after which a busy loop begins, and the highest ratio."""


SETTLED = 5.0
"""Seconds after which all train, and the busy loop of the last case has begun."""

LOOP = [sys.executable, "-c", "while True: pass"]


class _Enough(Exception):
    pass


def train(role: str, seconds: float) -> None:
    """Train when a line comes, and print the threads and ms a step, without the first epochs."""
    network = NETWORKS[role]
    rng = torch.Generator().manual_seed(0)
    count = BATCH * STEPS * 2
    inputs = torch.rand(count, VALUES, generator=rng)
    data = TensorDataset(inputs, torch.arange(count) % CLASSES)
    recipe = Recipe(
        teacher=network, student=network, batch_size=BATCH, validation=0.25, test=0.25, steps=10**6
    )
    print("ready", flush=True)
    sys.stdin.readline()
    began, times = time.perf_counter(), []

    def note(_role: str, row: dict) -> None:
        at = time.perf_counter() - began
        if at > SETTLED:
            times.append(1e3 * row["seconds"] / STEPS)
        if at > SETTLED + seconds and len(times) > 1:
            raise _Enough

    with suppress(_Enough):
        Trainer(data, recipe, progress=False, on_epoch=note).supervise(role)
    print(statistics.median(times), threads_used().count, flush=True)


def measure(role: str, count: int, env: dict, busy: float | None, seconds: float) -> list[tuple]:
    """Milliseconds a step and threads of so many trainings at once."""
    names = (*WISHES, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    given = {name: text for name, text in os.environ.items() if name not in names} | env
    command = [sys.executable, __file__, "--child", role, "--seconds", str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    trainings = [subprocess.Popen(command, env=given, **pipes) for _ in range(count)]
    loop = None
    try:
        for training in trainings:
            training.stdout.readline()
        if busy == 0:
            loop = subprocess.Popen(LOOP)
            time.sleep(0.3)
        for training in trainings:
            training.stdin.write("\n")
            training.stdin.flush()
        if busy:
            time.sleep(busy)
            loop = subprocess.Popen(LOOP)
        said = [training.communicate(timeout=300)[0].split() for training in trainings]
        return [(float(step), int(threads)) for step, threads in said]
    finally:
        for process in (*trainings, *([loop] if loop else [])):
            process.kill()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--child", choices=list(NETWORKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return train(options.child, options.seconds)
    print(f"{processor()}, {physical_cores()} cores, torch {torch.__version__}")
    if (others := used_by_others()[0]) > 0.2:
        print(f"Other programs use {others:.1f} cores now: the ratios are too high or too low.")
    missed = False
    for role in NETWORKS:
        print(f"\n{role:<30} threads   ms a step   ratio  at most")
        found = {
            name: measure(role, count, env, busy, options.seconds)
            for name, count, env, busy, _ in CASES
        }
        for _ in range(2):
            for name, count, env, busy, _ in CASES[:2]:
                found[name] = min(found[name], measure(role, count, env, busy, options.seconds))
        base = found[CASES[0][0]][0][0]
        for name, *_, most in CASES:
            step = max(step for step, _ in found[name])
            threads = ", ".join(str(count) for _, count in found[name])
            bad = most is not None and step > most * base
            missed |= bad
            target = "" if most is None else f"{most:>9.2f}  {'MISSED' if bad else 'met'}"
            print(f"{name:<30} {threads:<10} {step:8.1f} {step / base:7.2f}{target}")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
