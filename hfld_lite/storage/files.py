"""Files: written completely or not at all, and read without trusting what they claim.

The readers raise a ValueError or an OSError whose text completes the sentence "… cannot be read
(…)"; the callers know which file it is and how to mend it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

JSON_BYTES = 1 << 23
"""The longest JSON file that is read, 8 MiB: its values take up to 30 times that in memory."""

SLACK = 1 << 24
RATIO = 64
"""Compressed data may expand to ``SLACK + RATIO · size``. Recordings expand far less than that,
because noise hardly compresses."""

_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file completely or not at all, even if the power fails.

    Args:
        path: of the file; the folder must exist.
        content: text (UTF-8), bytes, or a function that fills the file whose path it gets.

    Raises:
        OSError: it cannot be written; the previous file is unchanged.
    """
    part = path.with_name(path.name + ".part")
    try:
        if callable(content):
            content(part)
        else:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(part)
        os.replace(part, path)
        _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot flush a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\.|$)", re.IGNORECASE)


def portable_name(text: str) -> str:
    """A text as the name of a file or folder, on Windows too; different texts may give one name.

    Windows refuses some letters, a dot or a blank at the end, and the names of its devices. Names
    that begin with a dot are hidden elsewhere.
    """
    name = _NOT_IN_NAMES.sub("_", text)[:100].rstrip(". ")
    return f"_{name}" if not name or name[0] == "." or _DEVICES.match(name) else name


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of named tensors, in hexadecimal."""

    def parts() -> Iterator[Any]:
        yield text.encode()
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
            yield value.reshape(-1).view(torch.uint8).numpy()

    return bytes_digest(parts())


def plain(tensor: Tensor) -> Tensor:
    """A copy as safetensors can write it: contiguous, on the CPU, sharing memory with no other."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def bytes_digest(parts: Iterable[Any]) -> str:
    """SHA-256 of bytes or arrays, one after the other, in hexadecimal."""
    result = hashlib.sha256()
    for part in parts:
        result.update(part)
    return result.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfolded(size: int) -> int:
    """The most that ``size`` bytes of a file may expand to, in bytes or samples."""
    return SLACK + RATIO * size


def regular_size(path: Path) -> int:
    """Size in bytes of a regular file.

    Raises:
        ValueError: it is a folder, a device or a pipe, whose reading might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file but a folder, a device or a pipe")
    return status.st_size


def read_text(path: Path, most: int) -> str:
    """The text of a regular file of ``most`` bytes at most, in UTF-8, or in UTF-16 with its mark.

    A mark at the beginning (BOM), as Windows writes it, is not part of the text.

    Raises:
        ValueError: it is too long, or in another encoding.
    """
    size = regular_size(path)
    if size > most:
        raise ValueError(f"it has {size} bytes, and the limit is {most}")
    with path.open("rb") as file:
        data = file.read(most)
    if what := stand_in(data):
        raise ValueError(f"it {what[0]}: {what[1]}")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    name, encoding = ("UTF-16", "utf-16") if wide else ("UTF-8", "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"it is not in {name}: byte {data[error.start]:#04x} in line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it holds NUL characters, so it is not in UTF-8; save it as UTF-8")
    return text


_STAND_INS = (
    (rb"version https?://[\w./-]*git-lfs", "is a pointer of Git LFS", "run `git lfs pull`"),
    (rb"[./]*[\w./-]*/annex/objects/", "is a pointer of git-annex", "run `git annex get`"),
    (rb"<!doctype html|<html|<head|<body", "is a web page", "download the file itself"),
    (rb"<\?xml|<error", "is a server's answer in XML", "download the file itself"),
    (rb"\x00\x05\x16\x07", "is the companion of a file of a Mac (AppleDouble)", "remove it"),
    (rb"pk\x03\x04", "is a ZIP archive or a spreadsheet (.xlsx)", "unpack or export it"),
    (rb"\x1f\x8b", "is a gzip archive", "unpack it"),
)


def stand_in(data: bytes) -> tuple[str, str] | None:
    """What stands in a file's place, by its first bytes, and the way out; None if that is unknown.

    Servers and repositories deliver pointers, web pages and archives under other files' names.
    """
    head = data[:1024].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next((found for form, *found in _STAND_INS if re.match(form, head)), None)


def read_json(path: Path) -> Any:
    """The value in a JSON file (RFC 8259); what two readers could read differently is refused.

    Raises:
        ValueError: it is too long, nested too deeply or not JSON; an object has a key twice; a
            number is NaN, infinite or too large for a float; a string is not Unicode text.
    """
    text = read_text(path, JSON_BYTES)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_constant=_float
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _SURROGATE.search(text):  # half a character, which cannot be printed
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} occurs twice")
    return result


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
