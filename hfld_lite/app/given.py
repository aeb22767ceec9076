"""What a user gives to a run: a trained teacher, and plugins that register losses and readers."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from hfld_lite.app.runs import empty_network, load_run, load_weights, preprocessing
from hfld_lite.data.readers import LAYOUTS, READERS
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.distillation import TERMS
from hfld_lite.errors import RecipeError
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import file_digest
from hfld_lite.weighting import WEIGHTINGS


def run_plugins(paths: Iterable[str | Path]) -> None:
    """Run Python files that register what they define, such as a loss with ``@rival("name")``.

    A file whose names are registered already, as by the run of another seed in this process, is
    not run again.

    Raises:
        RecipeError: if a file is missing or fails; the message names the line.
    """
    for path in map(Path, paths):
        name = f"hfld_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None:
            raise RecipeError(f"{path}: the plugin is missing or is not a Python file (.py).")
        key, before = (path.absolute(), file_digest(path)), _registered()
        if _RUN.get(key, {""}) <= before:
            continue
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses need it
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(path)]
            last = lines[-1] if lines else getattr(error, "lineno", None)
            line = f", line {last}" if last else ""
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise RecipeError(
                f"{path}{line}: the plugin failed ({type(error).__name__}: {said})."
            ) from error
        _RUN[key] = _registered() - before


_RUN: dict[tuple[Path, str], set[str]] = {}
"""What each plugin that was run in this process registered, by its path and digest."""


def _registered() -> set[str]:
    return {*TERMS, *WEIGHTINGS, *READERS, *LAYOUTS}


def trained_teacher(
    source: Path, recipe: Recipe, recordings: Recordings
) -> tuple[Recipe, nn.Module, Split | None]:
    """A trained teacher, the recipe with its network, and the split that it was trained on.

    The split is that of the teacher's run, if it has the same recordings: with another one the
    teacher would have learned from recordings that test the students. It is None if unknown.

    Args:
        source: a run folder, whose teacher is taken, or a safetensors file with the weights of the
            recipe's teacher network.
        recipe: of the new run.
        recordings: what the new run learns from.

    Raises:
        RecipeError: if the file does not fit the recipe, or the run's teacher knows other classes
            or reads other inputs.
    """
    classes = recordings.class_names
    if not source.is_dir():
        if source.exists() and source.suffix != ".safetensors":
            raise RecipeError(
                f"{source}: a teacher is a run folder or a .safetensors file of weights; pickled "
                "files (.pt, .pkl) can run any program, so they are not read."
            )
        if not source.exists():
            raise RecipeError(f"{source} is missing; give a run folder or a .safetensors file.")
        network = load_weights(source, empty_network(recipe, "teacher", len(classes)))
        return recipe, network, None
    run = load_run(source)
    there, here = run.detector, preprocessing(recipe)
    for what, theirs, ours in (
        ("knows the classes", ", ".join(there.class_names), ", ".join(classes)),
        ("reads recordings at Hz", there.sample_rate, recordings.sample_rate),
        ("reads samples", there.samples, recordings.samples),
        ("reads the view", preprocessing(there.recipe), here),
    ):
        if theirs != ours:
            raise RecipeError(
                f"{source}: the teacher {what} {theirs}, and this run has {ours}; use data and a "
                "recipe that agree with the teacher's, or train a teacher here."
            )
    parts = run.split if run.same(recordings) else None
    return recipe.replace(teacher=there.recipe.teacher), there.network("teacher"), parts
