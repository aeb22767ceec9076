"""Run folders: a trained chain on disk, written whole or not at all, and read back with care."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hfld_lite.detector import Detector, TestResult, network_of
from hfld_lite.errors import HfldError, RecipeError
from hfld_lite.hierarchy import Chain
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.recordings import Recordings
from hfld_lite.splits import Split
from hfld_lite.version import __version__

FORMAT = 1
"""Version of the run folder's format."""

FACTS = "run.json"


@dataclass(frozen=True)
class Run:
    """A run folder that was read: networks, split and the facts of ``run.json``."""

    folder: Path
    detector: Detector
    split: Split
    facts: dict[str, Any]


@contextmanager
def new_run(folder: str | Path, fresh: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; rename it to ``folder`` when the block ends well.

    The folder's place is tried before the block runs, so that hours of training are not lost to a
    place that cannot be written. What stood there stays until the new run is complete.

    Args:
        folder: where the run shall be.
        fresh: replace a run that is there.

    Raises:
        RecipeError: if the place is taken or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose a folder that is not there yet.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / FACTS).is_file():
            raise RecipeError(f"{folder} holds other files; choose a folder that is not there yet.")
        if not fresh:
            raise RecipeError(
                f"{folder} holds a run already (look at it with `hfld info {folder}`); add --fresh "
                "to replace it, or choose another folder."
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise RecipeError(
            f"{folder} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        yield part
        old = part.with_name(part.name + "-old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        folder.chmod(0o755)  # mkdtemp's folders are private
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_run(
    folder: Path, chain: Chain, result: TestResult, recordings: Recordings, data: dict[str, Any]
) -> None:
    """Write a chain and its test result into a folder that `new_run` gave.

    Args:
        folder: an empty folder.
        chain: what was trained.
        result: of ``chain.test(recordings)``.
        recordings: what it was trained on.
        data: how to get these recordings again, for ``hfld evaluate``.
    """
    detector = chain.detector
    detector.recipe.save(folder / "recipe.json")
    for role, network in detector.networks.items():
        path = folder / f"{role}.safetensors"
        save_file(network.state_dict(), path)
        path.chmod(0o644)  # safetensors makes private files; the others are not
    facts = {
        "format": FORMAT,
        "hfld_lite": __version__,
        "torch": torch.__version__,
        "class_names": detector.class_names,
        "normal_classes": detector.normal_classes,
        "sample_rate": detector.sample_rate,
        "samples": detector.samples,
        "window": recordings.window,
        "source": recordings.source,
        "simulated": recordings.simulated,
        "data": data,
        "fingerprint": recordings.fingerprint(),
        "stages": {
            role: {
                "learned_from": stage.learned_from,
                "best_epoch": int(stage.fit.best_epoch),
                "seconds": round(stage.fit.seconds, 2),
            }
            for role, stage in chain.stages.items()
        },
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "split.json").write_text(json.dumps(chain.split.to_dict()) + "\n")
    chain.history().to_csv(folder / "history.csv", index=False)
    result.table.to_csv(folder / "results.csv", index=False)
    result.predictions.to_csv(folder / "predictions.csv", index=False)


def load_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        RecipeError: if it is no run folder, was made by a newer format, or a file in it is missing
            or damaged; the message names the file.
    """
    folder = Path(folder)
    facts = _json(folder / FACTS, f"{folder} holds no run; train one with `hfld train`.")
    if facts.get("format") != FORMAT:
        raise RecipeError(
            f"{folder / FACTS}: the format is {facts.get('format')!r}; this version of hfld_lite "
            f"reads format {FORMAT}."
        )
    recipe = Recipe.load(folder / "recipe.json")
    try:
        names, roles = tuple(facts["class_names"]), tuple(facts["stages"])
        networks = {role: _network(folder, role, recipe, len(names)) for role in roles}
        detector = Detector(
            recipe,
            networks,
            names,
            tuple(facts["normal_classes"]),
            int(facts["sample_rate"]),
            int(facts["samples"]),
        )
        split = Split.from_dict(_json(folder / "split.json"))
    except RecipeError:
        raise
    except (KeyError, TypeError, ValueError, HfldError) as error:
        raise RecipeError(
            f"{folder}: the run is damaged ({error}); train it again or copy it again."
        ) from error
    return Run(folder, detector, split, facts)


def _network(folder: Path, role: str, recipe: Recipe, classes: int) -> torch.nn.Module:
    spec = network_of(recipe, role)
    network = resnet1d(spec.depth, classes, spec.width, spec.head, spec.dropout)
    path = folder / f"{role}.safetensors"
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"{path}: the weights cannot be read or do not fit the recipe ({reason}); copy the run "
            "again."
        ) from error
    return network.eval()


def _json(path: Path, missing: str = "") -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RecipeError(missing or f"{path} is missing; copy the run again.") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); copy the run again.") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no JSON object; copy the run again.")
    return content
