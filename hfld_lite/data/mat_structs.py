"""Check a struct of a .mat file, all that is nested in it, before scipy reads it.

Of matrices of numbers, `hfld_lite.data.mat_files` checks the outermost tags. A struct holds further
matrices, each with tags of its own: on an unknown type code in one of them scipy's interpreter
crashes, and it reserves what they claim.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from hfld_lite.storage.files import regular_size, unfolded

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHARS = 1, 2, 4
_NUMBERS = range(6, 16)  # double, single, int8, …, uint64
_DATA = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # the codes of integers and floats
_TEXT = {1, 2, 3, 4, 16, 17, 18}  # of characters
_DEEPEST = 20


def check_struct(file: Path, name: str) -> None:
    """Check every tag in the variable `name` of a .mat file of version 5.

    Raises:
        ValueError: there is no such variable, or something in it claims more than there is, or is
            neither numbers nor text nor a struct or cells of these.
    """
    regular_size(file)
    content = file.read_bytes()
    order = "<" if content[126:128] == b"IM" else ">"
    for kind, element in _elements(memoryview(content)[128:], order, padded=False):
        if kind == _COMPRESSED:
            whole = zlib.decompressobj().decompress(element, unfolded(len(element)))
            kind, element = next(_elements(memoryview(whole), order))
        if kind == _MATRIX and _header(element, order)[2] == name:
            _check(element, order, 0)
            return
    raise ValueError(f"there is no variable {name!r}")


def _elements(
    data: memoryview, order: str, padded: bool = True
) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each element ("MAT-File Format", The MathWorks, version 5)."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        at += 8
        if kind >> 16:  # a small element: up to 4 bytes, in the second half of its tag
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a small element claims {size} bytes")
            yield kind, data[at - 4 : at - 4 + size]
            continue
        if at + size > len(data):
            raise ValueError(f"an element claims {size} bytes and has {len(data) - at}")
        yield kind, data[at : at + size]
        at += size + (-size % 8 if padded else 0)


def _header(matrix: memoryview, order: str) -> tuple[int, int, str, Iterator]:
    """A matrix's class with flags, the number of its entries, its name, and what follows."""
    parts = _elements(matrix, order)
    try:
        flags, dims, name = (next(parts)[1] for _ in range(3))
        sizes = struct.unpack(f"{order}{len(dims) // 4}i", dims)
        return struct.unpack_from(order + "I", flags)[0], math.prod(sizes), _text(name), parts
    except (StopIteration, struct.error) as error:
        raise ValueError("a matrix ends within its header") from error


def _text(data: memoryview) -> str:
    return bytes(data).decode("latin-1")


def _check(matrix: memoryview, order: str, depth: int) -> None:
    if not len(matrix):  # MATLAB's [] in a field that was never set
        return
    flags, count, _, parts = _header(matrix, order)
    kind, many = flags & 0xFF, flags & 0x800  # 0x800 means complex
    if kind in _NUMBERS or kind == _CHARS:
        found = [code for code, _ in parts]
        if many or len(found) != 1 or found[0] not in (_TEXT if kind == _CHARS else _DATA):
            raise ValueError(f"a matrix has data of the types {found[:3]}")
        return
    if kind not in (_CELL, _STRUCT) or depth == _DEEPEST:
        raise ValueError(f"a matrix is of class {kind}, {depth} levels deep")
    if kind == _STRUCT:
        length, names = (data for _, data in (next(parts, (0, b"")), next(parts, (0, b""))))
        width = int.from_bytes(length, "little" if order == "<" else "big")
        count *= len(names) // width if width else 0
    children = 0
    for code, child in parts:
        children += 1
        if code != _MATRIX or children > count:
            raise ValueError(f"an element of type {code} stands where a matrix should")
        _check(child, order, depth + 1)
    if children != count:
        raise ValueError(f"{count} matrices are claimed, and there are {children}")
