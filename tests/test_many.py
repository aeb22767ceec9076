"""A list of trainings gives the same bytes serially, through joblib and on a Dask cluster.

The scheduler and its workers are real processes on this machine, which are killed in between.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hfld_lite import ArgumentError, HfldError, simulate_tiles
from hfld_lite.app import cli_train, cluster
from hfld_lite.app.cli import app
from hfld_lite.app.many import MACHINE, stored_cells

LONG = 120
"""Seconds after which something has hung, even on a busy machine."""

CELLS = '''
import hashlib, os, time
from functools import lru_cache
from beside import FACTOR
from hfld_lite import Network, Recipe, simulate_tiles
from hfld_lite.hierarchy import Trainer

@lru_cache(1)  # which cloudpickle could not send
def data():
    return simulate_tiles("AB", tiles_per_class=6, drops=2, seed=3)

def train(folder, name, seed):
    """A cell: it says that it began, waits while it is held, and trains."""
    cell = f"{name}-{seed}".replace("/", "_")
    (folder / f"begun {cell} {os.getpid()}").touch()
    while (folder / f"hold {cell}").exists():
        time.sleep(0.02)
    if name == "bad":
        raise ValueError("this one fails")
    if name == "deadly":
        os.kill(os.getpid(), 9)
    network = Network(10, 1 / 16, epochs=1)
    recipe = Recipe(teacher=network, student=network, secondary_teachers=(), bins=600,
                    view="spectrum", bins_by="cutting", batch_size=8, seed=seed)
    stage = Trainer(data(), recipe, progress=False).supervise("teacher")
    weights = sorted(stage.network.state_dict().items())
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in weights))
    return [{"name": name, "seed": FACTOR * seed, "weights": digest.hexdigest()}]
'''

OTHER_VERSIONS = """
import sys, types
for name, version in (("torch", "2.0.1"), ("hfld_lite", "0.0.9")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__version__ = version
"""
"""A worker that runs this first has other versions, and starts fast."""

JOBS = [("a", 0), ("a", 1), ("b/c", 2)]


def until(there: Callable[[], object], what: str):
    """Wait until something is true, and give it."""
    end = time.monotonic() + LONG
    while not (found := there()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


def started(call: Callable, *arguments, **named) -> Future:
    """Begin a call beside the test, in a thread that does not outlive it."""
    future = Future()

    def run():
        try:
            future.set_result(call(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.scheduler: subprocess.Popen | None = None
        self.workers: list[subprocess.Popen] = []

    def start(self, kind: str, *options: object) -> subprocess.Popen:
        program = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options)]
        environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [*program, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"],
                cwd=self.folder,
                env=environment | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def worker(self, *options: object) -> subprocess.Popen:
        place = ("--local-directory", self.folder, "--host", "127.0.0.1")
        return self.start("worker", self.address, "--nthreads", 1, "--no-nanny", *place, *options)

    def with_workers(self, count: int) -> str:
        """Start what is missing, and give the address."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.end(*self.workers)
            host, port = self.address.removeprefix("tcp://").split(":")
            self.scheduler = self.start("scheduler", "--host", host, "--port", port)
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        self.workers += [self.worker() for _ in range(count - len(self.workers))]
        self.wait_for(count)
        return self.address

    def wait_for(self, count: int) -> None:
        """Wait until the scheduler has so many workers."""
        from distributed import Client

        with Client(self.address, timeout=LONG, set_as_default=False) as client:
            until(lambda: len(client.nthreads()) == count, f"{count} workers")

    def end(self, *processes: subprocess.Popen) -> None:
        for process in processes:
            process.kill()
            process.wait(LONG)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    there = Cluster(tmp_path_factory.mktemp("cluster"))
    yield there
    there.end(*there.workers, *filter(None, [there.scheduler]))


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A folder with a program's own modules, which only this process can import."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "cells_of_many.py").write_text(CELLS)
    (folder / "beside.py").write_text("FACTOR = 10\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import cells_of_many

        yield folder
        for name in ("cells_of_many", "beside"):
            del sys.modules[name]
    del cells_of_many


@pytest.fixture(scope="module")
def run(code):
    """Run cells in a folder, and give the rows."""

    def call(folder: Path, jobs=JOBS, **how) -> list[dict]:
        folder.mkdir(exist_ok=True)
        train = partial(sys.modules["cells_of_many"].train, folder)
        return stored_cells(train, jobs, folder / "cells", code=code, **how)

    return call


@pytest.fixture(scope="module")
def serial(run, tmp_path_factory):
    """The cells, run one after the other, and their rows."""
    folder = tmp_path_factory.mktemp("serial")
    return folder, run(folder)


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cells").iterdir()}


def begun(folder: Path, cell: str) -> list[int]:
    """The processes in which a cell began."""
    return [int(path.name.split()[2]) for path in folder.glob(f"begun {cell} *")]


def free(folder: Path, cell: str) -> None:
    (folder / f"hold {cell}").unlink()


def test_a_cell_is_a_file_that_names_its_machine_which_no_row_does(serial):
    folder, rows = serial
    assert set(stored(folder)) == {"a-0.json", "a-1.json", "b_c-2.json"}
    assert [row["seed"] for row in rows] == [0, 10, 20]
    assert len({row["weights"] for row in rows}) == 3
    (row,) = json.loads(stored(folder)["a-0.json"])
    assert row.pop(MACHINE).startswith(f"{os.uname().nodename}, ")
    assert row == rows[0]


def test_files_of_earlier_versions_are_valid(run, tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a-0.json").write_text('[{"old": 1}]')
    assert run(tmp_path, JOBS[:1]) == [{"old": 1}]
    assert (tmp_path / "cells" / "a-0.json").read_text() == '[{"old": 1}]'


def test_several_processes_give_the_same_bytes_and_lose_only_cells_that_fail(
    run, serial, tmp_path, capsys
):
    with pytest.raises(HfldError, match=r"2 of 5 cells failed: .* The others are kept") as error:
        run(tmp_path, [*JOBS, ("bad", 3), ("deadly", 4)], at_once=2)
    assert "bad-3: ValueError: this one fails" in str(error.value)
    assert "deadly-4: its process died, and died again" in str(error.value)
    said = capsys.readouterr().err
    assert 'raise ValueError("this one fails")' in said
    assert "begin again, one at a time" in said
    assert stored(tmp_path) == stored(serial[0])
    assert len(begun(tmp_path, "deadly-4")) == 2
    assert {*begun(tmp_path, "a-0"), *begun(tmp_path, "a-1")}.isdisjoint({os.getpid()})


def test_a_cluster_gives_the_same_bytes_and_a_failure_does_not_lose_the_others(
    run, serial, tmp_path, machines
):
    where = {"scheduler": machines.with_workers(2)}
    with pytest.raises(HfldError, match=r"1 of 4 cells failed: bad-3: ValueError: this one fails"):
        run(tmp_path, [("bad", 3), *JOBS], **where)
    assert stored(tmp_path) == stored(serial[0])
    there = {worker.pid for worker in machines.workers}
    assert all(set(begun(tmp_path, cell)) <= there for cell in ("a-0", "a-1", "b_c-2", "bad-3"))
    assert run(tmp_path, **where) == serial[1]
    assert len(begun(tmp_path, "a-0")) == 1, "what is finished is not run again"


def test_a_killed_worker_loses_its_own_cell_only(run, serial, tmp_path, machines):
    address = machines.with_workers(2)
    (tmp_path / "hold a-1").touch()
    rows = started(run, tmp_path, scheduler=address)
    (pid,) = until(lambda: begun(tmp_path, "a-1"), "the cell")
    os.kill(pid, signal.SIGKILL)
    free(tmp_path, "a-1")
    assert rows.result(LONG) == serial[1]
    assert stored(tmp_path) == stored(serial[0])
    assert len(begun(tmp_path, "a-1")) == 2
    assert len(begun(tmp_path, "a-0")) == 1


def test_a_worker_with_other_versions_is_refused_with_both_named(run, tmp_path, machines):
    address = machines.with_workers(1)
    (machines.folder / "other.py").write_text(OTHER_VERSIONS)
    other = machines.worker("--preload", machines.folder / "other.py")
    machines.wait_for(2)
    ours = torch.__version__.partition("+")[0]
    said = rf"has hfld_lite 0\.0\.9, torch 2\.0\.1, and this program hfld_lite .*, torch {ours};"
    with pytest.raises(ArgumentError, match=said):
        run(tmp_path, scheduler=address)
    assert not stored(tmp_path)
    machines.end(other)
    machines.wait_for(1)


def test_a_worker_refuses_a_cell_of_other_versions():
    """One that joins while cells are handed out is not asked before."""
    wanted = cluster._versions() | {"numpy": "1.0.0"}
    outcome = cluster._sent_cell((b"", b""), (), 1, wanted)
    assert f"has numpy {np.__version__}, and this program numpy 1.0.0" in outcome.refused


def test_a_worker_must_see_the_folders(run, tmp_path, machines):
    address = machines.with_workers(1)
    with pytest.raises(ArgumentError, match=r"does not see .*nowhere; every worker needs"):
        run(tmp_path, scheduler=address, folders=[tmp_path / "nowhere"])


def test_after_the_schedulers_death_the_same_call_resumes(run, serial, tmp_path, machines):
    address = machines.with_workers(1)
    (tmp_path / "hold b_c-2").touch()
    rows = started(run, tmp_path, scheduler=address)
    until(lambda: begun(tmp_path, "b_c-2"), "the last cell")
    machines.end(machines.scheduler)
    with pytest.raises(HfldError, match=rf"The scheduler {address} was lost; .* resumes"):
        rows.result(LONG)
    assert set(stored(tmp_path)) == {"a-0.json", "a-1.json"}
    free(tmp_path, "b_c-2")
    assert run(tmp_path, scheduler=machines.with_workers(1)) == serial[1]
    assert stored(tmp_path) == stored(serial[0])
    assert len(begun(tmp_path, "a-0")) == len(begun(tmp_path, "a-1")) == 1


@pytest.fixture
def training(tmp_path, tiny_recipe):
    """A function that trains two seeds into a folder of that name, and gives what is printed."""
    simulate_tiles("AB", tiles_per_class=6, drops=2, seed=3).save(tmp_path / "data")
    tiny_recipe.save(tmp_path / "tiny.json")

    def hfld(out: str, *options: object, code: int = 0) -> str:
        words = ["train", "--data", tmp_path / "data", "--recipe", tmp_path / "tiny.json"]
        words += ["--out", tmp_path / out, "--seeds", 2, "--baselines", "none", "--quiet", *options]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return hfld


def test_seeds_on_a_cluster_are_the_same_runs(training, tmp_path, machines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_train, "reported", lambda *_: True)  # figures take longer than the rest
        training("serial")
    assert "seeds.html" in training("there", "--scheduler", machines.with_workers(1))
    for seed in ("seed_0", "seed_1"):
        for name in ("teacher", "secondary_teacher", "student", "student_alone"):
            one, other = (
                tmp_path / way / seed / f"{name}.safetensors" for way in ("serial", "there")
            )
            assert one.read_bytes() == other.read_bytes()
        assert (tmp_path / "there" / seed / "report.html").exists()
        facts = json.loads((tmp_path / "there" / seed / "run.json").read_text())
        assert facts["made"]["Host"] == os.uname().nodename
    one, other = (tmp_path / way / "seeds.csv" for way in ("serial", "there"))
    assert one.read_text() == other.read_text()
    said = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "there"), "--jobs", "2"])
    assert "is finished" in str(said.exception)


def test_a_cell_that_kills_its_workers_is_named_and_workers_are_waited_for(
    run, tmp_path, machines, capsys
):
    address = machines.with_workers(1)
    rows = started(run, tmp_path, [("deadly", 0)], scheduler=address)
    said = ""

    def told() -> str:
        nonlocal said
        said += capsys.readouterr().err
        return said if "has no workers" in said else ""

    assert f"dask worker {address} --nthreads 1" in until(told, "the sentence")
    machines.workers.append(machines.worker())
    with pytest.raises(HfldError, match="deadly-0: each of the 2 workers that ran it died"):
        rows.result(LONG)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tcp://127.0.0.1", "nonsense://x:1"])
def test_a_scheduler_that_does_not_answer_is_one_sentence(run, tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    began = time.monotonic()
    with pytest.raises(ArgumentError, match=rf"{address} does not answer .* `dask scheduler`"):
        run(tmp_path, scheduler=address)
    assert time.monotonic() - began < LONG


def test_without_dask_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ArgumentError, match=r"pip install 'hfld_lite\[cluster\]'"):
        run(tmp_path, scheduler="tcp://127.0.0.1:8786")


def test_wrong_options_are_refused(run, training, tmp_path):
    with pytest.raises(ArgumentError, match="--jobs is 0"):
        run(tmp_path, at_once=0)
    with suppress(AssertionError):
        training("none", "--seeds", 1, "--jobs", 2)
    said = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "x"), "--jobs", "2"])
    assert "add --seeds" in str(said.exception)
    assert not (tmp_path / "x").exists()
