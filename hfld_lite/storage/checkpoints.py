"""Where a training stands, on disk: each file whole or not at all, and read only if undamaged."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hfld_lite.errors import HfldError, RecipeError
from hfld_lite.storage.files import digest, write_whole

FORMAT = 1
"""Version of the checkpoints' format."""

KEPT = 2
"""Checkpoints of the stage at work that are kept: a damaged one has one before it."""

FACTS = "training.json"


class DamagedError(HfldError):
    """A checkpoint that is not as it was written."""


class Checkpoints:
    """The checkpoints of one training: a file for each finished stage, and of the one at work two.

    The folder holds ``training.json``, ``STAGE.safetensors`` for each finished stage, and
    ``STAGE.epoch-N.safetensors`` for the last epochs of the stage at work. Each is written beside
    its place, flushed to the disk and renamed, so that a death at any moment leaves the others.

    Args:
        folder: made if it is not there.
        facts: what a training must have in common with the one that it continues, JSON values.
        made_with: what it should have in common with it, for the same bits; else a warning.
        resume: continue what is there, or begin where nothing is.

    Raises:
        RecipeError: if the folder cannot be written, holds a training although ``resume`` is
            False or other files, or that training has other facts; the message names the first
            that differs.
    """

    def __init__(
        self,
        folder: str | Path,
        facts: Mapping[str, Any],
        made_with: Mapping[str, Any],
        resume: bool = False,
    ) -> None:
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
                    f"{folder} holds other files ({min(others)}); choose a folder that is not "
                    "there yet."
                )
            for leftover in leftovers:
                (self.folder / leftover).unlink(missing_ok=True)
            if not path.exists():
                text = json.dumps({**facts, "made_with": made_with}, indent=2) + "\n"
                write_whole(path, text)
            elif not resume:
                raise RecipeError(
                    f"{folder} holds a training already; go on with it (resume) or choose another "
                    "folder."
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
        """Write the state of a stage after an epoch, and remove all but it and the one before.

        What is newer is removed too: it is damaged, or of a training that was given up.

        Raises:
            HfldError: if it cannot be written; the one before it stands.
        """
        path = self.folder / f"{stage}.epoch-{epoch:05d}.safetensors"
        path = self._finished(stage) if finished else path
        try:
            write_state(path, state)
        except (OSError, SafetensorError, MemoryError) as error:
            raise HfldError(
                f"{path} cannot be written ({_reason(error)}). {self.kept()} Make room "
                "or mend the folder and go on from there."
            ) from error
        self._unfit.discard(path)
        if not finished:
            until = [file for file in self._epochs(stage) if file <= path]
            others = {self._finished(stage), *self.folder.glob("*.epoch-*.safetensors")}
            for old in others.difference(until[-KEPT:]):
                old.unlink(missing_ok=True)

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

    ``made_of`` says by name what the state depends on besides the training's facts, hashes of the
    teachers above all: a state that was reached with others is not taken up.
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
                f"{' and another '.join(names)} than there is now, so it is trained anew.",
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


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write dicts, lists, tuples, numbers, strings and tensors as one safetensors file.

    All but the tensors is JSON in the file's metadata, beside a SHA-256 of the whole.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(dict(state), tensors))
    metadata = {"state": text, "sha256": digest(text, tensors)}
    write_whole(path, lambda part: save_file(tensors, part, metadata))


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote.

    Raises:
        DamagedError: if a bit of it is different.
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
    """What went wrong, in a line; some errors say nothing but their name."""
    said = getattr(error, "strerror", None) or str(error)
    return said.splitlines()[0] if said else type(error).__name__


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Put tensors into ``tensors`` and leave a JSON value that says where they were."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs, since an optimiser's state has numbers for keys
        if odd := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"A checkpoint holds no {type(odd[0]).__name__} as a key.")
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint holds no {type(value).__name__}.")


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
    """Refuse to continue another training; warn where the same bits cannot be promised."""
    try:
        known = json.loads(path.read_text())
        if not isinstance(known, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error}); begin the training anew in another folder."
        ) from error
    for name, value in facts.items():
        if known.get(name) != json.loads(json.dumps(value)):
            raise RecipeError(
                f"{path}: the training that was begun there has another {name} than this one; "
                "continue it with the same, or begin anew in another folder."
            )
    before = known.get("made_with")
    if before != made_with:
        warnings.warn(
            f"{path}: the training was begun with {before} and goes on with {dict(made_with)}, so "
            "its bits may differ from those of an undisturbed one.",
            stacklevel=3,
        )
