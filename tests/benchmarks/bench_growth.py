"""How time and memory grow with the number of recordings, from reading to evaluation.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_growth.py [--sizes N …] [--files N …]

A prepared folder of each size is made of simulated tiles, each varied in gain and noise; it is
read, split and looked through, and a student learns from labels for one epoch, with the views in
memory and read from the folder step by step. Each size and each of these two ways has a process of
its own. The last table is of separate WAV files.

*processor* is the time that the process used; it is compared, since other programs change the time
on the clock. *peak* is the most that the process held in a step (VmHWM): pages of the memory-mapped
file count, although the system can take them back; *own* is the part that it cannot take back,
sampled 20 times a second (RssAnon + RssShmem).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))
from _study import forget_peak, peak_mib, write_table

from hfld_lite import read_folder, simulate_tiles
from hfld_lite.data import prepared
from hfld_lite.data.examples import Examples
from hfld_lite.data.splits import split
from hfld_lite.distillation import Supervised
from hfld_lite.edge.analysis import processor
from hfld_lite.evaluation.detector import Detector, trust_of
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import file_digest, write_whole
from hfld_lite.teachers import teacher_targets
from hfld_lite.training import fit

SAMPLES, RATE = 7000, 40_000
LINEAR, MEMORY = 1.2, 2048.0
"""Time a recording at the largest size against the size before, and MiB at any."""

CHUNK = 500
WAYS = ("in memory", "step by step")


def make(folder: Path, count: int) -> None:
    """Write a prepared folder a chunk at a time, so that making it needs no memory either."""
    tiles = simulate_tiles(seed=0, tiles_per_class=50, drops=2)
    rng, rows = np.random.default_rng(count), np.arange(count)
    which = (202 * (rows // 2) + rows % 2) % len(tiles)  # both drops of a tile, of all classes
    tiles.save(folder)
    arrays = {
        "labels": tiles.labels[which],
        "groups": np.array([f"tile {row // 2}" for row in rows]),
        "origins": np.array([f"made.npy:{row}" for row in rows]),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    path = folder / "signals.npy"
    signals = np.lib.format.open_memmap(path, "w+", np.float32, (count, SAMPLES))
    for start in range(0, count, CHUNK):
        clean = tiles.signals[which[start : start + CHUNK]]
        gains = rng.uniform(0.5, 1, (len(clean), 1)).astype(np.float32)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        signals[start : start + CHUNK] = gains * clean + 1e-3 * noise
    del signals
    manifest = json.loads((folder / prepared.MANIFEST).read_text())
    sums = {name: file_digest(folder / name) for name in manifest["sha256"]}
    write_whole(folder / prepared.MANIFEST, json.dumps(manifest | {"count": count, "sha256": sums}))


def own_mib() -> float:
    """What the process holds and the system cannot take back, MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024


@contextmanager
def measured(step: str) -> Iterator[None]:
    """Print what a step took, as a line of JSON."""
    most, done = [own_mib()], threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            most.append(own_mib())

    forget_peak()
    watch = threading.Thread(target=sample)
    watch.start()
    began, processor_began = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        used, seconds = time.process_time() - processor_began, time.perf_counter() - began
        done.set()
        watch.join()
    figures = {"seconds": seconds, "processor": used, "peak": peak_mib(), "own": max(most)}
    print(json.dumps({"step": step, **figures}), flush=True)


def run(folder: Path, way: str) -> None:
    """All steps on a prepared folder, in this process."""
    recipe, in_memory = Recipe(student=Recipe().student), way == WAYS[0]
    _warm_up(recipe)
    with measured("reading"):
        recordings = read_folder(folder)
    with measured("what looks wrong"):
        recordings.summary()
    with measured("splitting"):
        parts = split(recordings)
    with measured("view"):
        examples = Examples.of(recordings, recipe, in_memory)
    with measured("epoch of the student"):
        objective = Supervised(_network(recipe.student))
        samples = [examples.samples(rows) for rows in (parts.train, parts.validation)]
        fit(objective, *samples, recipe, 1, seed=0, progress=False)
    with measured("answers of a teacher"):
        targets = teacher_targets(_network(recipe.secondary_teachers[0]), samples[0].inputs)
    del targets, samples, examples
    names = (recordings.class_names, recordings.normal_classes)
    networks = {"student": objective.student}
    detector = Detector(recipe, networks, *names, recordings.sample_rate, recordings.samples)
    with measured("evaluation"):
        detector.test(recordings, parts.test)
    with measured("limits of unsure"):
        trust_of(detector, recordings, parts, detector.predictor("student"))


def _network(spec: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return resnet1d(spec.depth, 6, spec.width, spec.head).eval()


def _warm_up(recipe: Recipe) -> None:
    """Load what is loaded at first use, so that no step pays for it."""
    few = simulate_tiles(tiles_per_class=10, drops=1)
    parts, examples = split(few), Examples.of(few, recipe)
    few.summary()
    samples = [examples.samples(rows) for rows in (parts.train, parts.validation)]
    fit(Supervised(_network(recipe.student)), *samples, recipe, 1, seed=0, progress=False)


def run_files(folder: Path) -> None:
    """Read a folder of WAV files in this process."""
    with measured("reading"):
        read_folder(folder, samples=SAMPLES)


def make_files(folder: Path, count: int) -> None:
    """Write WAV files of tiles in a folder for each class."""
    tiles = simulate_tiles(seed=0, tiles_per_class=50, drops=2)
    for name in tiles.class_names:
        (folder / name).mkdir(parents=True)
    for row in range(count):
        which = 101 * row % len(tiles)  # of all classes
        name = folder / tiles.class_names[tiles.labels[which]] / f"{row}.wav"
        soundfile.write(name, tiles.signals[which] * (1 - row / count / 2), RATE)


def child(*arguments: object) -> pd.DataFrame:
    """The lines that a process of its own prints."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return pd.DataFrame([json.loads(line) for line in done.stdout.splitlines()])


def table_of(sizes: list[int], files: list[int], place: Path | None) -> pd.DataFrame:
    """A row for each size, way and step."""
    found = []
    jobs = [("prepared", size) for size in sizes] + [("files", size) for size in files]
    for kind, size in jobs:
        with tempfile.TemporaryDirectory(dir=place) as above:
            free, folder = shutil.disk_usage(above).free, Path(above) / "data"
            if free < 1.5 * size * SAMPLES * 4:
                sys.exit(f"{above} has {free / 1e9:.1f} GB free, too little for {size} recordings.")
            (make if kind == "prepared" else make_files)(folder, size)
            for way in WAYS if kind == "prepared" else ("WAV files",):
                print(f"{size} recordings, {way}", file=sys.stderr)
                found.append(child(folder, way).assign(recordings=size, way=way))
    table = pd.concat(found, ignore_index=True)
    table["ms_each"] = 1000 * table.processor / table.recordings
    columns = ["way", "step", "recordings", "seconds", "processor", "ms_each", "peak", "own"]
    return table[columns].sort_values(["way", "recordings"], kind="stable", ignore_index=True)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Time a recording at the largest size of each way and step, against the size before."""
    by_size = table.pivot_table("ms_each", ["way", "step"], "recordings", sort=False)
    rows = []
    for (way, step), each in by_size.iterrows():
        times = each.dropna()
        rows.append({"way": way, "step": step, "ratio": times.iloc[-1] / times.iloc[-2:].iloc[0]})
    return pd.DataFrame(rows)


def main() -> int:
    """Print the tables; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"type": int, "nargs": "*", "default": [1000, 10_000, 100_000]}
    parser.add_argument("--sizes", **sizes, help="recordings in a prepared folder")
    parser.add_argument("--files", **sizes, help="recordings in WAV files")
    parser.add_argument("--place", type=Path, help="folder for the data, 3 GB at 100,000")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, way = options.child
        run(Path(folder), way) if way in WAYS else run_files(Path(folder))
        return 0
    table = table_of(sorted(options.sizes), sorted(options.files), options.place)
    print(f"{processor()}, one thread; times in s, ms_each of the processor, memory in MiB")
    print(table.round(3).to_string(index=False))
    compared = ratios(table)
    print("\nTime a recording, largest size against the one before:")
    print(compared.round(2).to_string(index=False))
    slow = compared[compared.ratio > LINEAR]
    large = table[table.peak > MEMORY]
    print(f"linear within {LINEAR - 1:.0%}: {'met' if slow.empty else 'MISSED'}")
    print(f"peak at most {MEMORY:.0f} MiB: {'met' if large.empty else 'MISSED'}")
    if options.out:
        notes = (
            "Time (s; ms_each: processor time a recording) and memory (MiB) with growth.",
            f"{SAMPLES} samples a recording; one thread; tests/benchmarks/bench_growth.py",
        )
        write_table(options.out, table.round(4), *notes)
    return 0 if slow.empty and large.empty else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
