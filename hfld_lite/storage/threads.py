"""How many threads a training uses: chosen once, when it starts, so that neighbours do not suffer.

GNU OpenMP's threads wait for each other by spinning, so that more threads than free cores cost time
instead of saving it. Measured on two cores, ms a step of a student (ResNet10-1D 1/16) and of a
teacher (ResNet18-1D 1/4) on 875 values in batches of 32:

    trainings at once                one     two    four    one beside a busy loop
    a thread each: student          10.6    10.7      25                        11
                   teacher          48.5      49     106                        47
    two each:      student           8.9      38     138                        27
                   teacher          31.9     134     550                        99

With another number of threads sums are taken in another order, so that results differ in some
bits. The number is therefore fixed for a run: it is stored with its checkpoints, and a resumed run
takes it again. OMP_NUM_THREADS gives the same number, and bits, whatever else runs.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hfld_lite.storage.checkpoints import threads_of
from hfld_lite.storage.cores import allowed, announce, physical_cores, usable_cores

WISHES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS")
"""Variables of the environment by which a user says how many threads there may be."""

LIMITS = ((1e4, 2), (1e5, 4))
"""Most threads for networks below a size (see `_size`), so that the last one saves about a tenth of
the time. A second thread makes the student's step above (size 1,100) 1.19 × as fast and the
teacher's (31,500) 1.52 ×; by Amdahl's law a third would save the student 6 %, and a fifth the
teacher 7 %. Only two threads were measured."""


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why; as text ``2 threads: 2 cores, nothing else running``."""

    count: int
    why: str

    def __str__(self) -> str:
        return f"{self.count} thread{'s' * (self.count != 1)}: {self.why}"


def use_threads(recipe: Any = None, folder: str | Path | None = None) -> Threads:
    """Choose the number of threads for a training that starts now, and set it.

    Args:
        recipe: of the training, a `Recipe`; small networks get fewer threads.
        folder: of its checkpoints; a training that was begun there keeps its number.
    """
    global _chosen, _set, _announced
    before = None if folder is None else threads_of(folder)
    if before is None and _same and _same[-1]:
        found = _same[-1][0]
    else:
        _announced = announce()
        found = choose_threads(recipe, before)
    for kept in _same:
        kept.append(found)
    if not _wish():
        if found.count != torch.get_num_threads():
            torch.set_num_threads(found.count)
        _set = _here.set = found.count
    _chosen = found
    return found


@contextmanager
def same_threads() -> Iterator[None]:
    """Within this block all new trainings use the number that is chosen for the first.

    Two trainings with the same seed then have the same bits, whatever begins to run meanwhile.
    """
    _same.append([])
    try:
        yield
    finally:
        _same.pop()


def threads_used() -> Threads:
    """What was chosen for the newest training of this process; what torch uses if that differs."""
    count = torch.get_num_threads()
    if _chosen is not None and _chosen.count == count:
        return _chosen
    return Threads(count, _wish() or "torch's default")


def choose_threads(recipe: Any = None, before: int | None = None) -> Threads:
    """The number of threads for a training that would start now; takes a fifth of a second.

    The user's own wish wins: a variable of WISHES, or a number given to torch.set_num_threads that
    is not torch's default. Else there is a thread for each core that nothing else uses, one at
    least, and no more than help such networks.

    Args:
        recipe: of the training, a `Recipe`; any networks if it is None.
        before: the number that a training was begun with; it is kept, up to the number of cores.
    """
    if wish := _wish():
        return Threads(torch.get_num_threads(), wish)
    most, free = usable_cores()
    there = f"{most} core{'s' * (most != 1)}"
    if before is not None:
        return Threads(min(before, most), "as the run was begun" if before <= most else there)
    helping = next((count for size, count in LIMITS if _size(recipe) < size), most)
    if helping < min(most, free):
        return Threads(helping, f"{there}, and more would hardly help networks so small")
    if most == 1 or free == most:
        return Threads(most, there + ", nothing else running" * (most > 1))
    return Threads(max(1, free), f"{most - free} of {there} in use by others")


def _wish() -> str:
    """How the user has said how many threads there are; empty if not."""
    if said := [name for name in WISHES if os.environ.get(name)]:
        return said[0]
    # In torch each of Python's threads has its own number; a new one gets the newest that was set.
    known = {_default, getattr(_here, "set", _set)}
    return "" if torch.get_num_threads() in known else "torch.set_num_threads"


def _size(recipe: Any) -> float:
    """A step of the largest network, in proportion: batch · values · depth · width²."""
    if recipe is None:
        return float("inf")
    largest = max(network.depth * network.width**2 for network in recipe.chain.values())
    return (recipe.batch_size or 32) * (recipe.bins or recipe.samples or 875) * largest


_default: int | None = torch.get_num_threads()
if _default not in (physical_cores(), len(allowed())):
    _default = None  # not torch's choice: the user set it before hfld_lite was imported
_chosen: Threads | None = None
_set: int | None = None
_here = threading.local()
_same: list[list[Threads]] = []
_announced: Any = None
