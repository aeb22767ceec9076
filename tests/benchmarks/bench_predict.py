"""How many files a second `hfld predict` answers, from the first file to the last, on one core.

python tests/benchmarks/bench_predict.py [files] [run folder]

The files are simulated tiles of 0.175 s (7000 samples at 40 kHz), each its own recording; without a
run folder a small chain is trained, whose networks are as large as those of the demo. The one
start of the command, a few seconds, does not count.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from hfld_lite import distill_chain, simulate_tiles
from hfld_lite.app.answers import Answers
from hfld_lite.app.files import given_files
from hfld_lite.app.output import growing_output
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.edge.analysis import processor, threads, with_costs
from hfld_lite.rivals.presets import preset

ROUNDS = 3
TARGET = 300.0
RATE = 40_000


def make_files(folder: Path, count: int) -> None:
    """Write simulated recordings, each with noise of its own, into ten folders."""
    recordings = simulate_tiles("ABC", tiles_per_class=30, drops=2, seed=9)
    rng = np.random.default_rng(0)
    for i in range(count):
        x = recordings.signals[i % len(recordings)]
        x = x + 1e-3 * np.abs(x).max() * rng.standard_normal(len(x))
        file = folder / f"line{i % 10}" / f"{i:06}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.9 * x / np.abs(x).max(), RATE, subtype="PCM_16")


def make_run(folder: Path) -> Path:
    """A run whose networks have the demo's sizes, of few steps."""
    recordings = simulate_tiles("ABC", tiles_per_class=20, drops=2, seed=3)
    chain = distill_chain(recordings, preset("demo").replace(steps=10), progress=False)
    with new_run(folder) as part:
        result = with_costs(chain.test(recordings), chain.detector, recordings.signals[0])
        save_run(part, chain, result, recordings, {"simulated": {"seed": 3}})
    return folder


def answer(run: Path, files: Path, output: Path) -> tuple[float, float, float]:
    """Seconds to find all files, to answer them, as the command does, and of the processor."""
    answers = Answers(load_run(run), "student")
    for _ in answers.each(list(given_files([files]))[:1]):  # loads what the first file needs
        pass
    start, busy = time.perf_counter(), time.process_time()
    found = list(given_files([files]))
    listed = time.perf_counter()
    with threads(1), growing_output(output, answers.columns) as table:
        for batch in answers.each(found):
            table.add(answers.fields(row) for one in batch for row in one.rows)
    return listed - start, time.perf_counter() - listed, time.process_time() - busy


def main() -> int:
    """Print the figures; 1 if the target is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_files(folder / "files", count)
        run = Path(sys.argv[2]) if len(sys.argv) > 2 else make_run(folder / "run")
        times = [answer(run, folder / "files", folder / "answers.csv") for _ in range(ROUNDS)]
        assert len(pd.read_csv(folder / "answers.csv")) == count
        tracemalloc.start()
        answer(run, folder / "files" / "line0", folder / "few.csv")
        few = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        answer(run, folder / "files", folder / "all.csv")
        peak = tracemalloc.get_traced_memory()[1]
    print(f"{processor()}, {os.cpu_count()} cores, one used; {count} files of 0.175 s")
    for listing, seconds, busy in times:
        print(
            f"  found in {1e3 * listing:.0f} ms, answered in {seconds:.2f} s: "
            f"{count / seconds:.0f} files a second, {count / busy:.0f} a second of processor time"
        )
    print(
        f"memory of Python's objects and arrays at its peak: {few / 1e6:.1f} MB for {count // 10} "
        f"files, {peak / 1e6:.1f} MB for {count}"
    )
    rate = max(count / (listing + seconds) for listing, seconds, _ in times)
    word = "met" if rate >= TARGET else "MISSED"
    print(f"best of {ROUNDS}: {rate:.0f} files a second (target {TARGET:g}: {word})")
    return 0 if rate >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
