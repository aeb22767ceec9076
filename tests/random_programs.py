"""Random short networks of every operation, for the tests of what computes them."""

import numpy as np

from hfld_lite.edge.program import KINDS, Operation, Program, Shape

CLASSES = 3


def random_program(seed: int, kinds: tuple[str, ...] = KINDS, most: int = 8) -> Program:
    """At most so many operations of these kinds, then a linear layer to three logits."""
    rng = np.random.default_rng(seed)
    program = Program([Shape(1, int(rng.integers(1, 40)))])
    for _ in range(rng.integers(1, most + 1)):
        _append(program, rng, str(rng.choice(kinds)))
    x = len(program.shapes) - 1
    _convolve(program, rng, x, CLASSES, program.shapes[x].positions, 1, 0, 0)
    program.operations[-1].relu = False
    return program


def _append(program: Program, rng: np.random.Generator, kind: str) -> None:
    shapes = program.shapes
    recent = [len(shapes) - 1, int(rng.integers(max(0, len(shapes) - 4), len(shapes)))]
    x = int(rng.choice(recent))
    channels, positions = shapes[x]
    if kind == "conv":
        kernel, stride, pad, after = (int(rng.integers(1, high)) for high in (9, 5, 7, 7))
        pad, after = pad - 1, max(after - 1, kernel - positions - pad + 1)
        _convolve(program, rng, x, int(rng.integers(1, 10)), kernel, stride, pad, after)
    elif kind == "max pool":
        kernel = int(rng.integers(1, min(5, positions) + 1))
        stride, pad = int(rng.integers(1, 4)), int(rng.integers(0, kernel // 2 + 1))
        out = Shape(channels, (positions + 2 * pad - kernel) // stride + 1)
        _add(program, Operation(kind, (x,), 0, kernel, stride, pad), out)
    elif kind == "mean":
        _add(
            program, Operation(kind, (x,), 0), Shape(channels, int(rng.integers(1, positions + 3)))
        )
    elif kind == "gate":
        gates = [i for i, s in enumerate(shapes) if s == (channels, 1)]
        if not gates or rng.random() < 0.5:
            gates = [_add(program, Operation("mean", (x,), 0), Shape(channels, 1))]
        _add(program, Operation(kind, (x, int(rng.choice(gates))), 0), Shape(channels, positions))
    elif kind == "add":
        same = [i for i, s in enumerate(shapes) if s == (channels, positions)]
        relu = bool(rng.integers(2))
        y = int(rng.choice(same))
        _add(program, Operation(kind, (x, y), 0, relu=relu), shapes[x])
    else:
        _add(program, Operation(kind, (x,), 0, relu=kind == "relu"), shapes[x])


def _convolve(
    program: Program,
    rng: np.random.Generator,
    x: int,
    outputs: int,
    kernel: int,
    stride: int,
    pad: int,
    after: int,
) -> None:
    channels, positions = program.shapes[x]
    weight = rng.normal(size=(outputs, channels, kernel)) / np.sqrt(channels * kernel)
    operation = Operation(
        "conv",
        (x,),
        0,
        kernel,
        stride,
        pad,
        relu=bool(rng.integers(2)),
        weight=weight.astype(np.float32),
        bias=rng.normal(size=outputs).astype(np.float32) / 4,
    )
    _add(program, operation, Shape(outputs, (positions + pad + after - kernel) // stride + 1))


def _add(program: Program, operation: Operation, shape: Shape) -> int:
    program.shapes.append(shape)
    operation.output = len(program.shapes) - 1
    program.operations.append(operation)
    return operation.output


def random_inputs(program: Program, count: int, seed: int = 0) -> np.ndarray:
    """What a network may read, ``(n, length)``."""
    rng = np.random.default_rng(seed)
    return rng.random((count, program.shapes[0].positions), np.float32)
