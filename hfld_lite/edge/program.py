"""A network as a short list of operations, read from its ONNX graph, for writing it in C.

The list has what a microcontroller does one after the other: convolutions with ReLU inside, sums,
poolings, gates. A linear layer on flattened features ``(C, P)`` is a convolution of kernel P. Each
operation can also be computed here, in float32, for calibration and for comparison.
"""

import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor

from hfld_lite.errors import ArgumentError

KINDS = ("conv", "add", "max pool", "mean", "gate", "sigmoid", "relu")
"""The operations; ``mean`` averages positions as adaptive pooling does, ``gate`` multiplies each
channel by one number."""

SHAPES = {"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Identity"}
"""Operators of ONNX that keep the values and their order."""

SHUFFLES = 200
"""Random orders that are tried to pack the arena."""

ALIGNED = 4
"""Each tensor begins at a multiple of so many bytes."""


class Shape(NamedTuple):
    """Channels and positions of an activation of one recording."""

    channels: int
    positions: int


@dataclass
class Operation:
    """One operation; tensors are numbers, positions in :attr:`Program.shapes`.

    Attributes:
        kind: of `KINDS`.
        inputs, output: tensors.
        kernel, stride, pad: of a convolution or max pooling; ``pad`` before the first position.
        relu: whether negative results become 0.
        weight, bias: of a convolution, ``(outputs, inputs, kernel)`` and ``(outputs,)``, float32.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    relu: bool = False
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclass
class Program:
    """A network: tensor 0 is what it reads, the last operation's output are the logits."""

    shapes: list[Shape] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def run(self, inputs: np.ndarray | Tensor) -> list[Tensor]:
        """Every tensor for inputs ``(n, length)``, float32 ``(n, channels, positions)``."""
        values: list[Tensor] = [torch.as_tensor(inputs, dtype=torch.float32)[:, None]]
        for operation in self.operations:
            x = [values[i] for i in operation.inputs]
            values.append(_real(operation, x, self.shapes[operation.output]))
        return values


def _real(op: Operation, x: list[Tensor], shape: Shape) -> Tensor:
    if op.kind == "conv":
        after = (shape.positions - 1) * op.stride + op.kernel - op.pad - x[0].shape[2]
        found = F.conv1d(
            F.pad(x[0], (op.pad, max(0, after))),
            torch.tensor(op.weight),
            torch.tensor(op.bias),
            op.stride,
        )
    elif op.kind == "add":
        found = x[0] + x[1]
    elif op.kind == "max pool":
        found = F.max_pool1d(x[0], op.kernel, op.stride, op.pad)
    elif op.kind == "mean":
        found = F.adaptive_avg_pool1d(x[0], shape.positions)
    elif op.kind == "gate":
        found = x[0] * x[1]
    else:
        found = torch.sigmoid(x[0]) if op.kind == "sigmoid" else x[0]
    return torch.relu(found) if op.relu else found


class _Reader:
    """Walks over a graph once, and refuses what it does not know."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.sizes = {  # without the batch
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.readers: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.program = Program()
        length = graph.input[0].type.tensor_type.shape.dim[-1].dim_value
        self.tensors = {graph.input[0].name: self._tensor(1, length)}
        self.made_by: dict[int, Operation] = {}

    def _tensor(self, channels: int, positions: int) -> int:
        self.program.shapes.append(Shape(channels, positions))
        return len(self.program.shapes) - 1

    def _append(
        self, node: onnx.NodeProto, shape: tuple[int, int], kind: str, *inputs: int, **more: object
    ) -> None:
        output = self._tensor(*shape)
        operation = Operation(kind, inputs, output, **more)
        self.program.operations.append(operation)
        self.tensors[node.output[0]], self.made_by[output] = output, operation

    def read(self, node: onnx.NodeProto) -> None:
        """Append what a node does."""
        if node.op_type in SHAPES:
            self._reshape(node)
        else:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            getattr(self, f"on_{node.op_type.lower()}")(node, attributes)

    def _reshape(self, node: onnx.NodeProto) -> None:
        """The same tensor, flattened or with axes of size 1 between channels and positions."""
        tensor, shape = self._input(node)
        before, after = node.input[0], node.output[0]
        sizes = self.sizes.get(after, [])
        if len(sizes) != 1 and (not sizes or (sizes[0], sizes[-1]) != shape):
            raise _unknown(f"{node.op_type} that changes channels or positions")
        self.readers[after] = self.readers.get(after, 0) + self.readers[before] - 1
        self.tensors[after] = tensor

    def _input(self, node: onnx.NodeProto, which: int = 0) -> tuple[int, Shape]:
        if node.input[which] not in self.tensors:
            raise _unknown(f"{node.op_type} with a constant as its input")
        tensor = self.tensors[node.input[which]]
        return tensor, self.program.shapes[tensor]

    def _constant(self, node: onnx.NodeProto, which: int) -> np.ndarray:
        if node.input[which] not in self.known:
            raise _unknown(f"{node.op_type} of two activations")
        return self.known[node.input[which]]

    def _window(self, node: onnx.NodeProto, given: dict) -> tuple[int, int, int, int]:
        """Kernel, stride, and padding on both sides, of one axis."""
        kernel = given["kernel_shape"]
        if len(kernel) != 1:
            raise _unknown(f"{node.op_type} of {len(kernel)} axes")
        plain = (given.get("dilations", [1]) == [1], given.get("group", 1) == 1)
        if not all(plain):
            raise _unknown(f"{node.op_type} with {'groups' if plain[0] else 'dilation'}")
        if given.get("ceil_mode") or given.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise _unknown(f"{node.op_type} with other padding than stated")
        return kernel[0], given.get("strides", [1])[0], *given.get("pads", [0, 0])

    def on_conv(self, node: onnx.NodeProto, given: dict) -> None:
        x, (channels, positions) = self._input(node)
        weight = self._constant(node, 1)
        kernel, stride, pad, after = self._window(node, given)
        if weight.shape[1] != channels:
            raise _unknown("Conv on reshaped channels")
        bias = self._constant(node, 2) if len(node.input) > 2 else np.zeros(len(weight), "f")
        out = len(weight), (positions + pad + after - kernel) // stride + 1
        values = {"kernel": kernel, "stride": stride, "pad": pad, "weight": weight, "bias": bias}
        self._append(node, out, "conv", x, **values)

    def on_gemm(self, node: onnx.NodeProto, given: dict) -> None:
        weight = self._constant(node, 1)
        if not given.get("transB"):
            weight = weight.T
        if given.get("transA") or (given.get("alpha", 1), given.get("beta", 1)) != (1, 1):
            raise _unknown("Gemm with factors")
        bias = self._constant(node, 2) if len(node.input) > 2 else np.zeros(len(weight), "f")
        self._linear(node, weight, bias)

    def _linear(self, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray) -> None:
        """A convolution over all positions: flattened features are channel after channel."""
        x, shape = self._input(node)
        weight = np.ascontiguousarray(weight).reshape(len(weight), *shape)
        values = {"kernel": shape.positions, "weight": weight, "bias": bias}
        self._append(node, (len(weight), 1), "conv", x, **values)

    def on_matmul(self, node: onnx.NodeProto, _: dict) -> None:
        x, (channels, positions) = self._input(node)
        right = self._constant(node, 1)
        if len(self.sizes[node.input[0]]) == 1:
            return self._linear(node, right.T, np.zeros(right.shape[1], "f"))
        means = F.adaptive_avg_pool1d(torch.eye(positions), right.shape[1]).numpy()
        if means.shape != right.shape or not np.allclose(means, right, atol=1e-6):
            raise _unknown("MatMul with another matrix than a pooling's")
        self._append(node, (channels, right.shape[1]), "mean", x)
        return None

    def on_reducemean(self, node: onnx.NodeProto, given: dict) -> None:
        x, (channels, _) = self._input(node)
        axes = self._constant(node, 1).tolist() if len(node.input) > 1 else given.get("axes")
        rank = len(self.sizes[node.input[0]]) + 1  # pooling has an axis of size 1 before the last
        wanted = {rank - 1} if rank == 3 else {rank - 1, rank - 2}
        if {axis % rank for axis in axes or ()} != wanted:
            raise _unknown("ReduceMean over other axes than positions")
        self._append(node, (channels, 1), "mean", x)

    def on_globalaveragepool(self, node: onnx.NodeProto, _: dict) -> None:
        x, (channels, _) = self._input(node)
        self._append(node, (channels, 1), "mean", x)

    def on_maxpool(self, node: onnx.NodeProto, given: dict) -> None:
        x, (channels, positions) = self._input(node)
        kernel, stride, pad, after = self._window(node, given)
        out = channels, (positions + pad + after - kernel) // stride + 1
        self._append(node, out, "max pool", x, kernel=kernel, stride=stride, pad=pad)

    def _pair(self, node: onnx.NodeProto, kind: str) -> None:
        pair = [self._input(node, which) for which in (0, 1)]
        pair.sort(key=lambda each: -each[1].positions)
        (x, shape), (y, other) = pair
        expected = shape if kind == "add" else Shape(shape.channels, 1)
        if other != expected:
            raise _unknown(f"{node.op_type} of shapes {tuple(shape)} and {tuple(other)}")
        self._append(node, shape, kind, x, y)

    def on_add(self, node: onnx.NodeProto, _: dict) -> None:
        self._pair(node, "add")

    def on_mul(self, node: onnx.NodeProto, _: dict) -> None:
        self._pair(node, "gate")

    def on_sigmoid(self, node: onnx.NodeProto, _: dict) -> None:
        x, shape = self._input(node)
        self._append(node, shape, "sigmoid", x)

    def on_relu(self, node: onnx.NodeProto, _: dict) -> None:
        x, shape = self._input(node)
        before = self.made_by.get(x)
        if before and before.kind in ("conv", "add") and self.readers[node.input[0]] == 1:
            before.relu, self.tensors[node.output[0]] = True, x
        else:
            self._append(node, shape, "relu", x, relu=True)


def _unknown(*what: str) -> ArgumentError:
    known = "operator" if len(what) == 1 else "operators"
    return ArgumentError(
        f"The network has the {known} {', '.join(what)}, not written in C; export it as onnx, or "
        "build it of 1-D convolutions, linear layers, ReLU, sums, gates and pooling."
    )


def read_program(model: onnx.ModelProto) -> Program:
    """The operations of a network's graph up to its logits.

    Args:
        model: of :func:`hfld_lite.edge.export.to_onnx`, without a recipe, of inputs ``(length,)``.

    Raises:
        ArgumentError: if an operator is not of those that are written in C; it is named.
    """
    *nodes, last = model.graph.node
    if last.op_type != "Softmax":
        raise _unknown(f"{last.op_type} at its end")
    kinds = dict.fromkeys(node.op_type for node in nodes)
    if unknown := [k for k in kinds if k not in SHAPES and not hasattr(_Reader, f"on_{k.lower()}")]:
        raise _unknown(*unknown)
    reader = _Reader(model.graph)
    for node in nodes:
        reader.read(node)
    program = reader.program
    if reader.tensors.get(last.input[0]) != len(program.shapes) - 1:
        raise _unknown(f"{nodes[-1].op_type} behind the logits")
    ending = program.operations[-1] if program.operations else Operation("nothing", (), 0)
    if ending.kind != "conv" or ending.relu or program.shapes[-1].positions != 1:
        raise _unknown(f"{model.graph.node[-2:][0].op_type} as its last layer")
    return program


class Places(NamedTuple):
    """Where activations are in the arena: an offset in bytes for each tensor but the logits."""

    offsets: list[int]
    bytes: int


def place(program: Program, width: int) -> Places:
    """Give each activation a place in one arena, such that none overwrites one still needed.

    Each tensor is placed at the lowest offset that is free while it lives, the largest first
    (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020), or in
    one of SHUFFLES random orders if that needs less in all. Sums, gates, ReLU and sigmoid write
    over an input that nothing reads later. What the network reads is at 0, in float32 whatever the
    precision: it is quantised in place.

    Args:
        program: of :func:`read_program`.
        width: bytes of a value, 4 or 1.
    """
    sizes = [-(-width * c * p // ALIGNED) * ALIGNED for c, p in program.shapes]
    floats = 4 * program.shapes[0].positions
    last = {0: 0}
    for step, op in enumerate(program.operations):
        last |= dict.fromkeys((*op.inputs, op.output), step)
    home, lives = {0: 0}, {0: [-1, last[0]]}  # the tensor whose place each has, and how long
    for step, op in enumerate(program.operations[:-1]):
        inside = op.kind in ("add", "gate", "relu", "sigmoid")
        dying = [i for i in op.inputs if inside and i and lives[home[i]][1] == step]
        same = [i for i in dying if program.shapes[i] == program.shapes[op.output]]
        home[op.output] = home[same[0]] if same else op.output
        begin, end = lives.setdefault(home[op.output], [step, step])
        lives[home[op.output]] = [begin, max(end, last[op.output])]
    inner = [tensor for tensor in lives if tensor]
    rng = random.Random(0)
    orders = [sorted(inner, key=lambda tensor: -sizes[tensor])]
    orders += [rng.sample(inner, len(inner)) for _ in range(SHUFFLES)]
    found = min((_offsets(order, lives, sizes) for order in orders), key=lambda each: each.bytes)
    return Places([found.offsets[home[tensor]] for tensor in home], max(found.bytes, floats))


def _offsets(order: list[int], lives: dict[int, list[int]], sizes: list[int]) -> Places:
    placed = {0: 0}
    for tensor in order:
        begin, end = lives[tensor]
        taken = sorted(
            (low, low + sizes[other])
            for other, low in placed.items()
            if lives[other][0] <= end and begin <= lives[other][1]
        )
        offset = 0
        for low, high in taken:
            if offset + sizes[tensor] <= low:
                break
            offset = max(offset, high)
        placed[tensor] = offset
    total = max(low + sizes[tensor] for tensor, low in placed.items())
    return Places([placed.get(tensor, -1) for tensor in range(len(sizes))], total)
