"""How much working memory a network's activations need, found by walking over its ONNX graph.

Source: liveness analysis of compilers; tensors that do not live at the same time share memory, as
in David et al., "TensorFlow Lite Micro", 2021, section 4.4.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from hfld_lite.errors import ArgumentError

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
"""Operators that only give their input another shape: they need no memory."""

ELEMENTWISE = {
    *("Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "HardSigmoid", "BatchNormalization"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Exp", "Log"),
}
"""Operators that may write each value over the value that they read last."""

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


class Alive(NamedTuple):
    """An operator, by name and kind, and the bytes of the activations alive while it runs."""

    node: str
    operator: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Activations' memory at batch 1: ``peak`` in bytes, reached at operator ``node``.

    ``nodes`` has every operator that computes, in the order of the graph:
    ``pandas.DataFrame(memory.nodes)`` is ready to be plotted.
    """

    peak: int
    node: str
    nodes: tuple[Alive, ...]


@dataclass
class _Operator:
    """A node of the graph with its activations only: neither weights nor constants."""

    name: str
    kind: str
    inputs: list[str]
    outputs: list[str]


def activation_memory(model: onnx.ModelProto, samples: int | None = None) -> Memory:
    """Peak bytes of the activations that are alive at one operator, for one input (batch 1).

    While an operator runs, its inputs, its outputs and all that a later operator still reads are
    alive: peak = max over operators of Σ elements · bytes an element. Views need no memory of their
    own, an elementwise operator writes over an input of the same size that nobody reads after it,
    and weights and constants do not count (they stay in flash). An ideal allocator reaches the
    peak; a real one may lose some bytes to gaps, and kernels may require scratch memory.

    In an INT8 graph (of :func:`hfld_lite.edge.export.quantise`) a pair QuantizeLinear →
    DequantizeLinear stands for a tensor that is stored with one byte a value. An operator between
    them runs as an integer kernel, so it reads and writes these bytes and no float copies; one
    without a pair behind it (the softmax) reads a float copy, which counts.

    Args:
        model: of :func:`hfld_lite.edge.export.to_onnx` or :func:`hfld_lite.edge.export.quantise`.
        samples: length of the input, where the graph leaves it open.

    Raises:
        ArgumentError: if the graph's input has another length, or a shape cannot be inferred.
    """
    size = _tensor_bytes(model, samples)
    operators = _activations_only(model.graph)
    one_byte = _run_as_integers(operators, {value.name for value in model.graph.output})
    for name in one_byte:
        elements, _ = size[name]
        size[name] = elements, 1
    nodes = _walk(model.graph, operators, {name: n * width for name, (n, width) in size.items()})
    peak = max(nodes, key=lambda alive: alive.bytes)
    return Memory(peak.bytes, peak.node, nodes)


def _tensor_bytes(model: onnx.ModelProto, samples: int | None) -> dict[str, tuple[int, int]]:
    """Elements and bytes an element of every tensor in the graph, at batch 1."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    (entry,) = model.graph.input
    batch, *rest = entry.type.tensor_type.shape.dim
    _set_length(entry.name, rest[-1], samples)
    symbol = batch.dim_param
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_value = 1
    batch.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            width = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            found[value.name] = int(np.prod(shape)), width
    for operator in _activations_only(graph):
        for name in (*operator.inputs, *operator.outputs):
            if name not in found:
                raise ArgumentError(
                    f"model has a tensor {name!r} (at {operator.kind}) whose shape cannot be "
                    "inferred; export it with a fixed length of its input."
                )
    return found


def _set_length(name: str, dim: onnx.TensorShapeProto.Dimension, samples: int | None) -> None:
    if dim.HasField("dim_value"):
        if samples not in (None, dim.dim_value):
            raise ArgumentError(
                f"samples is {samples}, but the model's {name} has {dim.dim_value}; leave samples "
                "out, or export the model for this length."
            )
    elif samples is None:
        raise ArgumentError(f"samples is None, but the model's {name} has any length; give one.")
    else:
        dim.dim_value = samples


def _activations_only(graph: onnx.GraphProto) -> list[_Operator]:
    """The operators that depend on the input, with the tensors that depend on it."""
    alive = {value.name for value in graph.input}
    operators = []
    for node in graph.node:
        inputs = [name for name in dict.fromkeys(node.input) if name in alive]
        if inputs:
            operators.append(_Operator(node.name, node.op_type, inputs, list(node.output)))
            alive.update(node.output)
    return operators


def _run_as_integers(operators: list[_Operator], results: set[str]) -> set[str]:
    """Make integer kernels of the operators between DequantizeLinear and QuantizeLinear.

    They then read the quantised tensors themselves. Returns the tensors behind them that become
    one byte a value; the QuantizeLinear that did this on paper becomes a view.
    """
    readers = defaultdict(list)
    for operator in operators:
        for name in operator.inputs:
            readers[name].append(operator)
    stored = {o.outputs[0]: o.inputs[0] for o in operators if o.kind == DEQUANTISE}
    one_byte, merged = set(), []

    def until_quantised(name: str) -> tuple[list[str], list[_Operator]] | None:
        """The tensors, through views, and the QuantizeLinear that alone reads them, if it does."""
        if name in results or len(readers[name]) != 1:
            return None
        (reader,) = readers[name]
        if reader.kind == QUANTISE:
            return [name], [reader]
        if reader.kind in VIEWS and (behind := until_quantised(reader.outputs[0])):
            return [name, *behind[0]], behind[1]
        return None

    for operator in operators:
        if operator.kind in (QUANTISE, DEQUANTISE) or not stored.keys() >= set(operator.inputs):
            continue
        behind = [until_quantised(name) for name in operator.outputs]
        if all(behind):
            operator.inputs = [stored[name] for name in operator.inputs]
            for names, quantisers in behind:
                one_byte.update(names)
                merged += quantisers
    for quantiser in merged:
        quantiser.kind = "Identity"
    still_read = {name for operator in operators for name in operator.inputs}
    operators[:] = [
        o for o in operators if o.kind != DEQUANTISE or o.outputs[0] in still_read | results
    ]
    return one_byte


def _walk(
    graph: onnx.GraphProto, operators: list[_Operator], size: dict[str, int]
) -> tuple[Alive, ...]:
    """Follow the buffers from operator to operator: made, shared, and free after the last read."""
    buffer, last = _buffers(graph, operators)
    alive = {value.name: size[value.name] for value in graph.input}
    nodes = []
    for i, operator in enumerate(operators):
        if operator.kind not in VIEWS:
            made = {name: size[name] for name in operator.outputs}
            total = sum(alive.values()) + sum(made.values())
            if operator.kind in ELEMENTWISE:
                (needed,) = made.values()
                dying = {buffer[n] for n in operator.inputs if last[buffer[n]] == i}
                if any(alive[name] == needed for name in dying):
                    total -= needed
            nodes.append(Alive(operator.name, operator.kind, total))
            alive.update(made)
        alive = {name: held for name, held in alive.items() if last[name] > i}
    return tuple(nodes)


def _buffers(
    graph: onnx.GraphProto, operators: list[_Operator]
) -> tuple[dict[str, str], dict[str, int]]:
    """The buffer of each tensor (views have that of what they look at), and its last reader."""
    buffer = {value.name: value.name for value in graph.input}
    last = dict.fromkeys(buffer, -1)
    for i, operator in enumerate(operators):
        for name in operator.inputs:
            last[buffer[name]] = i
        for name in operator.outputs:
            buffer[name] = buffer[operator.inputs[0]] if operator.kind in VIEWS else name
            last.setdefault(name, i)
    for value in graph.output:
        last[buffer[value.name]] = len(operators)
    return buffer, last
