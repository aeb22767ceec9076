"""What distillation costs beside plain training, at the published sizes.

    python tests/benchmarks/bench_distillation.py [--rounds 7] [--small]
    python tests/benchmarks/bench_distillation.py --accuracy 3

Student ResNet18-1D, teacher ResNet50-1D, batch 24, 3500 bins; one process, the same inputs, rivals
in turn, medians. Each line: what, the ratio, and the target. --small takes narrow networks, to try
the program itself. Memory is measured in processes of its own, by their peak resident size.
"""

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric

from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.distillation import Distiller, Supervised
from hfld_lite.evaluation.metrics import paired_interval
from hfld_lite.hierarchy import distill_chain
from hfld_lite.networks import POSITIONS, resnet1d
from hfld_lite.rivals.presets import preset
from hfld_lite.rivals.released import Published, PublishedDistiller
from hfld_lite.teachers import Batch, teacher_targets
from hfld_lite.training import _optimizer
from hfld_lite.weighting import TERMS, WEIGHTINGS

BATCH, BINS, CLASSES = 24, 3500, 6


def data(batches: int = 2) -> Batch:
    """Random inputs in [0, 1] of the published shape."""
    rng = torch.Generator().manual_seed(0)
    count = batches * BATCH
    target = torch.randint(CLASSES, (count,), generator=rng)
    return Batch(torch.rand(count, BINS, generator=rng), target, torch.arange(count))


def first(samples: Batch) -> Batch:
    """The first batch of the samples."""
    return Batch(*(part[:BATCH] for part in samples))


def stepper(objective, recipe) -> Callable[[], None]:
    """A training step of an objective, as `fit` takes it."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.precision)
    optimizer = _optimizer(objective, recipe)
    if hasattr(objective, "weigh"):
        objective.weigh.optimizer = optimizer
    model, optimizer = fabric.setup(objective, optimizer)
    batch = first(data())

    def step() -> None:
        model.train()
        total, _ = model(batch)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(total)
        optimizer.step()

    return step


def in_turn(rounds: int, *runs: Callable[[], object]) -> list[float]:
    """Median seconds of each, taken in turn after one uncounted round."""
    times = [[] for _ in runs]
    for round_ in range(rounds + 1):
        for run, seen in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if round_:
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def networks(small: bool):
    """Teacher and a maker of students."""
    width = 1 / 16 if small else 1.0
    head = "small" if small else "published"
    teacher = resnet1d(50, CLASSES, width, head)
    return teacher, lambda: resnet1d(18, CLASSES, width, head, 0.0)


def distiller(student, targets, strategy="fixed", every=10):
    """HFLKD on cached targets with one way to weigh the terms."""
    if strategy == "fixed":
        return Distiller(student, targets, dict.fromkeys(TERMS, 1.0))
    read, meta = (student.feature_channels, POSITIONS), first(data())
    kind = WEIGHTINGS[strategy]
    if not kind.meta_batches:
        return Distiller(student, targets, kind(*read))
    weighting = kind(*read, student, lambda: (meta.inputs, meta.target), 0.01, every)
    return Distiller(student, targets, weighting)


def say(what: str, ratio: float, target: float, most: bool = True) -> None:
    """One line of the result."""
    met = ratio <= target if most else ratio >= target
    bound = "at most" if most else "at least"
    print(
        f"{what:<66} {ratio:6.2f}  ({bound} {target:g}: {'met' if met else 'MISSED'})", flush=True
    )


def peak(kind: str, small: bool) -> float:
    """Peak MiB of a process of its own that takes three steps of a kind."""
    arguments = [sys.executable, __file__, "--peak", kind, *(["--small"] if small else [])]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def measure_peak(kind: str, small: bool) -> None:
    """Take three steps and print the peak resident size in MiB."""
    teacher, student = networks(small)
    recipe = preset("paper")
    if kind == "plain":
        del teacher
        objective = Supervised(student())
    else:
        shape = (2 * BATCH, teacher.feature_channels, POSITIONS)
        del teacher  # a cache that was filled earlier: the teacher is no longer there
        features, logits = torch.randn(shape), torch.randn(2 * BATCH, CLASSES)
        mean, deviation = torch.zeros(shape[1]), torch.ones(shape[1])
        from hfld_lite.teachers import TeacherTargets

        objective = distiller(student(), TeacherTargets(features, logits, mean, deviation))
    step = stepper(objective, recipe)
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare_accuracy(seeds: int) -> None:
    """Train the classroom's chain in float32 and in bf16, and compare students on VALIDATION."""
    runs, figures = [], {"32-true": [], "bf16-mixed": []}
    for seed in range(seeds):
        recordings = simulate_tiles(seed=700 + seed, tiles_per_class=40, progress=False)
        right = {}
        for precision, seen in figures.items():
            recipe = preset("classroom").replace(seed=seed, precision=precision)
            chain = distill_chain(recordings, recipe, controls=(), progress=False)
            validation = recordings.select(chain.split.validation)
            found = chain.detector.test(validation).predictions
            right[precision] = (found["student"] == found["class"]).to_numpy()
            seen.append(right[precision].mean())
        runs.append((right["bf16-mixed"], right["32-true"], found["group"].to_numpy()))
    for precision, seen in figures.items():
        print(f"{precision}: VALIDATION accuracy {', '.join(f'{x:.1%}' for x in seen)}")
    difference, low, high, _ = paired_interval(runs, np.random.default_rng(0))
    low, difference, high = (f"{100 * x:+.1f}" for x in (low, difference, high))
    print(f"bf16 against float32: {difference} points ({low} to {high})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--accuracy", type=int, metavar="SEEDS", help="of bf16 and float32, only")
    parser.add_argument("--peak", choices=["plain", "distilled"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return measure_peak(options.peak, options.small)
    if options.accuracy:
        return compare_accuracy(options.accuracy)
    torch.manual_seed(0)
    recipe, samples = preset("paper"), data()
    teacher, student = networks(options.small)
    targets = teacher_targets(teacher, samples.inputs, BATCH)
    bytes_each = targets.features[0].nbytes + targets.logits[0].nbytes
    print(f"cache: {bytes_each / 1e3:.1f} kB a recording, {len(samples.inputs)} recordings here")

    plain = stepper(Supervised(student()), recipe)
    distilled = stepper(distiller(student(), targets), recipe)
    one, other = in_turn(options.rounds, plain, distilled)
    print(f"plain step {one * 1e3:.0f} ms, distillation step {other * 1e3:.0f} ms")
    say("distillation step, cached teacher / plain step", other / one, 1.10)

    # One k-th step and k − 1 others make a cycle.
    every, few = recipe.meta_every, max(3, options.rounds // 2)
    for name, than, base in (("meta", "plain", plain), ("trusted", "fixed", distilled)):
        usual = stepper(distiller(student(), targets, name, every=10**9), recipe)
        kth = stepper(distiller(student(), targets, name, every=1), recipe)
        one, cheap, dear = in_turn(few, base, usual, kth)
        ratio = ((every - 1) * cheap + dear) / every / one
        say(f"{name}, amortised over {every} steps / {than} step", ratio, 1.35)

    def fill(precision: str) -> Callable[[], object]:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)

        def run() -> object:
            with fabric.autocast():
                return teacher_targets(teacher, many)  # in batches as the trainer has them

        return run

    many = data(6).inputs
    one, full, half = in_turn(few, plain, fill("32-true"), fill("bf16-mixed"))
    epochs = len(many) / BATCH
    say("filling the cache / plain epoch, per recording", full / one / epochs, 2.0)
    say("filling the cache in bf16 / plain epoch, per recording", half / one / epochs, 1.0)

    learner = student()
    weighting = Published(
        learner.feature_channels, POSITIONS, detach_input=False, hidden="published"
    )
    live = PublishedDistiller(learner, copy.deepcopy(teacher), weighting)
    live = stepper(live, preset("published"))
    ours, theirs = in_turn(few, distilled, live)
    spread = full * BATCH / len(many) / recipe.student.epochs  # one filling for all epochs
    say("published step, live teacher / our step", theirs / ours, 6, most=False)
    say("the same, filling the cache once included", theirs / (ours + spread), 6, most=False)

    square = torch.rand(2048, 2048)
    halved = square.bfloat16()
    one, other = in_turn(options.rounds, lambda: square @ square, lambda: halved @ halved)
    print(f"float32 / bf16, a product of 2048 x 2048 alone on this processor: {one / other:.2f}")
    fast = stepper(distiller(student(), targets), recipe.replace(precision="bf16-mixed"))
    one, other = in_turn(options.rounds, distilled, fast)
    say("float32 step / bf16 step (AVX512-BF16 or AMX)", one / other, 1.4, most=False)

    plain_peak, peak_ = peak("plain", options.small), peak("distilled", options.small)
    cache = bytes_each * 2 * BATCH / 2**20
    print(
        f"peak: plain {plain_peak:.0f} MiB, distilled {peak_:.0f} MiB, of it cache {cache:.1f} MiB"
    )
    say("peak of distillation / (plain + cache)", peak_ / (plain_peak + cache), 1.25)
    return None


if __name__ == "__main__":
    main()
