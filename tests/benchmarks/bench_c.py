"""The student in C on this processor, float32 and int8, against ONNX Runtime on one thread.

    python tests/benchmarks/bench_c.py [--runs 500] [--rounds 5]

The demo's student (ResNet10-1D of width 1/16, six classes, view log-mel of 7,000 samples) with
random weights, since time does not depend on them; one recording at a time, in turn, medians of the
rounds. C is compiled by the exported Makefile's -O3, and by flags with which gcc 12 makes better
float32 code and worse int8 code. The processor's float instructions work on several values at
once; eight bits win on microcontrollers without these, which `hfld edge --on m3` shows.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.edge.analysis import latency, processor
from hfld_lite.edge.export import INPUT, quantise, session, to_onnx
from hfld_lite.edge.firmware import program_of
from hfld_lite.edge.host import HostLibrary
from hfld_lite.edge.integers import to_integers
from hfld_lite.evaluation.detector import Detector
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.presets import preset

CLASSES = ("AN", "AD", "BN", "BD", "CN", "CD")
FLOAT_RATIO, INT8_RATIO = 2.0, 1.0
OTHER = ("-O2", "-funroll-loops", "-ftree-slp-vectorize")


def main() -> None:
    """Measure and print; the exit status is 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signals = simulate_tiles("A", tiles_per_class=30, drops=1, seed=0).signals
    torch.manual_seed(0)
    network, recipe = resnet1d(10, len(CLASSES), 1 / 16, "small").eval(), preset("classroom")
    detector = Detector(recipe, {"student": network}, CLASSES, (), 40_000, signals.shape[1])
    inputs = detector.inputs(signals).numpy()
    program = program_of(detector)
    integers = to_integers(program, inputs)
    calls = {}
    for raw in (False, True):
        given = (
            {"recipe": recipe, "samples": detector.samples, "sample_rate": 40_000} if raw else {}
        )
        model, read = to_onnx(network, inputs.shape[1], **given), signals if raw else inputs
        for name, graph in (("fp32", model), ("int8", quantise(model, read))):
            feed = {INPUT: np.asarray(read[:1], np.float32)}
            calls["ONNX Runtime", name, "", raw] = partial(session(graph).run, None, feed)
    with tempfile.TemporaryDirectory() as place:
        for flags in ((), OTHER):
            for name, operations in (("fp32", program), ("int8", integers)):
                folder = Path(place) / f"{name}{len(flags)}"
                library = HostLibrary(detector, operations, folder, flags=flags)
                key = "C", name, " ".join(flags) or "-O3"
                calls[*key, False] = partial(library.network, inputs[0])
                calls[*key, True] = partial(library.predict, np.asarray(signals[0], np.float32))
        rounds = [
            {key: latency(call, runs=options.runs).p50 for key, call in calls.items()}
            for _ in range(options.rounds)
        ]
    print(f"{processor()}, one thread, {options.rounds} rounds of {options.runs} calls")
    times = {key: statistics.median(each[key] for each in rounds) for key in calls}
    for (runtime, name, flags, raw), found in times.items():
        ratio = found / times["ONNX Runtime", "fp32", "", raw]
        what = "raw samples" if raw else "network alone"
        print(
            f"{runtime:12} {name} {flags:40} {what:14} {1e3 * found:6.0f} us, {ratio:.2f} x ONNX "
            "Runtime's fp32"
        )
    exact, small = (
        statistics.median(each[above] / each[below] for each in rounds)
        for above, below in (
            (("C", "fp32", "-O3", True), ("ONNX Runtime", "fp32", "", True)),
            (("C", "int8", "-O3", True), ("C", "fp32", "-O3", True)),
        )
    )
    print(
        f"From raw samples, -O3: float32 in C / ONNX Runtime {exact:.2f} (at most {FLOAT_RATIO}); "
        f"int8 / float32 in C {small:.2f} (at most {INT8_RATIO})"
    )
    raise SystemExit(exact > FLOAT_RATIO or small > INT8_RATIO)


if __name__ == "__main__":
    main()
