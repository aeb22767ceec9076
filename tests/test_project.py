"""What holds the repository together: README, environments, which folder imports which."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hfld_lite

ROOT = Path(hfld_lite.__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def readme_python() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_first_python_runs_and_prints_a_table_and_probabilities():
    code = readme_python()[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    said = run_python(code)
    for word in ("student_alone", "12", "AN", "BD", "simulated"):
        assert word in said


def test_the_readmes_images_give_the_readmes_table():
    said = run_python(readme_python()[1])
    found = re.findall(r"^\d\s+(\w+)\s+(\w+)\s+(\d+)\s+(0\.\d+)", said, re.M)
    rows = re.findall(r"^\| ([\w ]+) \| (\w+) \| ([\d,]+) \| ([\d.]+) %", README, re.M)
    assert len(found) == len(rows) == 4
    for (role, network, size, accuracy), (name, kind, count, stated) in zip(
        found, rows, strict=True
    ):
        assert (role, network, size) == (name.replace(" ", "_"), kind, count.replace(",", ""))
        assert abs(100 * float(accuracy) - float(stated)) < 4, "another machine rounds differently"


def test_the_readme_names_files_that_are_there():
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"\b((?:data_scripts|hfld_lite|notebooks|tests)/[\w/.]*\w)", text):
        assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    assert targets >= {"setup", "demo", "test", "lab", "help", "bench"}


def test_conda_environment_holds_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = (d for d in environment["dependencies"] if str(d).startswith("python"))
    wanted = SpecifierSet(PROJECT["requires-python"])
    offered = SpecifierSet(python.removeprefix("python"))
    for minor in range(8, 14):
        if offered.contains(f"3.{minor}.0"):
            assert wanted.contains(f"3.{minor}.0")
    assert offered.contains("3.11.0")
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert "dev" in PROJECT["optional-dependencies"]


def test_constraints_pin_every_dependency_within_its_range():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
        if line and not line.startswith("#")
    )
    pins = {name.replace("_", "-"): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"].copy()
    assert extras.pop("baselines") == ["aeon>=1.1"]  # it asks for an older numpy and pandas
    extras = [r for extra in extras.values() for r in extra]
    for text in PROJECT["dependencies"] + extras:
        wanted = Requirement(text)
        if wanted.name == PROJECT["name"]:  # another extra of this project
            continue
        assert wanted.specifier.contains(pins[wanted.name.lower()]), text
    assert pins["torch"] == "2.13.0"


def test_imports_go_down_the_layers_only():
    """The contracts in pyproject.toml; what is wrong is in the command's output."""
    call = "lint_imports(no_cache=True)"
    program = f"import sys; from importlinter.cli import lint_imports; sys.exit({call})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_library_and_command_are_imported_without_what_only_some_need():
    program = (
        "import sys, hfld_lite.app.cli; "
        "print(*{name.partition('.')[0] for name in sys.modules} & "
        "{'sklearn', 'scipy', 'soundfile', 'lightning_fabric', 'matplotlib', 'onnx', 'torchinfo', "
        "'onnxruntime', 'ipywidgets', 'IPython', 'pandas', 'jinja2', 'dask', 'distributed'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_every_public_function_has_a_docstring_and_the_package_its_names():
    for name in hfld_lite.__all__:
        assert getattr(hfld_lite, name).__doc__, name


METHOD = ["losses", "weighting", "networks", "teachers", "distillation", "training"]
METHOD += ["hierarchy", "recipes"]


def test_the_method_can_be_read_in_an_evening():
    lines = {
        name: len((ROOT / "hfld_lite" / f"{name}.py").read_text().splitlines()) for name in METHOD
    }
    assert max(lines.values()) <= 350, lines
    assert sum(lines.values()) < 1900, lines
    beside = {path.stem for path in (ROOT / "hfld_lite").glob("*.py")} - set(METHOD)
    assert beside == {"__init__", "__main__", "errors", "version"}


def test_the_readmes_table_of_the_defaults_is_the_results():
    table = pd.read_csv(ROOT / "hfld_lite" / "results" / "defaults_tested.csv", comment="#")
    shown = re.findall(r"^\| ([a-z0-9-]+) \| (.*) \|$", README, re.M)
    shown = {name: cells.split(" | ") for name, cells in shown if name in set(table["data"])}
    columns = ["student_0.2.0", "student_0.3.0", "student_now", "student_alone_now", "teacher_now"]
    assert shown == {
        row["data"]: [
            *("–" if np.isnan(row[name]) else f"{100 * row[name]:.1f}" for name in columns),
            f"{100 * row['baseline_accuracy']:.1f} ({row['baseline']})",
        ]
        for row in table.to_dict("records")
    }
