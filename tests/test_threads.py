"""How many threads a training uses: cores, limits, neighbours, the user's wish, and resuming."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import pytest
import torch

from hfld_lite import distill_chain
from hfld_lite.course.environment import environment
from hfld_lite.evaluation.together import chains_together
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import Network
from hfld_lite.storage import cores, threads
from hfld_lite.storage.checkpoints import threads_of
from hfld_lite.storage.files import digest


@pytest.fixture
def free(monkeypatch, tmp_path):
    """A machine of which a test says what is used, and a user who has said nothing."""

    def machine(count, *used, groups=()):
        monkeypatch.setattr(cores, "physical_cores", lambda: count)
        monkeypatch.setattr(cores, "quotas", lambda: dict(enumerate(groups)))
        monkeypatch.setattr(cores, "used_by_others", lambda groups: list(used))

    for name in threads.WISHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(threads, "_default", torch.get_num_threads())
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "_set", None)
    monkeypatch.setattr(threads, "_here", threading.local())
    machine(2, 0.0)
    before = torch.get_num_threads()
    yield machine
    torch.set_num_threads(before)


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")
    return folder


# What the machine has


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000", 1.5), ("max 100000", None), ("", None), ("x y", None)]
)
def test_a_quota_of_version_2_is_read(tmp_path, text, expected):
    own = tmp_path / "own"
    own.write_text("0::/user.slice/one\n")
    inner = group(tmp_path / "root" / "user.slice" / "one", cpu_max=text)
    found = cores.quotas(tmp_path / "root", own)
    assert found == ({} if expected is None else {inner: expected})


def test_a_limit_above_counts_as_well(tmp_path):
    (tmp_path / "own").write_text("0::/a/b\n")
    outer = group(tmp_path / "root" / "a", cpu_max="200000 100000")
    inner = group(tmp_path / "root" / "a" / "b", cpu_max="400000 100000")
    assert cores.quotas(tmp_path / "root", tmp_path / "own") == {inner: 4, outer: 2}


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", None)])
def test_a_quota_of_version_1_is_read(tmp_path, quota, expected):
    # The name is the host's, which a container does not show: its own group is the root.
    (tmp_path / "own").write_text("5:freezer:/x\n3:cpu,cpuacct:/docker/123\n0::/\n")
    files = {"cpu_cfs_quota_us": quota, "cpu_cfs_period_us": "100000"}
    root = group(tmp_path / "root" / "cpu,cpuacct", **files)
    found = cores.quotas(tmp_path / "root", tmp_path / "own")
    assert found == ({} if expected is None else {root: expected})


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cores.quotas(tmp_path, tmp_path / "missing") == {}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_limits_the_cores():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.physical_cores() == 1
        assert cores.usable_cores() == (1, 1)
    finally:
        os.sched_setaffinity(0, before)


def test_a_groups_own_use_is_read(tmp_path):
    two = group(tmp_path / "two", cpu_stat="usage_usec 2500000\nuser_usec 1")
    one = group(tmp_path / "one", cpu_stat="nr_periods 0", cpuacct_usage="1500000000")
    assert [cores._group_seconds(folder) for folder in (two, one, tmp_path)] == [2.5, 1.5, 0]


def test_what_others_use_is_measured_and_what_this_process_uses_is_not():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.1)
            assert cores.used_by_others()[0] > 0.3  # the test's own neighbours may use the rest
        finally:
            busy.kill()


# Neighbours


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ((2, 0.0), "2 threads: 2 cores, nothing else running"),
        ((2, 0.3), "2 threads: 2 cores, nothing else running"),
        ((2, 0.95), "1 thread: 1 of 2 cores in use by others"),
        ((2, 2.0), "1 thread: 2 of 2 cores in use by others"),
        ((4, 2.6), "1 thread: 3 of 4 cores in use by others"),
        ((1, 0.0), "1 thread: 1 core"),
    ],
)
def test_a_thread_for_each_core_that_nothing_else_uses(free, machine, expected):
    free(*machine)
    assert str(threads.choose_threads()) == expected


def test_a_busy_host_takes_nothing_of_a_containers_share(free):
    free(64, 40.0, 0.1, groups=[2.0])
    assert threads.choose_threads().count == 2
    free(64, 40.0, 1.1, groups=[2.0])
    assert threads.choose_threads().count == 1
    free(64, 0.0, 0.0, groups=[2.5, 4.0])
    assert threads.choose_threads().count == 2


def test_small_networks_get_few_threads(free, tiny_recipe):
    free(16, 0.0)
    said = str(threads.choose_threads(tiny_recipe))
    assert said == "2 threads: 16 cores, and more would hardly help networks so small"
    large = tiny_recipe.replace(teacher=Network(50, 1.0))
    assert threads.choose_threads(large).count == 16
    assert threads.choose_threads(tiny_recipe.replace(teacher=Network(18, 0.5))).count == 4


def test_a_system_that_says_nothing_stops_no_training(free, monkeypatch):
    def fails(groups):
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(cores, "used_by_others", fails)
    assert threads.choose_threads().count == 2


def test_trainings_that_are_starting_count(free, tmp_path):
    def file(process, age=0.0):
        path = tmp_path / f"{cores.ANNOUNCED}{process}-x"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
        return path

    file(os.getpid())
    file("nonsense")
    assert cores.starting() == 0
    old = file(os.getppid(), age=60)
    assert cores.starting() == 0
    assert old.exists()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = file(ended.pid)
    assert cores.starting() == 0
    assert not dead.exists()
    file(os.getppid())
    assert cores.starting() == 1
    assert threads.choose_threads().count == 1


def test_an_announcement_ends_with_what_keeps_it(free, tmp_path):
    kept = cores.announce()
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(kept.name)]
    del kept
    assert not [*tmp_path.iterdir()]


TWO = """
import sys, time
from hfld_lite.storage import cores, threads
def measured(groups):
    time.sleep(0.5)
    return [0.0]
cores.physical_cores, cores.quotas, cores.used_by_others = lambda: 2, dict, measured
print("ready", flush=True)
sys.stdin.readline()
print(threads.use_threads().count)
"""


def test_two_that_start_at_once_see_each_other(tmp_path):
    env = {name: text for name, text in os.environ.items() if name not in threads.WISHES}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", TWO], env=env | {"TMPDIR": str(tmp_path)}, **pipes)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in both] == ["1\n", "1\n"]
    assert not [*tmp_path.iterdir()]


# The user's wish


@pytest.mark.parametrize("name", threads.WISHES)
def test_a_variable_of_the_environment_wins(free, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    count = torch.get_num_threads()
    free(64, 0.0)
    assert threads.use_threads() == threads.Threads(count, name)
    assert threads.choose_threads(before=5).count == count
    assert torch.get_num_threads() == count


def test_a_number_given_to_torch_wins(free):
    torch.set_num_threads(3)
    for _ in range(2):
        assert str(threads.use_threads()) == "3 threads: torch.set_num_threads"
        assert torch.get_num_threads() == 3


def test_what_was_chosen_before_is_no_wish(free):
    free(2, 1.0)
    assert threads.use_threads().count == torch.get_num_threads() == 1
    free(2, 0.0)
    assert threads.use_threads().count == torch.get_num_threads() == 2
    torch.set_num_threads(3)
    assert threads.use_threads().count == 3


def test_pythons_threads_know_what_was_chosen_and_what_was_wished(free):
    def in_a_new_one():
        found = []
        thread = threading.Thread(target=lambda: found.append(str(threads.use_threads())))
        thread.start()
        thread.join()
        return found[0]

    free(2, 1.0)
    threads.use_threads()
    free(4, 0.0)
    assert in_a_new_one() == "4 threads: 4 cores, nothing else running"
    assert torch.get_num_threads() == 1  # here
    assert threads.use_threads().count == 4
    torch.set_num_threads(3)
    assert in_a_new_one() == "3 threads: torch.set_num_threads"


WISH = """
import torch
torch.set_num_threads(5)
from hfld_lite.storage.threads import use_threads
print(use_threads())
"""


def test_a_number_given_to_torch_before_the_import_wins():
    env = {name: text for name, text in os.environ.items() if name not in threads.WISHES}
    done = subprocess.run(
        [sys.executable, "-c", WISH], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "5 threads: torch.set_num_threads\n"


FIRST = """
import os, sys, types
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit(print(os.environ.get("GOMP_SPINCOUNT")))
sys.meta_path.insert(0, Watch())
if len(sys.argv) > 1:  # as if it were loaded
    sys.modules["torch"] = types.ModuleType("torch")
try:
    import hfld_lite
except (ImportError, AttributeError):
    print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "loaded", "expected"),
    [
        ({}, [], "10000"),
        ({}, ["loaded"], "None"),
        ({"GOMP_SPINCOUNT": "7"}, [], "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, [], "None"),
        ({"KMP_BLOCKTIME": "0"}, [], "None"),
    ],
)
def test_how_threads_wait_is_set_before_torch_is_loaded_unless_the_user_did(
    given, loaded, expected
):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    env = {name: text for name, text in os.environ.items() if name not in names} | given
    command = [sys.executable, "-c", FIRST, *loaded]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


# The number of a run


def digests(chain):
    return {role: digest("", stage.network.state_dict()) for role, stage in chain.stages.items()}


class _Stop(Exception):
    pass


def test_a_resumed_run_keeps_its_number_and_its_bits(free, tiny_recordings, tiny_recipe, tmp_path):
    def stop(role, row):
        if (role, row["epoch"]) == ("student", 1):
            raise _Stop

    folder, options = tmp_path / "kept", {"controls": (), "progress": False}
    recipe = tiny_recipe.replace(secondary_teachers=())
    free(2, 1.0)
    whole = digests(distill_chain(tiny_recordings, recipe, **options))
    with pytest.raises(_Stop):
        distill_chain(tiny_recordings, recipe, **options, folder=folder, on_epoch=stop)
    assert threads_of(folder) == 1
    free(2, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = distill_chain(tiny_recordings, recipe, **options, folder=folder, resume=True)
    assert digests(again) == whole
    assert str(threads.threads_used()) == "1 thread: as the run was begun"


def test_another_number_by_the_users_wish_is_said(
    free, tiny_recordings, tiny_recipe, tmp_path, monkeypatch
):
    free(2, 1.0)
    Trainer(tiny_recordings, tiny_recipe, folder=tmp_path / "kept", progress=False)
    torch.set_num_threads(3)
    with pytest.warns(UserWarning, match="'threads': 1.*'threads': 3.*may differ in some bits"):
        Trainer(tiny_recordings, tiny_recipe, folder=tmp_path / "kept", resume=True, progress=False)


def test_a_run_that_was_begun_with_more_threads_than_there_are_cores_gets_these(free):
    assert threads.choose_threads(before=2) == threads.Threads(2, "as the run was begun")
    assert threads.choose_threads(before=64) == threads.Threads(2, "2 cores")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_with": {"threads": "2"}}', "[" * 99999])
def test_a_damaged_folder_says_no_number(tmp_path, text):
    assert threads_of(tmp_path) is None
    (tmp_path / "training.json").write_text(text)
    assert threads_of(tmp_path) is None


def test_chains_that_are_trained_together_have_one_number(
    free, tiny_recordings, tiny_recipe, tmp_path, monkeypatch
):
    used = iter([[1.0], [0.0], [0.0]])
    monkeypatch.setattr(cores, "used_by_others", lambda groups: next(used))
    folders = [tmp_path / "kept" / str(seed) for seed in range(2)]
    short = tiny_recipe.replace(secondary_teachers=())
    recipes = [short.replace(seed=seed) for seed in range(2)]
    chains_together(tiny_recordings, recipes, folders=folders, progress=False, controls=())
    stored = [json.loads((folder / "training.json").read_text()) for folder in folders]
    assert [facts["made_with"]["threads"] for facts in stored] == [1, 1]


def test_a_notebook_says_its_threads_and_uses_them(free):
    free(2, 1.0)
    assert environment().endswith(", 1 thread: 1 of 2 cores in use by others")
    assert torch.get_num_threads() == 1
