"""Checkpoints of a training: written completely or not at all, and read only if undamaged."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hfld_lite.errors import HfldError, RecipeError
from hfld_lite.storage import ranks
from hfld_lite.storage.files import digest, plain, read_json, write_whole
from hfld_lite.version import __version__

FORMAT = 1
"""Version of the checkpoints' format."""

KEPT = 2
"""Checkpoints kept of the current stage, so that there is another if the newest is damaged."""

FACTS = "training.json"


class DamagedError(HfldError):
    """A checkpoint that differs from what was written."""


class Checkpoints:
    """The checkpoints of one training: one for each finished stage, two for the current one.

    The folder holds ``training.json``, ``STAGE.safetensors`` for each finished stage, and
    ``STAGE.epoch-N.safetensors`` for the last epochs of the current stage. Each is written to a
    temporary file, flushed to the disk and renamed, so that a kill at any moment damages no other.

    Args:
        folder: created if it does not exist.
        facts: JSON values in which a resumed training must agree with the training that was begun.
        device: that it runs on. If device, number of devices, torch's threads or versions differ
            from those of the beginning, the results are not bit-identical, and there is a warning;
            `threads_of` says with how many threads to resume.
        resume: continue the training in the folder, or begin one if there is none.

    Raises:
        RecipeError: if the folder cannot be written, holds a training although ``resume`` is
            False or other files, or that training has other facts; the message names the first
            that differs.
    """

    def __init__(
        self,
        folder: str | Path,
        facts: Mapping[str, Any],
        device: str = "cpu",
        resume: bool = False,
    ) -> None:
        made_with = {
            "hfld_lite": __version__,
            "torch": torch.__version__,
            "device": device if ranks.count() == 1 else f"{ranks.count()} {device}",
            "threads": torch.get_num_threads(),
        }
        self.folder, path = Path(folder), Path(folder) / FACTS
        self._unfit: set[Path] = set()
        facts = {"format": FORMAT, **facts}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            leftovers = [FACTS + ".part"]
            if path.exists():
                leftovers = [file.name for file in self.folder.glob("*.part")]
            elif others := {file.name for file in self.folder.iterdir()}.difference(leftovers):
                raise RecipeError(
                    f"{folder} holds other files ({min(others)}); choose a new folder."
                )
            for leftover in leftovers:
                (self.folder / leftover).unlink(missing_ok=True)
            if not path.exists():
                text = json.dumps({**facts, "made_with": made_with}, indent=2) + "\n"
                write_whole(path, text)
            elif not resume:
                raise RecipeError(
                    f"{folder} holds a training already; resume it or choose another folder."
                )
        except OSError as error:
            raise RecipeError(
                f"{folder} cannot be written ({error.strerror}); choose another folder."
            ) from error
        _compare(path, facts, made_with)

    def load(self, stage: str) -> dict[str, Any] | None:
        """The newest undamaged state of a stage, or None; a warning names each damaged one."""
        for path in [self._finished(stage), *reversed(self._epochs(stage))]:
            if not path.exists():
                continue
            try:
                return read_state(path)
            except DamagedError as error:
                self._unfit.add(path)
                warnings.warn(f"{error} The one before it is used instead.", stacklevel=2)
        return None

    def save(self, stage: str, state: Mapping[str, Any], epoch: int, finished: bool) -> None:
        """Write the state of a stage after an epoch, and remove all others but the previous one.

        Newer ones are removed too: they are damaged or belong to an abandoned training.

        Raises:
            HfldError: if it cannot be written; the previous one is kept.
        """
        path = self.folder / f"{stage}.epoch-{epoch:05d}.safetensors"
        path = self._finished(stage) if finished else path
        try:
            write_state(path, state)
        except (OSError, SafetensorError, MemoryError) as error:
            raise HfldError(
                f"{path} cannot be written ({_reason(error)}). {self.kept()} Free "
                "some space or repair the folder, then resume."
            ) from error
        self._unfit.discard(path)
        if not finished:
            until = [file for file in self._epochs(stage) if file <= path]
            others = {self._finished(stage), *self.folder.glob("*.epoch-*.safetensors")}
            for old in others.difference(until[-KEPT:]):
                old.unlink(missing_ok=True)

    def stage(self, name: str, made_of: Mapping[str, str]) -> "StageCheckpoints":
        """The checkpoints of one stage, which depends on ``made_of`` besides the facts."""
        return StageCheckpoints(self, name, made_of)

    def kept(self) -> str:
        """A sentence that says which good checkpoint is the newest, and where."""
        good = set(self.folder.glob("*.safetensors")) - self._unfit
        files = sorted(good, key=lambda path: path.stat().st_mtime_ns)
        if not files:
            return f"There is no checkpoint in {self.folder} yet."
        return f"The last good checkpoint is {files[-1]}."

    def _finished(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def _epochs(self, stage: str) -> list[Path]:
        return sorted(self.folder.glob(f"{stage}.epoch-*.safetensors"))


@dataclass(frozen=True)
class StageCheckpoints:
    """The checkpoints of one stage, for `training.fit`.

    ``made_of`` names what the state depends on besides the training's facts, hashes of the
    teachers above all: a state that was reached with others is not loaded.
    """

    checkpoints: Checkpoints
    stage: str
    made_of: Mapping[str, str]

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None."""
        state = self.checkpoints.load(self.stage)
        if state is not None and state["made_of"] != dict(self.made_of):
            names = [k for k in self.made_of if state["made_of"].get(k) != self.made_of[k]]
            warnings.warn(
                f"{self.checkpoints.folder}: the stage {self.stage} was trained with another "
                f"{' and another '.join(names)} than the current one, so it is trained again.",
                stacklevel=2,
            )
            return None
        return state

    def save(self, state: Mapping[str, Any], epoch: int, finished: bool) -> None:
        """Keep the state after an epoch; see :meth:`Checkpoints.save`."""
        state = {**state, "made_of": dict(self.made_of)}
        self.checkpoints.save(self.stage, state, epoch, finished)

    def kept(self) -> str:
        """A sentence that says which checkpoint is the newest, and where."""
        return self.checkpoints.kept()


def threads_of(folder: str | Path) -> int | None:
    """The number of threads that the training in a folder was begun with; None if unknown."""
    try:
        count = read_json(Path(folder) / FACTS)["made_with"]["threads"]
    except (OSError, ValueError, TypeError, KeyError):  # Checkpoints says what is wrong with it
        return None
    return count if isinstance(count, int) and count >= 1 else None


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write dicts, lists, tuples, numbers, strings and tensors as one safetensors file.

    The tensors are stored as such, everything else as JSON in the file's metadata, with a SHA-256
    of both.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(dict(state), tensors))
    metadata = {"state": text, "sha256": digest(text, tensors)}
    write_whole(path, lambda part: save_file(tensors, part, metadata))


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote.

    Raises:
        DamagedError: if the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("sha256") != digest(metadata.get("state", ""), tensors):
            raise DamagedError(f"{path}: the checkpoint is damaged (its check sum differs).")
        return _unpack(json.loads(metadata["state"]), tensors)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: the checkpoint is damaged ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    """What went wrong, in one line; an error without a text is given by its name."""
    said = getattr(error, "strerror", None) or str(error)
    return said.splitlines()[0] if said else type(error).__name__


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Put tensors into ``tensors`` and leave a JSON value that says where they were."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = plain(value)
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs, since an optimiser's state has numbers for keys
        if odd := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"A checkpoint cannot hold a {type(odd[0]).__name__} as a key.")
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint cannot hold a {type(value).__name__}.")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _compare(path: Path, facts: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
    """Refuse to continue another training; warn if the results may not be bit-identical."""
    try:
        known = json.loads(path.read_text("utf-8"))
        if not isinstance(known, dict):
            raise ValueError("it does not hold a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error}); start the training again in another folder."
        ) from error
    for name, value in facts.items():
        if known.get(name) != json.loads(json.dumps(value)):
            raise RecipeError(
                f"{path}: the training in this folder has another {name}; resume it with the same "
                "one, or start again in another folder."
            )
    before = known.get("made_with")
    if before != made_with:
        warnings.warn(
            f"{path}: the training was begun with {before} and resumes with {dict(made_with)}, so "
            "its results may differ in some bits from those of an uninterrupted one.",
            stacklevel=3,
        )
