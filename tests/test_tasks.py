"""What make does, works without it; and what other systems and servers read, is valid."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from hfld_lite import ArgumentError, __main__
from hfld_lite.app.cli import COMMANDS

ROOT = Path(__file__).parent.parent
TASKS = {task.__name__ for task in __main__.TASKS}
HFLD = {command.__name__ for command in COMMANDS}


@pytest.fixture
def ran(monkeypatch):
    """The programs that a task would run, none of which is run."""
    commands = []

    def run(command, **_):
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(__main__.subprocess, "run", run)
    monkeypatch.setattr(__main__.signal, "signal", lambda *_: None)
    return commands


def targets():
    """The Makefile's targets and the lines of each."""
    text = (ROOT / "Makefile").read_text()
    found = re.findall(r"^([a-z]+):.*##.*\n((?:\t.*\n)*)", text, re.M)
    return {name: lines.split("\n\t") for name, lines in found}


def test_a_target_of_make_is_the_task_of_its_name_and_nothing_else():
    own = {"help", "setup", "clean"}  # before there is a Python, and after
    assert set(targets()) - own == TASKS
    for name in TASKS:
        (line,) = targets()[name]
        assert re.fullmatch(rf"\t?@\$\(TASK\) {name}( \$\(if \$\(FRESH\),--fresh\))?\n?", line)


def test_no_task_has_the_name_of_a_command():
    assert not TASKS & HFLD


def test_the_tests_end_with_pytest_and_what_is_timed_runs_first_and_alone(ran):
    __main__.test()
    assert [command[1:3] for command in ran] == [["-m", "ruff"]] * 2 + [["-m", "pytest"]] * 2
    assert {command[0] for command in ran} == {sys.executable}
    timed, rest = ran[2:]
    assert timed[3:6] == ["tests", "-m", "timed"]
    assert "-n" not in timed
    assert rest[3:7] == ["tests", "notebooks", "-m", "not timed"]
    assert "--nbval-lax" in rest


@pytest.mark.parametrize("task", sorted(TASKS - {"demo"}))
def test_every_program_that_a_task_runs_is_there(task, ran):
    getattr(__main__, task)()
    assert ran
    for command in ran:
        for word in command[1:]:
            if re.fullmatch(r"[\w/.]+\.py", word):
                assert (ROOT / word).is_file(), word


def test_a_task_ends_with_its_programs_status(monkeypatch):
    monkeypatch.setattr(__main__, "PYTEST", (sys.executable, "-c", "raise SystemExit(5)"))
    monkeypatch.setattr(__main__, "PYTHON", sys.executable)
    with pytest.raises(typer.Exit) as ended:
        __main__._run(*__main__.PYTEST)
    assert ended.value.exit_code == 5


@pytest.mark.parametrize("task", sorted(TASKS - {"demo"}))
def test_outside_a_clone_a_task_says_how_to_get_one(task, monkeypatch, tmp_path, ran):
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    with pytest.raises(ArgumentError, match="is not a clone of the repository: clone it, and"):
        getattr(__main__, task)()
    assert not ran


@pytest.mark.parametrize(
    ("there", "fresh", "expected"),
    [
        (None, False, ["train", "--preset", "demo", "--out", "runs/demo"]),
        ("demo/run.json", False, ["info", "runs/demo"]),
        ("demo/run.json", True, ["train", "--preset", "demo", "--out", "runs/demo", "--fresh"]),
        ("demo.unfinished/run.json", False, ["train", "--resume", "runs/demo"]),
    ],
)
def test_the_demo_is_trained_once_and_resumed(there, fresh, expected, monkeypatch, tmp_path):
    called = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(__main__, "app", lambda words, **_: called.append(words))
    if there:
        (tmp_path / "runs" / there).parent.mkdir(parents=True)
        (tmp_path / "runs" / there).touch()
    __main__.demo(fresh=fresh)
    assert [[word.replace("\\", "/") for word in words] for words in called] == [expected]


def test_python_m_hfld_lite_has_the_commands_and_the_tasks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hfld_lite", "--help"])
    monkeypatch.delitem(sys.modules, "hfld_lite.__main__")
    app = __main__.app
    before = list(app.registered_commands)
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("hfld_lite", run_name="__main__")
    finally:
        app.registered_commands = before
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", said) for name in TASKS | HFLD)


def test_lab_opens_the_first_notebook_and_lists_no_solutions(ran):
    __main__.lab()
    (opened,) = re.findall(r"/lab/tree/(\S+\.ipynb)", " ".join(ran[0]))
    assert opened == min(str(p.relative_to(ROOT)) for p in ROOT.glob("notebooks/*.ipynb"))
    hidden = {word.partition("hide_globs=")[2] for word in ran[0]}
    assert {"solutions", "examination"} <= hidden
    assert all((ROOT / "notebooks" / name).is_dir() for name in ("solutions", "examination"))


def lines_of_the_workflow():
    (path,) = (ROOT / ".github" / "workflows").glob("*.yml")
    workflow = yaml.safe_load(path.read_text())
    (job,) = workflow["jobs"].values()
    return workflow, job, [step["run"] for step in job["steps"] if "run" in step]


def test_the_matrix_is_three_systems_and_the_versions_of_python_that_are_declared():
    workflow, job, _ = lines_of_the_workflow()
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML 1.1 reads `on` as true
    matrix = job["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "windows", "macos"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][0]
    low, high = map(int, re.fullmatch(r"python>=3\.(\d+),<3\.(\d+)", conda).groups())
    assert matrix["python"] == [f"3.{minor}" for minor in range(low, high)]
    assert job["runs-on"] == "${{ matrix.os }}"
    for step in job["steps"]:
        assert (
            re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) if "uses" in step else step["run"]
        )


def test_the_workflows_commands_exist_and_need_no_shell():
    for line in lines_of_the_workflow()[2]:
        assert not re.search(r"""['"$&|;<>`\\~]""", line), "PowerShell reads it in another way"
        words = shlex.split(line)
        if words[0] == "pip":
            assert words == ["pip", "install", "-c", "constraints.txt", "-e", ".[dev]"]
        else:
            assert words[:3] == ["python", "-m", "hfld_lite"]
            assert set(words[3:]) <= TASKS | HFLD


def test_a_binder_server_finds_what_it_installs():
    folder = ROOT / "binder"
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert lines[1:] == [
        "-c ../constraints.txt",
        "-e .",
    ]  # pip: -c from this file, -e from the root
    assert (folder / "../constraints.txt").is_file()
    _, job, _ = lines_of_the_workflow()
    assert (folder / "runtime.txt").read_text().strip().removeprefix("python-") in (
        job["strategy"]["matrix"]["python"]
    )
