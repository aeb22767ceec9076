"""How much faster students are when they are trained together, and what memory it takes.

    python tests/benchmarks/bench_together.py [--rounds 3]

Students of depth 10 and width 1/16, batches of 32, one thread; an epoch of 12 steps and validation,
by `fit` one after the other and by `fit_together`, in turn, medians. 720 values are the default
view log-mel of a recording of the simulator. Each student has its own inputs; "same batches" are
students that read the same. Memory is the peak of a process of its own beyond its data.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from hfld_lite.data.examples import Samples
from hfld_lite.distillation import Distiller, Supervised
from hfld_lite.evaluation.together import Member, fit_together
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.teachers import TeacherTargets
from hfld_lite.training import fit, make_fabric
from hfld_lite.weighting import TERMS

CLASSES, TRAINED, VALIDATED, TARGET = 6, 12 * 32, 100, 2.0
RECIPE = Recipe(batch_size=32)
SMALLEST = (10, 1 / 16)
CASES = [
    *((count, 875, *SMALLEST, kind) for kind in ("alone", "hflkd") for count in (4, 8, 16)),
    (8, 720, *SMALLEST, "alone"),
    (8, 720, *SMALLEST, "hflkd"),
    (8, 875, *SMALLEST, "same batches"),
    (8, 3500, *SMALLEST, "alone"),
    (5, 720, 18, 1 / 8, "hflkd"),
    (5, 720, 18, 1 / 4, "alone"),
]


def samples(count: int, bins: int, seed: int) -> Samples:
    """Random inputs and classes."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, bins, generator=rng)
    return Samples(inputs, torch.randint(CLASSES, (count,), generator=rng))


def members(count: int, bins: int, depth: int, width: float, kind: str) -> list[Member]:
    """The trainings of one case, by fresh networks."""
    made, data = [], None
    for seed in range(count):
        torch.manual_seed(seed)
        objective = Supervised(resnet1d(depth, CLASSES, width, "small"))
        if kind != "alone":
            features, logits = torch.randn(TRAINED, 64, 9), torch.randn(TRAINED, CLASSES)
            targets = TeacherTargets(features, logits, torch.zeros(64), torch.ones(64))
            objective = Distiller(objective.student, targets, dict.fromkeys(TERMS, 1.0))
        if data is None or kind != "same batches":
            data = samples(TRAINED, bins, seed), samples(VALIDATED, bins, seed)
        order = 0 if kind == "same batches" else seed
        made.append(Member(f"student {seed}", objective, *data, RECIPE, 1, order))
    return made


def one_by_one(trained: list[Member]) -> None:
    """Train each by `fit`."""
    for m in trained:
        data = (m.objective, m.train, m.validation, m.recipe, m.epochs)
        fit(*data, seed=m.seed, progress=False, fabric=FABRIC)


def at_once(trained: list[Member]) -> None:
    """Train all by `fit_together`."""
    fit_together(trained, progress=False, fabric=FABRIC)


WAYS = {"one by one": one_by_one, "together": at_once}


def resident(name: str) -> float:
    """The process's resident memory, MiB: VmRSS now, VmHWM at its peak (Linux)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(way: str, case: int) -> None:
    """Print the peak memory of one way beyond what its data and networks take."""
    trained = members(*CASES[case])
    WAYS[way](members(2, 300, *SMALLEST, "hflkd"))  # what is loaded at the first use
    before = resident("VmRSS")
    WAYS[way](trained)
    print(resident("VmHWM") - before)


def peak(way: str, case: int) -> float:
    """The same, in a process of its own."""
    call = [sys.executable, __file__, "--peak", way, "--case", str(case)]
    return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print."""
    global FABRIC
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    FABRIC = make_fabric(RECIPE)
    if options.peak:
        measure(options.peak, options.case)
        return
    head = f"{'networks':>8} {'values':>6} {'network':>10}  {'objective':<12} one by one   together"
    print(f"{head}   ratio   memory, MiB")
    for case, (count, bins, depth, width, kind) in enumerate(CASES):
        times = {way: [] for way in WAYS}
        for round_ in range(options.rounds + 1):
            for way, train in WAYS.items():
                trained = members(count, bins, depth, width, kind)
                began = time.perf_counter()
                train(trained)
                if round_:
                    times[way].append(time.perf_counter() - began)
        one, other = (statistics.median(seen) for seen in times.values())
        memory = " and ".join(f"{peak(way, case):.0f}" for way in WAYS)
        network = f"{depth}, 1/{1 / width:.0f}"
        print(
            f"{count:>8} {bins:>6} {network:>10}  {kind:<12} {one:8.2f} s {other:8.2f} s "
            f"{one / other:7.2f}   {memory}",
            flush=True,
        )
        if (count, bins, depth, width) == (8, 875, *SMALLEST):
            print(f"{'':>8} at least {TARGET:g}: {'met' if one / other >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
