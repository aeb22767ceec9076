"""Runs that are not finished: begun, locked, resumed, and renamed when they are complete."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError

from hfld_lite.app.facts import Origin
from hfld_lite.app.runs import (
    FACTS,
    FORMAT,
    OLD_FORMAT,
    check_format,
    empty_network,
    load_weights,
    named,
    read_object,
    save_weights,
    unfinished,
)
from hfld_lite.data.splits import Split
from hfld_lite.errors import RecipeError
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import file_digest, write_whole
from hfld_lite.storage.locks import lock_beside, lock_files, unlock_beside
from hfld_lite.storage.models import LINE, Checked, Few, Index, Name, Text, explain

BEGUN, CHECKPOINTS = "begun.json", "checkpoints"
GIVEN_TEACHER = "given_teacher.safetensors"

OLD_LOCK = "lock"
"""Where hfld_lite 0.1.0 had its lock, in the unfinished run's folder."""


class Wanted(Checked):
    """What a training on good parts alone was asked for; see `train_good`."""

    false_alarms: Annotated[float, Field(gt=0, lt=1)] | None = None
    score: Name | None = None
    use_defects: bool = False


class _Begun(Checked):
    data: Origin
    command: Text
    plugins: Annotated[dict[str, Text], Few] = Field(default_factory=dict)
    """Paths of the plugins and the digests of their files."""
    teacher: bool = False
    auto: Annotated[float, Field(gt=0)] | None = None
    """Budget of the automatic choice of the recipe."""
    split: dict[str, Annotated[list[Index], Field(fail_fast=True)]] | None = None
    baselines: Annotated[list[Name], Field(fail_fast=True)] = Field(default_factory=list)
    devices: Annotated[int, Field(ge=1)] = 1
    good: Wanted | None = None


@contextmanager
def new_run(folder: str | Path, fresh: bool = False, resume: bool = False) -> Iterator[Path]:
    """Yield a folder next to ``folder``; rename it to ``folder`` when the block has succeeded.

    What follows, such as a report, is written into the finished run, which it cannot lose.

    That folder is ``FOLDER.unfinished``. It is created before the block runs, so that a place that
    cannot be written is noticed before hours of training. It is kept if the block fails after
    :func:`begin_run`. The previous content of ``folder`` is kept until the new run is complete.

    Args:
        folder: of the run.
        fresh: replace an existing run, finished or not.
        resume: continue an unfinished run.

    Raises:
        RecipeError: if the place is taken or cannot be written, if another process is training
            there, or if there is nothing to resume.
    """
    folder = named(folder)
    part = unfinished(folder)
    check_place(folder, fresh, resume)
    made = not part.exists()
    try:
        part.mkdir(parents=True, exist_ok=fresh or resume)
        lock = lock_beside(part)
    except (OSError, RecipeError) as error:
        with suppress(OSError):
            if made:
                part.rmdir()
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"{folder} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        if fresh:
            _empty(part)
        yield part
        old = folder.with_name(f".{folder.name}.old")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(part, folder)
        for rest in (folder / CHECKPOINTS, old):
            shutil.rmtree(rest, ignore_errors=True)
        for name in (OLD_LOCK, BEGUN, GIVEN_TEACHER):
            with suppress(OSError):  # the run is finished all the same
                (folder / name).unlink(missing_ok=True)
    finally:
        if part.exists() and not (part / BEGUN).exists():
            shutil.rmtree(part, ignore_errors=True)
        unlock_beside(lock, part)


def _empty(part: Path) -> None:
    """Remove what an unfinished run left."""
    (part / BEGUN).unlink(missing_ok=True)  # first, so that half a run cannot be resumed
    for path in part.iterdir():
        if path.is_dir():  # figures, of a run that was killed during its report
            shutil.rmtree(path)
        else:
            path.unlink()


def run_of(folder: Path) -> Path:
    """The folder of the run, given that folder or the unfinished one."""
    folder = named(folder)
    return folder.with_name(folder.name.removesuffix(".unfinished"))


def begin_run(
    part: Path,
    recipe: Recipe,
    data: dict[str, Any],
    command: str,
    *,
    plugins: Sequence[str] = (),
    teacher: torch.nn.Module | None = None,
    parts: Split | None = None,
    baselines: Sequence[str] = (),
    auto: float | None = None,
    devices: int = 1,
    good: Wanted | None = None,
) -> Path:
    """Write what resuming needs into a folder of `new_run`; return the folder for checkpoints.

    Args:
        part: the folder.
        recipe: of the run.
        data: how to get the recordings again, JSON values.
        command: that began the run, shown in its report.
        plugins: paths of Python files that the recipe needs.
        teacher: a trained teacher with the recipe's teacher network, whose weights are kept.
        parts: the split, if it is not drawn by the recipe.
        baselines: names of those to be fitted after the test.
        auto: budget of an automatic choice, which changes the recipe before the training.
        devices: on how many one training is divided.
        good: what a training on good parts alone was asked for.
    """
    recipe.save(part / "recipe.json")
    begun = {"format": FORMAT, "data": data, "command": command[:LINE]}
    begun |= {"plugins": {path: file_digest(Path(path)) for path in plugins}}
    begun |= {"teacher": teacher is not None, "split": parts and parts.to_dict(), "auto": auto}
    begun |= {"baselines": list(baselines), "devices": devices}
    begun |= {"good": good.model_dump()} if good else {}
    if teacher is not None:
        save_weights(teacher, part / GIVEN_TEACHER)
    write_whole(part / BEGUN, json.dumps(begun) + "\n")
    return part / CHECKPOINTS


def begun_run(
    part: Path, run_plugins: Callable[[Sequence[str]], None] = lambda plugins: None
) -> tuple[Recipe, dict[str, Any], str]:
    """Recipe, data and command that :func:`begin_run` wrote; its plugins are run before.

    Raises:
        RecipeError: if they are missing, damaged or of another format.
    """
    path = part / BEGUN
    begun = read_object(
        path, f"{path} is missing: the run was stopped before it began; add --fresh."
    )
    if begun.get("format") == OLD_FORMAT:
        raise RecipeError(
            f"{path}: hfld_lite 0.2.0 began the run, and later versions train otherwise; resume it "
            "with that version, or add --fresh to start again."
        )
    check_format(path, begun)
    try:
        checked = _Begun.model_validate(begun)
    except ValidationError as error:
        raise RecipeError(f"{path} is damaged ({explain(error)}); start the run again.") from error
    if checked.teacher and not (part / GIVEN_TEACHER).exists():
        raise RecipeError(f"{part / GIVEN_TEACHER} is missing; start the run again.")
    for plugin, known in checked.plugins.items():
        if not Path(plugin).is_file() or file_digest(Path(plugin)) != known:
            raise RecipeError(
                f"{plugin}: the plugin is missing or has changed since the run was begun; restore "
                "it, or start the run again."
            )
    run_plugins(list(checked.plugins))
    return Recipe.load(part / "recipe.json"), begun["data"], begun["command"]


def begun_auto(part: Path) -> float | None:
    """The budget of the automatic choice that :func:`begin_run` was given, or None."""
    return read_object(part / BEGUN).get("auto")


def begun_split(part: Path) -> Split | None:
    """The split that :func:`begin_run` was given, or None."""
    lists = read_object(part / BEGUN).get("split")
    return None if lists is None else Split.from_dict(lists)


def begun_baselines(part: Path) -> tuple[str, ...]:
    """The names of baselines that :func:`begin_run` was given."""
    return tuple(read_object(part / BEGUN).get("baselines", ()))


def begun_devices(part: Path) -> int:
    """The number of devices that :func:`begin_run` was given."""
    return read_object(part / BEGUN).get("devices", 1)


def begun_good(part: Path) -> Wanted | None:
    """What :func:`begin_run` was given for a training on good parts alone, or None."""
    wanted = read_object(part / BEGUN).get("good")
    return wanted and Wanted.model_validate(wanted)


def begun_plugins(part: Path) -> list[str]:
    """The paths of the plugins that :func:`begin_run` was given."""
    return list(read_object(part / BEGUN).get("plugins", {}))


def begun_teacher(part: Path, recipe: Recipe, classes: int) -> torch.nn.Module | None:
    """The trained teacher that :func:`begin_run` was given, or None."""
    path = part / GIVEN_TEACHER
    return load_weights(path, empty_network(recipe, "teacher", classes)) if path.exists() else None


def check_place(folder: str | Path, fresh: bool = False, resume: bool = False) -> None:
    """Refuse a place for a run as :func:`new_run` does, but change nothing there."""
    folder = named(folder)
    part = unfinished(folder)
    above = next((p for p in part.absolute().parents if p.exists()), Path())
    if not part.exists() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise RecipeError(f"{folder} cannot be written; choose another folder.")
    there = folder.is_dir() and any(folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose a new folder.")
    if there and not (folder / FACTS).is_file():
        raise RecipeError(f"{folder} holds other files; choose a new folder.")
    marks = (part / BEGUN, *lock_files(part), part / OLD_LOCK)
    if part.is_dir() and any(part.iterdir()) and not any(mark.exists() for mark in marks):
        raise RecipeError(f"{part} holds other files; choose another folder than {folder}.")
    if resume:
        if not part.is_dir():
            hint = (
                f"{folder} is finished; look at it with `hfld info {folder}`, make its report "
                f"again with `hfld report {folder}`"
                if there
                else "start one with `hfld train --out`"
            )
            raise RecipeError(f"There is no unfinished run {part}; {hint}.")
        return
    if there and not fresh:
        raise RecipeError(
            f"{folder} holds a run already (look at it with `hfld info {folder}`); add --fresh "
            "to replace it, or choose another folder."
        )
    if part.exists() and not fresh:
        raise RecipeError(
            f"{part} holds an unfinished run; resume it with `hfld train --resume {folder}`, or "
            "add --fresh to start again."
        )
