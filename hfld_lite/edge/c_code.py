"""A program of operations as C: its weights as const arrays, and a function that calls the kernels.

What is written is read by `templates/c/hfld_kernels.h`.
"""

from collections.abc import Iterable

import numpy as np

from hfld_lite.edge.integers import LOWEST, Integers, Numbers
from hfld_lite.edge.program import Operation, Places, Program, place

BLOCK = 4
"""Output channels that a kernel sums at once: HFLD_BLOCK in hfld_kernels.h."""


def network_header(program: Program, eight_bits: bool) -> str:
    """``hfld_network.h``: which precision is compiled, and how much memory it needs."""
    choice = "#ifndef HFLD_FLOAT32\n#define HFLD_INT8 1\n#endif\n"
    if not eight_bits:
        choice = (
            "#ifndef HFLD_FLOAT32\n#define HFLD_FLOAT32 1 /* int8 was not exported */\n#endif\n"
        )
    wide, narrow = (place(program, width).bytes for width in (4, 1))
    return f"""/* The network: float32, or eight bits unless HFLD_FLOAT32 is defined. */

#ifndef HFLD_NETWORK_H
#define HFLD_NETWORK_H

{choice}
#ifdef HFLD_INT8
#define HFLD_NETWORK_BYTES {narrow}
#else
#define HFLD_NETWORK_BYTES {wide}
#endif

/* arena: HFLD_NETWORK_BYTES, which begin with the floats that hfld_view wrote. */
void hfld_network(void *arena, float *logits);

#endif
"""


def float32_source(program: Program) -> str:
    """``hfld_float32.c``."""
    places, tables, calls = place(program, 4), [], []
    for number, op in enumerate(program.operations):
        values = []
        if op.kind == "conv":
            values = [
                _table("float", f"weights_{number}", _blocks(op.weight)),
                _table("float", f"bias_{number}", op.bias),
                f"static const hfld_conv conv_{number} = {{{_shape(program, op)}, "
                f"{int(op.relu)}, weights_{number}, bias_{number}}};",
            ]
        elif op.kind == "max pool":
            values = [f"static const hfld_shape pool_{number} = {_shape(program, op)};"]
        tables += values
        calls.append(_call(program, places, number, op, "float", int(op.relu)))
    return _source("HFLD_FLOAT32", tables, calls, "float")


def int8_source(integers: Integers) -> str:
    """``hfld_int8.c``."""
    program = integers.program
    places, tables, calls = place(program, 1), [], []
    scale, zero = np.float32(1 / integers.scales[0]), integers.zeros[0]
    count = program.shapes[0].positions
    calls.append(f"hfld_quantise({c_number(scale)}, {zero}, {count}, arena, at);")
    for number, (op, found) in enumerate(zip(program.operations, integers.numbers, strict=True)):
        tables += _int8_tables(integers, number, op, found)
        calls.append(_call(program, places, number, op, "int8_t", integers.zeros[op.output]))
    return _source("HFLD_INT8", tables, calls, "int8_t")


def _int8_tables(integers: Integers, number: int, op: Operation, found: Numbers) -> list[str]:
    zeros, zero = [integers.zeros[i] for i in op.inputs], integers.zeros[op.output]
    low = zero if op.relu else LOWEST
    if op.kind == "conv":
        last = found.scale is not None
        tables = [
            _table("int8_t", f"weights_{number}", _blocks(found.weight)),
            _table("int32_t", f"bias_{number}", found.bias),
        ]
        names = f"weights_{number}, bias_{number}"
        if last:
            tables.append(_table("float", f"scale_{number}", found.scale))
            names += f", 0, 0, scale_{number}"
        else:
            tables.append(_table("int32_t", f"multiplier_{number}", found.multiplier))
            tables.append(_table("uint8_t", f"shift_{number}", found.shift))
            names += f", multiplier_{number}, shift_{number}, 0"
        shape = _shape(integers.program, op)
        numbers = f"{zeros[0]}, {zero}, {low}"
        return [
            *tables,
            f"static const hfld_conv conv_{number} = {{{shape}, {numbers}, {names}}};",
        ]
    if op.kind == "max pool":
        return [f"static const hfld_shape pool_{number} = {_shape(integers.program, op)};"]
    if op.kind == "sigmoid":
        return [_table("int8_t", f"table_{number}", found.table)]
    if op.kind == "relu":
        return []
    m = [*found.multiplier.tolist(), 0][:2]
    values = [zeros[0], zeros[-1], zero, low, *m, int(found.shift[0])]
    return [f"static const hfld_fixed fixed_{number} = {{{', '.join(map(str, values))}}};"]


def _call(
    program: Program, places: Places, number: int, op: Operation, kind: str, number_of_relu: int
) -> str:
    """The line that computes an operation; offsets count values of the precision."""
    width = 4 if kind == "float" else 1
    last = op is program.operations[-1]
    at = [f"at + {places.offsets[i] // width}" for i in op.inputs]
    out = "logits" if last else f"at + {places.offsets[op.output] // width}"
    before, shape = program.shapes[op.inputs[0]], program.shapes[op.output]
    count = shape.channels * shape.positions
    arguments = [*at, out]
    sizes: list[object] = []
    if op.kind == "conv":
        name, sizes = "convolve", [f"&conv_{number}"]
        if width == 1:
            arguments = [*at, *(("0", "logits") if last else (out, "0"))]
    elif op.kind == "max pool":
        name, sizes = "max_pool", [f"&pool_{number}"]
    else:
        name = op.kind
        fixed = [f"&fixed_{number}"] if width == 1 else []
        sizes = {
            "add": [*(fixed or [number_of_relu]), count],
            "gate": [*fixed, *shape],
            "mean": [*fixed, *before, shape.positions],
            "relu": [*([number_of_relu] if width == 1 else []), count],
            "sigmoid": [*([f"table_{number}"] if width == 1 else []), count],
        }[op.kind]
    return f"hfld_{name}({', '.join(map(str, [*sizes, *arguments]))});"


def _source(condition: str, tables: list[str], calls: list[str], kind: str) -> str:
    body, table = "\n    ".join(calls), "\n".join(tables)
    return f"""#include "hfld_network.h"

#ifdef {condition}
#include "hfld_math.h"
#include "hfld_kernels.h"

{table}

void hfld_network(void *arena, float *logits)
{{
    {kind} *at = arena;
    {body}
}}

#else
typedef int hfld_no_{condition.removeprefix("HFLD_").lower()}; /* C has no empty files */
#endif
"""


def _shape(program: Program, op: Operation) -> str:
    before, after = program.shapes[op.inputs[0]], program.shapes[op.output]
    values = [*before, *after, op.kernel, op.stride, op.pad]
    return "{" + ", ".join(map(str, values)) + "}"


def _blocks(weight: np.ndarray) -> np.ndarray:
    """Weights ``(outputs, inputs, kernel)`` in the order ``[block][kernel][input][channel]``."""
    rows = weight.transpose(2, 1, 0)
    ends = range(0, len(weight), BLOCK)
    return np.concatenate([rows[:, :, begin : begin + BLOCK].ravel() for begin in ends])


def _table(kind: str, name: str, values: Iterable[object]) -> str:
    lines, line = [], ""
    for text in (c_number(value) for value in values):
        if len(line) + len(text) + 2 > 96:
            lines.append(line)
            line = ""
        line += f" {text},"
    lines.append(line)
    body = "\n".join(f"   {line}" for line in lines)
    return f"static const {kind} {name}[] = {{\n{body}\n}};"


def c_number(value: object) -> str:
    """A number as C has it, a float32 with all its digits."""
    if isinstance(value, np.floating):
        text = f"{float(value):.9g}"
        return text + ("f" if "." in text or "e" in text else ".0f")
    return str(int(value))
