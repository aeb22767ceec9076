"""The cells of `many` on the workers of a Dask cluster.

Dask gives a dead worker's cell to another one. Data do not travel: each cell makes or reads its
own. The program's own modules, which are not installed on the workers, are sent with each cell.
"""

import importlib
import io
import logging
import os
import pickle
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hfld_lite.app.many import Cell, Outcome, Run, machine, run_cell
from hfld_lite.errors import ArgumentError, HfldError
from hfld_lite.storage.files import bytes_digest

CONNECT = 8.0
"""Seconds in which a scheduler must answer."""

TICK = 1.0
"""Seconds after which new workers are noticed."""

COMPARED = ("hfld_lite", "numpy", "torch")
"""Packages whose versions must agree, besides Python's."""


def on_cluster(
    run: Run,
    cells: Iterable[Cell],
    scheduler: str,
    code: Path | None,
    folders: Sequence[Path],
    again: str,
) -> Iterator[tuple[str, Outcome]]:
    """The outcomes of all cells, as they come from the workers.

    No more cells are handed out than there are workers, so that a cell that kills its worker is
    the only one that Dask blames for it.
    """
    dask, cells = _dask(), iter(cells)
    refused, running = "", {}
    if (following := next(cells, None)) is None:
        return
    with _client(scheduler) as client, client.as_current():
        workers = _Workers(client, scheduler, folders, run.say)
        sent = _packed(run.call, code)
        try:
            workers.check()
            while running or not (refused or following is None):
                while following and not refused and len(running) < len(workers):
                    name, arguments = following
                    parts = (sent, arguments, run.threads, workers.wanted)
                    future = client.submit(_sent_cell, *parts, key=f"{name}-{time.time_ns()}")
                    running[future] = name
                    following = next(cells, None)
                finished = _finished([*running], dask)
                for future in finished:
                    outcome = _outcome(future, dask)
                    name = running.pop(future)
                    if outcome.refused:
                        refused = outcome.refused
                        continue
                    yield name, outcome
                try:
                    workers.check()
                except ArgumentError as error:
                    refused = str(error)
        except KeyboardInterrupt:
            if running:
                names = ", ".join(running.values())
                run.say(f"The workers finish what they have begun, {names}, unless you stop them.")
            raise
        except (OSError, dask.CancelledError) as error:
            raise HfldError(
                f"The scheduler {scheduler} was lost; what is finished is kept. Start it and its "
                f"workers again. {again}".rstrip()
            ) from error
    if refused:
        raise ArgumentError(f"{refused} What is finished is kept. {again}".rstrip())


def _finished(futures: list[Any], dask: Any) -> Iterable[Any]:
    """Those that are finished now, or within a second."""
    if not futures:
        time.sleep(TICK)
        return ()
    try:
        return dask.wait(futures, TICK, "FIRST_COMPLETED").done
    except TimeoutError:
        return ()


class _Workers:
    """The workers of a scheduler, each checked once before it is used."""

    def __init__(
        self, client: Any, scheduler: str, folders: Sequence[Path], say: Callable[[str], None]
    ) -> None:
        self.client, self.scheduler, self.say = client, scheduler, say
        self.folders = [str(folder.absolute()) for folder in folders]
        self.wanted = _versions()
        self.known: set[str] = set()
        self.asked = False

    def __len__(self) -> int:
        return len(self.known)

    def check(self) -> None:
        """Ask those that came since the last time.

        Raises:
            ArgumentError: if one has other versions, or does not see a folder.
        """
        there = self.client.nthreads()
        self.known &= set(there)
        new = sorted(set(there) - self.known)
        if not there and not self.asked:
            self.say(
                f"{self.scheduler} has no workers, and this program waits for some; start them "
                f"with: dask worker {self.scheduler} --nthreads 1 --nworkers 2"
            )
        self.asked = not there
        if not new:
            return
        asker = _awake(_asker(self.folders))
        answers = self.client.run(asker, workers=new, on_error="return")
        for worker, answer in answers.items():
            if isinstance(answer, OSError):  # it has gone meanwhile
                continue
            if isinstance(answer, Exception):
                raise ArgumentError(
                    f"The worker {worker} cannot be asked for its versions: {answer}."
                )
            host, versions, unseen = answer
            if said := _differ(self.wanted, versions, f"{worker} on {host}"):
                raise ArgumentError(said)
            if unseen:
                raise ArgumentError(
                    f"The worker {worker} on {host} does not see {unseen[0]}; every worker needs "
                    "that folder under the same path, as on a shared disk."
                )
            if there[worker] > 1:
                self.say(
                    f"The worker {worker} has {there[worker]} threads, and runs one cell at a "
                    f"time all the same; --nthreads 1 --nworkers {there[worker]} uses its cores."
                )
            self.known.add(worker)


def _asker(folders: Sequence[str] = ()) -> Callable[[], tuple[str, dict[str, str], list[str]]]:
    """A function that tells a machine's host, versions, and which folders it does not see.

    It is sent by value, so that a worker without hfld_lite can answer, too.
    """
    names = COMPARED

    def answer() -> tuple[str, dict[str, str], list[str]]:
        import importlib
        import os
        import platform

        versions = {"Python": platform.python_version()}
        for name in names:
            try:
                version = importlib.import_module(name).__version__
            except ImportError:
                version = "(not installed)"
            versions[name] = version.partition("+")[0]
        return platform.node(), versions, [path for path in folders if not os.path.isdir(path)]

    return answer


def _awake(answer: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """The same in a thread: its imports take seconds, in which a worker must show that it lives."""

    async def later() -> Any:
        import asyncio

        return await asyncio.to_thread(answer)

    return later


def _versions() -> dict[str, str]:
    return _asker()()[1]


def _differ(wanted: Mapping[str, str], found: Mapping[str, str], worker: str) -> str:
    """A sentence if a worker's versions are not those of this program."""
    others = [name for name in wanted if found[name] != wanted[name]]
    if not others:
        return ""
    theirs = ", ".join(f"{name} {found[name]}" for name in others)
    ours = ", ".join(f"{name} {wanted[name]}" for name in others)
    return (
        f"The worker {worker} has {theirs}, and this program {ours}; install the same versions "
        "for both, or stop that worker."
    )


def _dask() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ArgumentError(
            "--scheduler needs Dask, which is not installed: pip install 'hfld_lite[cluster]'."
        ) from error
    return distributed


def check_scheduler(scheduler: str) -> None:
    """Refuse a scheduler that does not answer, by an ArgumentError, before anything is begun."""
    with _client(scheduler):
        pass


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """A connection to a scheduler.

    Raises:
        ArgumentError: if there is none within :data:`CONNECT` seconds.
    """
    logger = logging.getLogger("distributed")  # its lines about a lost scheduler say less than ours
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    client = None
    try:
        try:
            client = _dask().Client(scheduler, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"The scheduler {scheduler} does not answer within {CONNECT:.0f} s; start one with "
                "`dask scheduler` and give the address that it prints, such as "
                "tcp://192.168.1.10:8786."
            ) from error
        yield client
    finally:
        if client is not None:
            with suppress(OSError, TimeoutError):
                client.close(2)
        logger.setLevel(before)


def _packed(call: Callable[..., Any], code: Path | None) -> tuple[bytes, bytes]:
    """A function, and a ZIP archive of the loaded modules of a folder that it may need."""
    import cloudpickle  # of the extra `cluster`, as Dask is

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, module in sorted(sys.modules.items()):
            path = Path(getattr(module, "__file__", None) or "").resolve()
            if code is not None and path.parent == code.resolve() and name == path.stem:
                file.write(path, path.name)
    return cloudpickle.dumps(call), archive.getvalue()


def _sent_cell(
    sent: tuple[bytes, bytes], arguments: tuple, threads: int, wanted: Mapping[str, str]
) -> Outcome:
    """Run one cell on a worker that has the wanted versions."""
    found = f"that joined last, on {platform.node()},"
    if said := _differ(wanted, _versions(), found):
        return Outcome(machine(), refused=said)

    def call(*arguments: Any) -> Any:
        _import_from(sent[1])
        return pickle.loads(sent[0])(*arguments)

    return run_cell(call, arguments, threads)


_CODE: dict[str, tempfile.TemporaryDirectory] = {}
"""Folders of the archives that cells of this worker brought along, by their digests."""


def _import_from(archive: bytes) -> None:
    """Let this process import the modules of an archive, and no longer those of others."""
    key = bytes_digest([archive])
    if key not in _CODE:
        _CODE[key] = tempfile.TemporaryDirectory()
        (Path(_CODE[key].name) / "code.zip").write_bytes(archive)
    others = [str(Path(folder.name, "code.zip")) for k, folder in _CODE.items() if k != key]
    for path in others:
        if path in sys.path:
            sys.path.remove(path)
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(tuple(p + os.sep for p in others)):
            del sys.modules[name]
    mine = str(Path(_CODE[key].name) / "code.zip")
    if mine not in sys.path:
        sys.path.insert(0, mine)
        importlib.invalidate_caches()


def _outcome(future: Any, dask: Any) -> Outcome:
    """What a finished future holds; where Dask itself gave up, its reason."""
    if future.status != "error":
        return future.result()
    error = future.exception()
    if isinstance(error, dask.scheduler.KilledWorker):
        why = (
            f"each of the {error.allowed_failures + 1} workers that ran it died; did memory run "
            "out there?"
        )
    else:
        why = f"{type(error).__name__}: {(str(error) or 'no text').splitlines()[0]}"
    return Outcome("Dask", failed=why)
