"""Run a submission's checks again where its answers cannot reach them; nbgrader's second opinion.

nbgrader runs a submission in one kernel, and full points stand for a test cell that shows no error.
An answer cell runs in the same kernel, so it can define ``check_soften`` anew, change the module
that the check comes from, or keep the kernel from showing errors. :func:`judge` therefore runs the
cells once more, in a process of its own:

- A check is a copy that was imported before the first answer ran and that ``sys.modules`` never
  held. The name of a check in the notebook is ignored.
- What checks call (Python's built-ins, NumPy, PyTorch, this library) is compared before and after
  each check with what it was, and put back.
- A cell that reaches for frames, the collector or the code of a function is not run.

A program that is determined enough can still mislead a check that runs in its own process.
"""

import ast
import importlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

CHECKS = "hfld_lite.course.exercises"

WATCHED = (
    "builtins",
    "contextlib",
    "copy",
    "functools",
    "hfld_lite",
    "importlib",
    "inspect",
    "math",
    "numpy",
    "operator",
    "pandas",
    "random",
    "torch._tensor",
    "torch.autograd",
    "torch.functional",
    "torch.nn",
    "torch.random",
    "warnings",
)
"""Modules that a check relies on, with what is below them, and torch itself."""

UNWATCHED = ("torch.compile", "warnings.formatwarning")
"""What libraries change themselves while they run; no check calls it."""

REACHES = frozenset(
    {
        "__closure__",
        "__code__",
        "__globals__",
        "__subclasses__",
        "_current_frames",
        "_getframe",
        "ag_frame",
        "cell_contents",
        "cr_frame",
        "ctypes",
        "currentframe",
        "f_back",
        "f_builtins",
        "f_globals",
        "f_locals",
        "gc",
        "get_ipython",
        "gi_frame",
        "setprofile",
        "settrace",
        "tb_frame",
    }
)
"""Names, attributes and strings with which a program reaches others, not asked for anywhere."""

RUNS_TEXT = frozenset({"__import__", "compile", "eval", "exec"})
"""Built-ins that would run what this module cannot read; ``network.eval()`` is none of them."""

READ = frozenset({"capture", "matplotlib", "pinfo", "pinfo2", "pip", "time", "timeit"})
"""Magics of IPython that an answer may use; the code that they run is read like any other."""


@dataclass(frozen=True)
class Cell:
    """A code cell of a submission: its name and source, and what a learner may not change.

    A graded cell is a check. What a given cell defines, a check finds as it was defined there.
    """

    name: str
    source: str
    graded: bool = False
    given: bool = False


def judge(cells: Sequence[Cell], seconds: float = 600, folder: str = ".") -> dict[str, str]:
    """What a clean process says of each graded cell.

    Args:
        cells: all code cells in their order.
        seconds: how long the whole may take.
        folder: where the cells run, with a learner's own files beside the notebook.

    Returns:
        By the graded cell's name, nothing ("") where its check passes, else one sentence. A cell
        that was not reached, because the process ended or the time was over, has a sentence too.
    """
    token = secrets.token_hex(16)
    question = json.dumps({"token": token, "cells": [asdict(cell) for cell in cells]})
    # -P: a file "torch.py" beside the notebook is not a module.
    command = [sys.executable, "-P", "-m", __name__]
    # A package on a relative path would not be found from another folder.
    paths = [str(Path(each).resolve()) for each in _python_path() if each]
    try:
        said = subprocess.run(
            command,
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    found = {cell.name: "Its check did not come to an end." for cell in cells if cell.graded}
    for line in said.decode(errors="replace").splitlines():
        if line.startswith(token):
            found |= json.loads(line.removeprefix(token))
    return found


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


class Seal:
    """What the watched modules held; :meth:`broken` names what differs now, and puts it back."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.listed = {n: module for n, module in modules.items() if sys.modules.get(n) is module}
        self.held: list[tuple[str, Any, dict[str, Any], set[str]]] = []
        self.codes: dict[FunctionType, tuple[Any, ...]] = {}
        for name, module in modules.items():
            self._hold(name, module)
            for each in list(vars(module).values()):
                if isinstance(each, type) and each.__module__ == name:
                    self._hold(f"{name}.{each.__qualname__}", each)

    def _hold(self, name: str, owner: Any) -> None:
        parts = {
            key: value
            for key, value in vars(owner).items()
            if _acts(value) and not f"{name}.{key}".startswith(UNWATCHED)
        }
        self.held.append((name, owner, parts, set(vars(owner))))
        for value in parts.values():
            if isinstance(value, FunctionType):
                self.codes[value] = _code(value)

    def broken(self) -> list[str]:
        """Dotted names of functions and classes that were exchanged, in the order of the seal."""
        names = []
        for name, module in self.listed.items():
            if sys.modules.get(name) is not module:
                names.append(name)
                sys.modules[name] = module
        for name, owner, parts, keys in self.held:
            now = vars(owner)
            for key, value in parts.items():
                if now.get(key) is not value:
                    names.append(f"{name}.{key}")
                    setattr(owner, key, value)
            for key in [key for key in now if key not in keys and self._hides(owner, key)]:
                names.append(f"{name}.{key}")
                delattr(owner, key)
        for function, code in self.codes.items():
            if any(a is not b for a, b in zip(_code(function), code, strict=True)):
                names.append(f"{function.__module__}.{function.__qualname__}")
                function.__code__, function.__defaults__, function.__kwdefaults__ = code
        return names

    def _hides(self, owner: Any, key: str) -> bool:
        """Whether a new name is found before a built-in or a method that was found until now."""
        if isinstance(owner, ModuleType):
            return owner is not _builtins and hasattr(_builtins, key)
        return _acts(vars(owner)[key]) and any(key in vars(each) for each in owner.__mro__[1:])


_builtins: Any = importlib.import_module("builtins")


def _acts(value: Any) -> bool:
    return callable(value) or isinstance(value, ModuleType | property | classmethod | staticmethod)


def _code(function: FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _watched() -> dict[str, ModuleType]:
    return {
        name: module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and (name == "torch" or f"{name}.".startswith(tuple(f"{each}." for each in WATCHED)))
    }


def fresh_checks() -> dict[str, ModuleType]:
    """The modules of the exercises, imported anew, outside ``sys.modules``."""
    known = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(CHECKS)}
    parent = sys.modules[CHECKS.rpartition(".")[0]]
    shown = parent.exercises if known else None
    importlib.import_module(CHECKS)
    made = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(CHECKS)}
    sys.modules |= known
    if known:
        parent.exercises = shown
    return made


def reaching(source: str) -> str:
    """The first word in a cell with which it could reach the checks' own memory, or nothing."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        tree = ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return ""  # it is never run
    return next(iter(_words(tree)), "")


def _magic(call: ast.Call) -> str:
    """The first such word in what a magic runs, or the magic if it may run something else."""
    said = [each.value for each in call.args if isinstance(each, ast.Constant)]
    method, name = getattr(call.func, "attr", ""), said[0] if said else ""
    if method in ("getoutput", "system"):
        return ""  # another process, as subprocess would start it
    if method not in ("run_cell_magic", "run_line_magic") or len(said) != len(call.args):
        return "get_ipython"
    if name not in READ:
        return f"%{name}"
    line, *body = map(str, said[1:])
    code = re.sub(r"^\s*(-\w+\s+(\d+\s+)?)*", "", line) if name in ("time", "timeit") else ""
    try:
        ast.parse(code)
    except SyntaxError:
        return f"%{name}"  # options that are not understood here may hide what is run
    return reaching("\n".join([code, *body]))


def _words(tree: ast.AST) -> Iterator[str]:
    magics = {}  # get_ipython itself, by what is called of it
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            shell = node.func.value
            if isinstance(shell, ast.Call) and isinstance(shell.func, ast.Name):
                magics[shell.func] = node
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "get_ipython":
            if word := _magic(magics[node]) if node in magics else node.id:
                yield word
        elif isinstance(node, ast.Name) and node.id in REACHES | RUNS_TEXT:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in REACHES:
            yield node.attr
        elif isinstance(node, ast.Constant) and node.value in REACHES:
            yield str(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name.partition(".")[0] for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            yield from (name for name in names if name in REACHES)


def main() -> None:
    """Read the question on standard input, and say line by line what becomes of it."""
    question = json.load(sys.stdin)
    token, cells = question["token"], [Cell(**cell) for cell in question["cells"]]
    answer = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # what the answers print or ask for is heard by nobody
        os.dup2(silent, stream)

    import matplotlib as mpl
    from IPython.core.interactiveshell import InteractiveShell

    mpl.use("agg")
    importlib.import_module("torch._dynamo")  # it exchanges functions of torch when it is loaded
    importlib.import_module(CHECKS)
    # A copy for each check: a constant that an answer changed in one is as it was in the next.
    copies = {cell.name: fresh_checks() for cell in cells if cell.graded}
    seals = {name: Seal(copy) for name, copy in copies.items()}
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    sys.path.append("")  # a learner's own files beside the notebook, after everything else
    seal = Seal(_watched())
    refused, given = "", {}
    for cell in cells:
        before = dict(shell.user_ns)
        if cell.graded:
            checks, sealed = copies[cell.name], (seals[cell.name], seal)
            sentence = refused or _verdict(cell, shell.user_ns, given, checks, sealed)
            print(token + json.dumps({cell.name: sentence}), file=answer, flush=True)
            refused = ""
        elif word := reaching(cell.source):
            refused = f'A cell above it uses "{word}", which no exercise needs, and was not run.'
        else:
            InteractiveShell.run_cell(shell, cell.source, store_history=False)
        if cell.given:
            given |= _bound(before, shell.user_ns)


def _bound(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if before.get(name) is not value}


def _verdict(
    cell: Cell,
    space: dict[str, Any],
    given: dict[str, Any],
    copy: dict[str, ModuleType],
    seals: tuple[Seal, Seal],
) -> str:
    exercises = copy[CHECKS]
    checks = {name: getattr(exercises, name) for name in exercises.__all__}
    known = vars(sys.modules[CHECKS])
    own = [n for n in checks if n in space and n in cell.source and space[n] is not known.get(n)]
    private, seal = seals
    changed = seal.broken()
    # A namespace of its own: what an answer's function calls at run time is not the checks' names.
    inside = {name: value for name, value in space.items() if not hasattr(_builtins, name)}
    inside |= given | {name: check for name, check in checks.items() if name in cell.source}
    inside |= {"__builtins__": _builtins}
    before = dict(inside)
    sentence = ""
    try:
        exec(compile(cell.source, f"<{cell.name}>", "exec"), inside)
    except BaseException as error:  # an answer may also leave by SystemExit
        sentence = "".join(str(error).splitlines()[:1]) or type(error).__name__
        if not isinstance(error, AssertionError):
            sentence = f"The check stops with {type(error).__name__}: {sentence}"
    space |= _bound(before, inside)
    changed += private.broken() + seal.broken()
    if changed:
        return f"The answer changes {changed[0]}, which its check relies on."
    if own:
        return f"The answer defines {own[0]} anew, which is its check."
    return sentence


if __name__ == "__main__":
    main()
