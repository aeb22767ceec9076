"""The prepared folder: arrays as .npy files beside a manifest with their checksums.

It is written completely or not at all. On reading, names, types and sizes are compared before any
memory is reserved, and nothing is unpickled. Used by `Recordings.save` and `Recordings.load`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import numpy as np
from pydantic import BeforeValidator, Field, Strict, ValidationError, field_validator

from hfld_lite.data.parts import Part, part_of
from hfld_lite.errors import DataError
from hfld_lite.storage.arrays import pieces
from hfld_lite.storage.files import file_digest, read_json, write_whole
from hfld_lite.storage.models import Checked, Few, Size, Window, explain
from hfld_lite.version import __version__

MANIFEST = "manifest.json"
FORMAT = 1  # the version of this layout
WHOLES = "wholes.npy"  # only where rows are windows of recordings
ARRAYS = {"signals.npy": "<f4", "labels.npy": "<i8", "groups.npy": "<U", "origins.npy": "<U"}
ARRAYS |= {WHOLES: "<U"}
_MOST_HEADER = 10_000  # bytes, as in numpy.load
_AGAIN = "prepare the folder again"


Note = Annotated[str, Field(max_length=4096)]


class Manifest(Checked):
    """The facts in ``manifest.json``, and the files' checksums."""

    source: str
    simulated: bool
    count: Size
    samples: Size
    sample_rate: Size
    units: str
    window: Window
    classes: Annotated[list[str], Field(fail_fast=True)]
    normal_classes: Annotated[list[str], Field(fail_fast=True)]
    part: Annotated[Part | None, BeforeValidator(part_of)] = None
    notes: Annotated[tuple[Note, ...], Strict(False), Field(max_length=100)] = ()
    sha256: Annotated[dict[str, str], Few]

    @field_validator("sha256")
    @classmethod
    def _check_names(cls, sums: dict[str, str]) -> dict[str, str]:
        if set(sums) | {WHOLES} != set(ARRAYS):
            named, needed = ", ".join(sums)[:200] or "none", ", ".join(list(ARRAYS)[:-1])
            raise ValueError(
                f"the files are {named}; expected exactly {needed} and, for windows, {WHOLES}"
            )
        return sums


def write(folder: str | Path, arrays: dict, facts: dict, *, overwrite: bool = False) -> Path:
    """Write a prepared folder.

    Args:
        folder: new or empty; one that holds a prepared folder is replaced if `overwrite`.
        arrays: one for each name in `ARRAYS`, with or without `WHOLES`.
        facts: the other values of a `Manifest`.
        overwrite: see `folder`; a folder that holds anything else is never replaced.

    Returns:
        The folder's absolute path.

    Raises:
        DataError: the folder cannot be written, or there is something in it.
    """
    folder = Path(folder).expanduser().resolve()
    part = folder.parent / f".{folder.name}.{uuid4().hex[:8]}.part"
    try:
        _check_target(folder, overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        for name in arrays:
            np.save(part / name, np.asarray(arrays[name], order="C"), allow_pickle=False)
        sums = {name: file_digest(part / name) for name in arrays}
        manifest = {"format": FORMAT, "hfld_lite": __version__, **facts, "sha256": sums}
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_whole(part / MANIFEST, text)
        _move(part, folder)
    except OSError as error:
        raise DataError(
            folder,
            f"cannot be written ({error.strerror or error}: {error.filename or folder})",
            mend="choose another output folder",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def read(folder: str | Path, *, verify: bool = True) -> tuple[dict, dict]:
    """Read a prepared folder.

    Args:
        folder: as written by `write`.
        verify: compare each file with its checksum, which reads it once.

    Returns:
        The arrays by file name, memory-mapped and read-only, and the facts.

    Raises:
        DataError: a file is missing, damaged, or not what the manifest says.
    """
    folder = Path(folder)
    for name in (MANIFEST, *ARRAYS):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(folder / name, "is a link that leads out of the folder", mend=_AGAIN)
    manifest = _manifest(folder)
    arrays = {}
    for name in manifest.sha256:
        path, kind = folder / name, ARRAYS[name]
        array = arrays[name] = _map(path)
        shape = (manifest.count, manifest.samples)[: 2 if kind == "<f4" else 1]
        if array.shape != shape or not array.dtype.str.startswith(kind):
            raise DataError(
                path,
                f"holds {array.dtype} of shape {array.shape}",
                expected=f"{kind} of shape {shape}, as {MANIFEST} says",
                mend=_AGAIN,
            )
        if verify and file_digest(path) != manifest.sha256[name]:
            raise DataError(
                path,
                f"does not match its checksum in {MANIFEST}, so it was changed or damaged",
                mend=f"copy it again or {_AGAIN}",
            )
        if kind == "<U" and not _is_text(array):
            raise DataError(path, "holds numbers that are not characters", mend=_AGAIN)
    facts = manifest.model_dump(exclude={"sha256", "part"})
    return arrays, facts | {"part": manifest.part}


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            folder,
            f"holds no {MANIFEST}" if folder.is_dir() else "is not there",
            expected="a prepared folder",
            mend="make one with a program in data_scripts/ or with Recordings.save",
        )
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(path, f"is not readable as JSON ({error})", mend=_AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise DataError(
            path,
            f"the format version is {found!r}",
            expected=str(FORMAT),
            mend=f"use the version of hfld_lite that wrote it or {_AGAIN}",
        )
    try:
        return Manifest.model_validate(manifest)
    except ValidationError as error:
        raise DataError(path, explain(error), mend=_AGAIN) from error


def _map(path: Path) -> np.memmap:
    """Memory-map a .npy file whose header and size agree."""
    if not path.is_file():
        raise DataError(path, "is missing", mend=f"copy it again or {_AGAIN}")
    try:
        with path.open("rb") as file:  # numpy would reserve whatever length the header claims
            major, _ = np.lib.format.read_magic(file)
            claimed = int.from_bytes(file.read(2 if major == 1 else 4), "little")
        if claimed > _MOST_HEADER:
            raise ValueError(f"its header claims {claimed} bytes")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = array.offset + array.nbytes == path.stat().st_size
    except Exception as error:  # numpy's header parser raises many kinds on damaged input
        raise DataError(path, f"is not a whole .npy file ({error})", mend=_AGAIN) from error
    if not whole or not array.flags.c_contiguous:
        raise DataError(path, "its size does not fit its header", mend=f"copy it again or {_AGAIN}")
    return array


def _is_text(array: np.ndarray) -> bool:
    """Return whether all code points of a string array are characters of Unicode."""
    if array.itemsize == 0:
        return True
    for piece in pieces(array):
        codes = np.array(piece).view("<u4")
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            return False
    return True


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(folder, "is a file", expected="a folder", mend="choose another name")
    inside = {path.name for path in folder.iterdir()}
    if others := sorted(inside - {MANIFEST, *ARRAYS}):
        raise DataError(
            folder,
            f"holds other files ({', '.join(others[:3])})",
            expected="a new or an empty folder",
        )
    if inside and not overwrite:
        raise DataError(
            folder,
            "already holds recordings",
            mend="choose another folder or ask for overwriting (overwrite=True, --overwrite)",
        )


def _move(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`; remove the previous folder only after that."""
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_suffix(".old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
