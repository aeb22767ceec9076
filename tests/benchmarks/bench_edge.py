"""What one recording costs on this processor: FP32 against INT8, torch against ONNX Runtime.

    python tests/benchmarks/bench_edge.py [--runs 500] [--rounds 3] [--threads 1 2] [--small]

Measure on a quiet machine: nothing else running, the clock not throttled (a laptop on mains), the
same threads throughout; INT8 needs VNNI or its like to be fast, so the processor is named. Batch 1,
50 warm-ups, medians of --runs calls; rivals in turn, --rounds times, and the median of the rounds.
Networks have random weights, since time does not depend on them; inputs are simulated tiles, 175 ms
at 40 kHz. --small takes a narrow teacher and few calls, to try the program itself.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.views import network_inputs
from hfld_lite.edge.analysis import latency
from hfld_lite.edge.export import INPUT, quantise, quantise_dynamically, session, to_onnx
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.presets import preset

CLASSES, CALIBRATION = 6, 60
RECORDING_MS = 175.0
INT8_RATIO, TEACHER_RATIO, REAL_TIME_RATIO = 2.5, 50, 50
WIDTHS = {"1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "1": 1.0}


def processor() -> str:
    """The processor's name, and whether it has instructions for products of eight bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    facts = {key.strip(): value for key, value in facts.items()}
    vnni = "vnni" in facts.get("flags", "") or "asimddp" in facts.get("Features", "")
    return f"{facts.get('model name', platform.machine())}, {'with' if vnni else 'without'} VNNI"


def in_turn(options: argparse.Namespace, threads: int, *runs: Callable[[], object]) -> list[float]:
    """Median ms of each: its p50 in every round, taken in turn, and the median of the rounds."""
    seen = [
        [latency(run, threads, options.warmups, options.runs).p50 for run in runs]
        for _ in range(options.rounds)
    ]
    return [statistics.median(column) for column in zip(*seen, strict=True)]


def in_onnx(model: onnx.ModelProto, threads: int, row: np.ndarray) -> Callable[[], object]:
    """One input through ONNX Runtime; the session holds the threads."""
    made, feed = session(model, threads), {INPUT: np.ascontiguousarray(row[None], np.float32)}
    return lambda: made.run(None, feed)


def in_torch(network: torch.nn.Module, row: np.ndarray) -> Callable[[], object]:
    """One input through torch."""
    network, x = network.eval(), torch.as_tensor(row[None])

    @torch.inference_mode()
    def run() -> object:
        return torch.softmax(network(x).logits, 1)

    return run


def say(what: str, ratio: float, target: float | None = None) -> None:
    """One line: a ratio, and whether it reaches its target."""
    verdict = ""
    if target is not None:
        verdict = f"  (at least {target:g}: {'met' if ratio >= target else 'MISSED'})"
    print(f"{what:<66} {ratio:8.2f}{verdict}", flush=True)


def compare_precisions(
    name: str, network: torch.nn.Module, inputs: np.ndarray, options: argparse.Namespace
) -> None:
    """FP32 in torch and ONNX Runtime, static and dynamic INT8, on each number of threads."""
    row, model = inputs[0], to_onnx(network, inputs.shape[1])
    small, dynamic = quantise(model, inputs[:CALIBRATION]), quantise_dynamically(model)
    for threads in options.threads:
        runs = [in_onnx(m, threads, row) for m in (model, small, dynamic)]
        full, static, changing, torchs = in_turn(options, threads, *runs, in_torch(network, row))
        print(
            f"\n{name}, {threads} thread{'s' * (threads > 1)}: torch {torchs:.3f} ms; ONNX Runtime "
            f"FP32 {full:.3f} ms, static INT8 {static:.3f} ms, dynamic INT8 {changing:.3f} ms"
        )
        say("  torch FP32 / ONNX Runtime FP32", torchs / full)
        say("  FP32 / static INT8, both in ONNX Runtime", full / static, INT8_RATIO)
        say("  FP32 / dynamic INT8 (below 1: it made the network slower)", full / changing)


def compare_preprocessing(
    network: torch.nn.Module, signals: np.ndarray, rate: int, options: argparse.Namespace
) -> None:
    """A recording from raw samples: the view in the graph, and the view in torch before it."""
    recipe, raw = preset("demo"), signals[0]
    inputs = network_inputs(signals, recipe, rate).numpy()
    bare = to_onnx(network, inputs.shape[1])
    whole = to_onnx(
        network, inputs.shape[1], recipe=recipe, samples=signals.shape[1], sample_rate=rate
    )
    alone = in_onnx(bare, 1, inputs[0])
    session_ = session(bare, 1)

    def outside() -> object:
        return session_.run(None, {INPUT: network_inputs(raw[None], recipe, rate).numpy()})

    small = quantise(whole, signals[:CALIBRATION])
    runs = [alone, outside, in_onnx(whole, 1, raw), in_onnx(small, 1, raw)]
    view_only, before, inside, eight = in_turn(options, 1, *runs)
    print(
        f"\nfrom raw samples, 1 thread: network alone {view_only:.3f} ms; view in torch before it "
        f"{before:.3f} ms; view in the graph {inside:.3f} ms, with INT8 {eight:.3f} ms"
    )
    say("  view in torch / view in the graph", before / inside)
    say("  with the view in the graph / network alone", inside / view_only)
    say("  FP32 / static INT8, view in the graph in both", inside / eight)
    fastest = min(before, inside, eight)
    print(f"  target: {RECORDING_MS / REAL_TIME_RATIO:g} ms for a recording of {RECORDING_MS:g} ms")
    say(
        "  recording's length / its classification, raw, 1 thread",
        RECORDING_MS / inside,
        REAL_TIME_RATIO,
    )
    say("  the same, the fastest of the three ways", RECORDING_MS / fastest, REAL_TIME_RATIO)


def compare_teacher(
    student: torch.nn.Module, inputs: np.ndarray, options: argparse.Namespace
) -> None:
    """The student against the published teacher, ResNet50-1D, both FP32."""
    width, head = (1 / 8, "small") if options.small else (1.0, "published")
    teacher, row = resnet1d(50, CLASSES, width, head), inputs[0]
    few = argparse.Namespace(**{**vars(options), "runs": max(3, options.runs // 10)})
    few.warmups = min(few.warmups, 5)  # the teacher's calls take long, and need fewer
    print("\npublished teacher (ResNet50-1D) / student, 1 thread, FP32")
    for name, make in (
        ("torch", in_torch),
        ("ONNX Runtime", lambda n, r: in_onnx(to_onnx(n, len(r)), 1, r)),
    ):
        large, small = in_turn(few, 1, make(teacher, row), make(student, row))
        print(f"  {name}: teacher {large:.1f} ms, student {small:.3f} ms")
        say(f"  teacher / student in {name}", large / small, TEACHER_RATIO)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmups", type=int, default=50)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.runs, options.rounds, options.warmups = 5, 1, 1
    torch.manual_seed(0)
    recordings = simulate_tiles("ABC", tiles_per_class=6, drops=2, seed=0)
    signals = np.asarray(recordings.signals, np.float32)
    recipe = preset("demo")
    inputs = network_inputs(signals, recipe, recordings.sample_rate).numpy()
    print(
        f"{processor()}; torch {torch.__version__}; {signals.shape[1]} samples, "
        f"{inputs.shape[1]} bins; batch 1, medians"
    )
    chosen = recipe.student
    networks = {
        f"demo's student (ResNet{chosen.depth}-1D, width {chosen.width:g})": resnet1d(
            chosen.depth, CLASSES, chosen.width, chosen.head
        )
    }
    student = next(iter(networks.values()))
    for name, width in WIDTHS.items():
        if not options.small or width <= 1 / 4:
            networks[f"the same at width {name}"] = resnet1d(
                chosen.depth, CLASSES, width, chosen.head
            )
    for name, network in networks.items():
        compare_precisions(name, network, inputs, options)
    compare_preprocessing(student, signals, recordings.sample_rate, options)
    compare_teacher(student, inputs, options)


if __name__ == "__main__":
    main()
