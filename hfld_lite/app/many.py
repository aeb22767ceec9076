"""A list of independent trainings: one after the other, several at once, or on a Dask cluster.

Each training is a *cell* with a name. It runs with one thread, one cell at a time in a process, so
that it gives the same bits in all three ways on the same machine. What it gives goes back to the
program that the user started, and that program alone keeps it, whole, as it comes: a worker that
dies loses its own cell only, which Dask gives to another worker. Data do not travel: each cell
makes or reads its own, so every worker must see the same folders under the same paths. The
program's own modules, which are not installed on the workers, are sent with each cell.
"""

import json
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from typer import Option

from hfld_lite.edge.analysis import processor
from hfld_lite.errors import ArgumentError, HfldError
from hfld_lite.storage.files import write_whole
from hfld_lite.storage.progress import bar, note, tell

Scheduler = Annotated[
    str | None,
    Option(
        help="Address of a Dask scheduler, such as tcp://192.168.1.10:8786: its workers run the "
        "trainings, instead of --jobs. They need the same versions, and must see the same folders "
        "under the same paths. Start them with `dask worker ADDRESS --nthreads 1 --nworkers N`."
    ),
]
"""The option ``--scheduler`` of every program that has such a list."""

MACHINE = "machine"
"""Key of each stored row that says which machine made it; no table shows it."""

NAMED = 20
"""Most failed cells that an error names."""

Cell = tuple[str, tuple]
"""A cell's name and the arguments of its call."""

_ONE_AT_A_TIME = threading.Lock()
"""A network's first weights come from torch's global generator, which the threads of a worker
share; so they take turns."""


class Outcome(NamedTuple):
    """What became of a cell."""

    machine: str
    result: Any = None
    failed: str = ""
    """Why, in a sentence."""
    trace: str = ""
    refused: str = ""
    """Why this worker may run no cell."""


def stored_cells(
    run: Callable[..., list[dict]],
    jobs: Sequence[tuple],
    folder: Path,
    at_once: int = 1,
    until: float | None = None,
    scheduler: str | None = None,
    code: Path | None = None,
    folders: Sequence[Path] = (),
) -> list[dict]:
    """Run ``run(*job)`` for every job whose file is not in the folder, and give the rows of all.

    The file of a job, ``PART-PART-….json``, holds its rows, each with the machine that made it
    under the key :data:`MACHINE`, which the rows that are given lack. Files of earlier versions
    have no such key.

    Args:
        run: gives rows of JSON values.
        jobs: its arguments, whose texts name the file.
        folder: of the files; every worker must see it.
        until: no job begins after that time, in seconds since 1970; its rows are then missing.
        at_once, scheduler, code, folders: see :func:`finish_all`.

    Raises:
        HfldError: as :func:`finish_all` does; the rows of the finished cells are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {job: folder / f"{cell_name(job)}.json" for job in jobs}

    def missing() -> Iterator[Cell]:
        for job, path in paths.items():
            if until is not None and time.time() > until:
                return
            if not path.exists():
                yield path.stem, job

    def keep(name: str, rows: list[dict], machine: str) -> None:
        stored = json.dumps([row | {MACHINE: machine} for row in rows])
        write_whole(folder / f"{name}.json", stored)

    count = sum(not path.exists() for path in paths.values())
    finish_all(run, missing(), count, keep, at_once, scheduler, code, [folder, *folders])
    finished = [paths[job] for job in jobs if paths[job].exists()]
    return [row for path in finished for row in stored_rows(path)]


def cell_name(job: tuple) -> str:
    """The name of a cell, and of its file without the ending."""
    return "-".join(str(part).replace("/", "_") for part in job)


def stored_rows(path: Path) -> list[dict]:
    """The rows of a cell's file, without the machine that made them."""
    rows = json.loads(path.read_text("utf-8"))
    return [{key: value for key, value in row.items() if key != MACHINE} for row in rows]


def finish_all(
    call: Callable[..., Any],
    cells: Iterable[Cell],
    count: int,
    keep: Callable[[str, Any, str], None],
    at_once: int = 1,
    scheduler: str | None = None,
    code: Path | None = None,
    folders: Sequence[Path] = (),
    threads: int = 1,
    progress: bool = True,
    what: str = "cells",
    again: str = "The same command resumes with what is missing.",
) -> None:
    """Run ``call(*arguments)`` for every cell, and keep each result as soon as it is there.

    A cell that fails does not keep the others from running.

    Args:
        call: must be sendable by cloudpickle where cells do not run in this process.
        cells: names and arguments; each is asked for when there is room for it.
        count: how many there are, for the progress bar.
        keep: is called here with name, result and machine of each finished cell.
        at_once: processes of this machine; 1 runs all in this one, -1 takes a process for each
            core.
        scheduler: address of a Dask scheduler, whose workers are used instead.
        code: folder of modules that are not installed; those that are loaded are sent along.
        folders: that every worker must see.
        threads: of each cell.
        progress: whether to show it.
        what: the cells are called.
        again: what the errors say about how to resume.

    Raises:
        ArgumentError: if the scheduler cannot be reached, Dask is not installed, or a worker has
            other versions or does not see a folder; both versions are named.
        HfldError: if cells failed, with their names, or if the scheduler is lost. What is
            finished is kept.
    """
    failed: dict[str, str] = {}
    with bar(total=count, desc=what, unit=what[:-1], progress=progress and count > 0) as shown:
        run = Run(call, threads, lambda text: note(shown, text))
        if scheduler is not None:
            from hfld_lite.app.cluster import on_cluster  # needs what this module defines

            outcomes = on_cluster(run, cells, scheduler, code, folders, again)
        else:
            outcomes = _on_this_machine(run, cells, at_once)
        for name, outcome in outcomes:
            if outcome.failed:
                failed[name] = f"{name}: {outcome.failed.rstrip('.')} ({outcome.machine})"
                note(shown, f"{outcome.trace}{failed[name]}")
            else:
                keep(name, outcome.result, outcome.machine)
            shown.update()
            shown.set_description_str(f"{what} {shown.n}/{count}", refresh=False)
            tell(shown, f"{name}, {outcome.machine}")
    if failed:
        those = f"{len(failed)} of {count} {what} failed"
        said = "; ".join([*failed.values()][:NAMED])
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        raise HfldError(f"{those}: {said}{more}. The others are kept. {again}".rstrip())


class Run(NamedTuple):
    """How every cell of a list is run, and where to say what the user must know."""

    call: Callable[..., Any]
    threads: int
    say: Callable[[str], None]


@cache
def machine() -> str:
    """This machine's name and processor."""
    return f"{platform.node()}, {processor()}"


def run_cell(call: Callable[..., Any], arguments: tuple, threads: int) -> Outcome:
    """Run one cell in this thread; what it raises becomes text, which any process can read."""
    with _ONE_AT_A_TIME:
        torch.set_num_threads(threads)
        try:
            return Outcome(machine(), call(*arguments))
        except Exception as error:
            said = (str(error) or type(error).__name__).splitlines()[0]
            if isinstance(error, HfldError):
                return Outcome(machine(), failed=said)
            trace = "".join(traceback.format_exception(error))
            return Outcome(machine(), failed=f"{type(error).__name__}: {said}", trace=trace)


# --- on this machine ---


def _on_this_machine(
    run: Run, cells: Iterable[Cell], at_once: int
) -> Iterator[tuple[str, Outcome]]:
    """The outcomes of all cells in this process, or as they come from several."""
    import joblib  # here, since every `hfld` command imports this module

    if at_once == 0:
        raise ArgumentError("--jobs is 0; expected 1 or more, or -1 for all cores.")
    if joblib.effective_n_jobs(at_once) == 1:
        for name, arguments in cells:
            yield name, run_cell(run.call, arguments, run.threads)
        return
    begun: dict[str, tuple] = {}

    def pool(ahead: str | int, cells: Iterable[Cell]) -> Iterator[tuple[str, Outcome]]:
        calls = (joblib.delayed(_named)(name, run.call, arg, run.threads) for name, arg in cells)
        return joblib.Parallel(
            at_once, return_as="generator_unordered", pre_dispatch=ahead, batch_size=1
        )(calls)

    def noted(cells: Iterator[Cell]) -> Iterator[Cell]:
        for name, arguments in cells:
            begun[name] = arguments
            yield name, arguments

    rest = iter(cells)
    while True:
        try:
            for name, outcome in pool("n_jobs", noted(rest)):  # each when a process is free
                del begun[name]
                yield name, outcome
            return
        except BrokenProcessPool:
            run.say(f"A process died; these cells begin again, one at a time: {', '.join(begun)}.")
        for name, arguments in begun.items():
            try:
                yield from pool(1, [(name, arguments)])
            except BrokenProcessPool:
                why = "its process died, and died again; did memory run out?"
                yield name, Outcome(machine(), failed=why)
        begun.clear()


def _named(name: str, *rest: Any) -> tuple[str, Outcome]:
    return name, run_cell(*rest)
