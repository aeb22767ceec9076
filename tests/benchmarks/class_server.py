"""A class on one server: twelve kernels that run notebooks 03 and 07 at the same time.

    python tests/benchmarks/class_server.py [--kernels 12] [--cells 20]

Half of the kernels run notebook 03 and half 07, from the same moment, and nobody has said how many
threads there are. All must finish, in at most 1.3 times the time of the same work one after the
other. That is measured by one run of each notebook on the idle machine, times the number of
kernels; a kernel's start is included in both. Memory of each kernel, looked at every second: RSS
is all of it, PSS counts what kernels share once. `make bench` leaves this out, since it takes
minutes.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from hfld_lite.edge.analysis import processor
from hfld_lite.storage.cores import physical_cores, used_by_others
from hfld_lite.storage.threads import WISHES

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = ("03", "07")
TARGET = 1.3


class Learner:
    """A kernel that runs a notebook from top to bottom, and what it took."""

    def __init__(self, number: str, cells: int | None) -> None:
        self.number = number
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, 4)
        notebook.cells = notebook.cells[:cells]
        resources = {"metadata": {"path": str(FOLDER)}}
        self.client = NotebookClient(
            notebook, timeout=None, startup_timeout=600, resources=resources
        )
        self.seconds, self.cpu, self.rss, self.pss, self.said = 0.0, 0.0, [0.0], [0.0], ""

    async def run(self) -> None:
        """Run it; `said` is what went wrong, if anything did."""
        began = time.perf_counter()
        try:
            await self.client.async_execute()
        except Exception as error:  # of a cell, or the kernel died
            self.said = (str(error).strip() or repr(error)).splitlines()[-1]
        self.seconds = time.perf_counter() - began

    def look(self) -> None:
        """Note the memory that the kernel uses now, MiB, and its processor time until now."""
        try:
            process = psutil.Process(self.client.km.provisioner.pid)
            memory, times = process.memory_full_info(), process.cpu_times()
        except (AttributeError, TypeError, psutil.Error):  # not started yet, or ended
            return
        self.cpu = times.user + times.system
        self.rss.append(memory.rss / 2**20)
        self.pss.append(getattr(memory, "pss", float("nan")) / 2**20)  # Linux only

    @property
    def threads(self) -> str:
        """What its first cell says of threads."""
        said = "".join(
            output.get("text", "")
            for cell in self.client.nb.cells[:2]
            for output in cell.get("outputs", ())
        )
        return said.strip().rpartition(", ")[2]


async def at_once(learners: list[Learner]) -> float:
    """Run all at the same time; seconds until the last is finished."""
    began = time.perf_counter()
    running = asyncio.gather(*(learner.run() for learner in learners))
    while not running.done():
        await asyncio.wait([running], timeout=1)
        for learner in learners:
            learner.look()
    await running
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=12)
    parser.add_argument("--cells", type=int, help="only the first, to try the program")
    options = parser.parse_args()
    for name in (*WISHES, "GOMP_SPINCOUNT"):  # the last was set by the import of hfld_lite
        os.environ.pop(name, None)
    print(
        f"{processor()}, {physical_cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    )
    if (others := used_by_others()[0]) > 0.2:
        print(f"Other programs use {others:.1f} cores now: the ratio is too high or too low.")
    alone = {}
    for number in NOTEBOOKS:
        learner = Learner(number, options.cells)
        alone[number] = asyncio.run(at_once([learner]))
        print(f"notebook {number} alone: {alone[number]:.0f} s, {learner.threads}", flush=True)
    learners = [Learner(NOTEBOOKS[i % 2], options.cells) for i in range(options.kernels)]
    seconds = asyncio.run(at_once(learners))
    print("\nkernel  notebook  seconds  of a core  peak RSS  peak PSS, MiB")
    for i, learner in enumerate(learners, 1):
        rss, pss = max(learner.rss), max(learner.pss)
        print(
            f"{i:>6}  {learner.number:>8}  {learner.seconds:>7.0f}  {learner.cpu:>9.0f}  "
            f"{rss:>8.0f}  {pss:>8.0f}   {learner.threads}"
        )
        if learner.said:
            print(f"        NOT FINISHED: {learner.said}")
    for number in NOTEBOOKS:
        of = [learner for learner in learners if learner.number == number]
        rss, pss, cpu = (
            statistics.mean(values)
            for values in zip(*((max(x.rss), max(x.pss), x.cpu) for x in of), strict=True)
        )
        print(
            f"notebook {number}: on average {cpu:.0f} s of a core, at the peak RSS {rss:.0f} MiB "
            f"and PSS {pss:.0f} MiB"
        )
    serial = sum(alone[learner.number] for learner in learners)
    missed = seconds > TARGET * serial or any(learner.said for learner in learners)
    print(
        f"all at once {seconds:.0f} s, one after the other {serial:.0f} s (one of each, times the "
        f"kernels): ratio {seconds / serial:.2f}, at most {TARGET}: {'MISSED' if missed else 'met'}"
    )
    sys.exit(missed)


if __name__ == "__main__":
    main()
