"""What `pip install hfld_lite` brings, tried in an empty environment: all that notebooks read."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hfld_lite"
IMPORT = re.compile(r"^from hfld_lite[\w.]* import (?:\([^)]*\)|.+)", re.M)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the clone; setuptools is the one of here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "hfld_lite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", folder, source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_the_tables_and_little_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    tables = {name for name in inside if name.startswith("hfld_lite/results/")}
    needed = inside - {name for name in tables if not name.endswith(".csv")}
    assert needed == {name for name in names if not re.match(r"hfld_lite-[\d.]+\.dist-info/", name)}
    assert sum(name.endswith(".csv") for name in tables) > 10
    assert wheel.stat().st_size < 1_000_000


def imports_and_tables():
    """Lines of Python: every import from hfld_lite and every stored table of the notebooks."""
    lines = set()
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                lines |= set(
                    re.findall(r"^from hfld_lite[\w.]* import (?:\([^)]*\)|.+)", source, re.M)
                )
                lines |= set(re.findall(r'stored_table\("[^"]+"\)', source))
    return sorted(lines, key=lambda line: ("stored" in line.partition("(")[0], line))


def test_every_import_and_table_of_the_notebooks_works_after_pip_install(wheel, tmp_path):
    # An environment that has the dependencies and nothing of this clone, in another folder.
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", site, wheel], check=True, timeout=120)
    lines = imports_and_tables()
    assert sum("stored_table(" in line for line in lines) > 5
    program = [
        "import hfld_lite",
        f"assert hfld_lite.__file__.startswith({str(site)!r}), hfld_lite.__file__",
        *lines,
        "start(hfld_lite.__version__)",
    ]
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *others])}
    program.insert(0, "from hfld_lite.course import start")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "\n".join(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hfld_lite ")
