"""Windows by construction: what POSIX alone has is not needed, and names are such as it allows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hfld_lite
from hfld_lite.storage.files import portable_name

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "posix")
NAMES = """
O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fork forkpty getegid geteuid getgid getloadavg
getpgid getuid killpg mkfifo nice pread pwrite sched_getaffinity setsid statvfs sync sysconf uname
""".split()  # noqa: SIM905

PROGRAM = f"""
import importlib, os, pkgutil, sys
import hfld_lite

def load():
    names = [found.name for found in pkgutil.walk_packages(hfld_lite.__path__, "hfld_lite.")]
    for name in names:
        importlib.import_module(name)
    return names

load()  # the packages that this one uses know how to do without
for name in [name for name in sys.modules if name.partition(".")[0] == "hfld_lite"]:
    del sys.modules[name]
sys.modules.update(dict.fromkeys({MODULES}))
for name in {NAMES}:
    if name != "fork":  # torch's loader asks for it
        vars(os).pop(name, None)
import hfld_lite
print(len(load()))
"""


def test_the_library_is_imported_without_what_posix_alone_has():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_no_function_uses_what_posix_alone_has():
    found = []
    for path in Path(hfld_lite.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & set(MODULES)
            elif isinstance(node, ast.ImportFrom):
                names = {node.module} & set(MODULES)
            else:
                of_os = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "os"
                names = {node.attr} & set(NAMES) if of_os else set()
            found += [f"{path.name}:{node.lineno}: {name}" for name in names]
    assert not found


@pytest.mark.parametrize(
    ("text", "name"),
    {
        "good": "good",
        "N 7/8": "N 7_8",
        "a:b?": "a_b_",
        "con": "_con",
        "Aux.wav": "_Aux.wav",
        "COM1": "_COM1",
        "console": "console",
        "end. ": "end",
        "..": "_",
        ".hidden": "_.hidden",
        "": "_",
        "空洞": "空洞",
        "x" * 300: "x" * 100,
    }.items(),
)
def test_a_name_is_one_that_windows_allows(text, name):
    assert portable_name(text) == name
    assert portable_name(name) == name
