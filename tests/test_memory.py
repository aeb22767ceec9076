"""Activations' memory: worked out by hand, and against a run of the network itself."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hfld_lite import ArgumentError, Recipe, resnet1d
from hfld_lite.edge.export import quantise, quantise_dynamically, to_onnx
from hfld_lite.edge.memory import activation_memory


def graph(nodes: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A graph from ``(batch, 1, 16)`` in ONNX's text form, with weights of these shapes."""
    text = '<ir_version: 10, opset_import: ["": 20]> '
    text += "g (float[batch, 1, 16] input) => (float[batch, c, n] output) {" + nodes + "}"
    model = onnx.parser.parse_model(text)
    for name, shape in weights.items():
        values = np.full(shape, 0.1, np.float32)
        if name.startswith("shape"):
            values = np.array(shape, np.int64)
        elif name.startswith("zero"):
            values = np.array(0, np.uint8)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def listed(model: onnx.ModelProto, **options) -> list[tuple[str, int]]:
    return [(alive.operator, alive.bytes) for alive in activation_memory(model, **options).nodes]


THREE_LAYERS = """
    [first] a = Conv <kernel_shape = [3], pads = [1, 1]> (input, w1)
    [second] b = Relu (a)
    [third] c = Conv <kernel_shape = [3], pads = [1, 1], strides = [2]> (b, w2)
    d = Reshape (c, shape)
    [fourth] output = MatMul (d, w3)
"""
WEIGHTS = {"w1": (4, 1, 3), "w2": (10, 4, 3), "shape": (1, 1, 80), "w3": (80, 3)}


def test_three_layers_by_hand():
    # Values of 4 bytes: input 16 → 64 B; a: 4 channels x 16 → 256 B; c: 10 x 8 → 320 B;
    # output 3 → 12 B. The first convolution has input and a alive, 320 B. ReLU writes over a,
    # whose only reader it is, 256 B. The second convolution has b and c alive, 576 B: the peak.
    # Reshape is a view. The product reads c's 320 B and writes 12 B, 332 B.
    memory = activation_memory(graph(THREE_LAYERS, **WEIGHTS))
    assert [tuple(alive) for alive in memory.nodes] == [
        ("first", "Conv", 320),
        ("second", "Relu", 256),
        ("third", "Conv", 576),
        ("fourth", "MatMul", 332),
    ]
    assert (memory.peak, memory.node) == (576, "third")


def test_what_is_read_later_stays_alive():
    # a (64 values, 256 B) is read again by Add: ReLU must not write over it, and it is alive during
    # the convolution between. Add writes over c, or a: both die there.
    nodes = """
        a = Conv <kernel_shape = [3], pads = [1, 1]> (input, w1)
        b = Relu (a)
        c = Conv <kernel_shape = [3], pads = [1, 1]> (b, w2)
        d = Add (c, a)
        output = Sigmoid (d)
    """
    expected = [("Conv", 320), ("Relu", 512), ("Conv", 768), ("Add", 512), ("Sigmoid", 256)]
    assert listed(graph(nodes, w1=(4, 1, 3), w2=(4, 4, 3))) == expected


def test_nothing_is_written_over_a_smaller_input_or_a_view_that_is_still_read():
    # Mul's output has 4 x 16 values (256 B), g only 4 (16 B), and a is read again: 256 + 16 + 256.
    # v shows a in another shape: while v is read, ReLU may not write over a, nor does a die.
    nodes = """
        a = Conv <kernel_shape = [3], pads = [1, 1]> (input, w1)
        v = Reshape (a, shape)
        g = ReduceMean (a, axes)
        m = Mul (g, a)
        r = Relu (m)
        output = Concat <axis = 1> (r, v)
    """
    model = graph(nodes, w1=(4, 1, 3), shape=(1, 4, 16))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axes"))
    expected = [("Conv", 320), ("ReduceMean", 272), ("Mul", 528), ("Relu", 512), ("Concat", 1024)]
    assert listed(model) == expected


def test_a_result_stays_alive_to_the_end():
    nodes = "output = Relu (input) a = Concat <axis = 1> (input, input) b = Relu (a)"
    assert listed(graph(nodes)) == [("Relu", 128), ("Concat", 256), ("Relu", 192)]


QDQ = """
    q0 = QuantizeLinear (input, s, zero)
    d0 = DequantizeLinear (q0, s, zero)
    a = Conv <kernel_shape = [3], pads = [1, 1]> (d0, dw)
    q1 = QuantizeLinear (a, s, zero)
    d1 = DequantizeLinear (q1, s, zero)
    b = Conv <kernel_shape = [3], pads = [1, 1]> (d1, w2)
    q2 = QuantizeLinear (b, s, zero)
    d2 = DequantizeLinear (q2, s, zero)
    c = Add (d2, d1)
    v = Reshape (c, shape)
    q3 = QuantizeLinear (v, s, zero)
    d3 = DequantizeLinear (q3, s, zero)
    output = Softmax (d3)
"""


def test_a_quantised_graph_holds_one_byte_a_value_by_hand():
    # The input is float, 64 B, its quantised copy 16 B: 80 B. The first convolution reads 16 B and
    # writes 4 x 16 = 64 B. The second reads 64 B, writes 64 B; Add writes over one of the two.
    # Softmax is no integer kernel, as nothing is quantised behind it: the 64 values are
    # dequantised, 64 + 256 B, and it reads 256 B and writes 256 B.
    weights = {"dw": (4, 1, 3), "w2": (4, 4, 3), "s": (), "zero": (), "shape": (1, 1, 64)}
    expected = [("QuantizeLinear", 80), ("Conv", 80), ("Conv", 128), ("Add", 128)]
    expected += [("DequantizeLinear", 320), ("Softmax", 512)]
    assert listed(graph(QDQ, **weights)) == expected


def test_an_operator_whose_result_is_also_read_as_float_is_no_integer_kernel():
    # a is quantised and read by ReLU as it is: the convolution must leave its 256 B of floats, and
    # reads a float copy (64 B) of its quantised input (16 B).
    nodes = """
        q0 = QuantizeLinear (input, s, zero)
        d0 = DequantizeLinear (q0, s, zero)
        a = Conv <kernel_shape = [3], pads = [1, 1]> (d0, w1)
        q1 = QuantizeLinear (a, s, zero)
        d1 = DequantizeLinear (q1, s, zero)
        r = Relu (a)
        output = Concat <axis = 1> (d1, r)
    """
    expected = [("QuantizeLinear", 80), ("DequantizeLinear", 80), ("Conv", 320)]
    expected += [("QuantizeLinear", 320), ("DequantizeLinear", 576), ("Relu", 512)]
    found = listed(graph(nodes, w1=(4, 1, 3), s=(), zero=()))
    assert found == [*expected, ("Concat", 1024)]


class Counting(torch.fx.Interpreter):
    """Run a traced network and count the bytes of the tensors that exist after each operation.

    What Python still holds then is what the operation had alive: its inputs, which are let go of
    right after it, its output, and all that is read later. Storages count once; weights do not.
    """

    def __init__(self, module: torch.fx.GraphModule, weights: nn.Module) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.kept = {p.untyped_storage().data_ptr() for p in weights.state_dict().values()}
        self.peak = 0

    def run_node(self, node):
        result = super().run_node(node)
        storages = {}
        for value in (*self.env.values(), result):
            # Of torch's max pooling the maxima; the indices that come with them, 8 bytes each, are
            # for training, and no device makes them.
            value = value[0] if isinstance(value, tuple) else value
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        alive = sum(size for place, size in storages.items() if place not in self.kept)
        self.peak = max(self.peak, alive)
        return result


def peak_of_a_run(network: nn.Module, length: int) -> int:
    """Peak bytes in a run by torch, with batch norm folded and ReLU in place, as on a device."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.ReLU(inplace=True))
            if isinstance(child, nn.BatchNorm1d):
                module[0] = fuse_conv_bn_eval(module[0], child)
                setattr(module, name, nn.Identity())
    x = torch.rand(1, length)
    with torch.no_grad():
        traced = make_fx(lambda x: torch.softmax(network(x).logits, 1))(x)
        traced.graph.eliminate_dead_code()  # the indices again: nobody reads them
        counting = Counting(traced, network)
        counting.run(x)
    return counting.peak


@pytest.mark.parametrize("length", [1750, 3500])
@pytest.mark.parametrize("width", [1 / 16, 1 / 4, 1])
def test_the_walk_agrees_with_a_run_by_torch(width, length):
    """The run knows nothing of ONNX: torch's own trace, real tensors, Python's own counting."""
    network = resnet1d(10, 4, width, "small")
    run = peak_of_a_run(network, length)
    assert activation_memory(to_onnx(network, length)).peak == pytest.approx(run, rel=0.01)


@pytest.fixture(scope="module")
def eighth():
    return to_onnx(resnet1d(10, 4, 1 / 8, "small"), 1750)


def test_a_quantised_network_needs_a_quarter(eighth):
    inputs = np.random.default_rng(0).random((50, 1750))
    large, small = activation_memory(eighth), activation_memory(quantise(eighth, inputs))
    assert large.peak / 4 == pytest.approx(small.peak, rel=0.02)
    assert [n.operator for n in small.nodes].count("DequantizeLinear") == 1  # before the softmax
    assert [n.operator for n in small.nodes].count("QuantizeLinear") == 1  # of the input
    assert large.peak == max(n.bytes for n in large.nodes)
    assert large.node in [n.name for n in eighth.graph.node]


def test_dynamically_quantised_and_raw_graphs_are_understood(eighth):
    # Activations stay float there, with copies in eight bits besides.
    assert activation_memory(quantise_dynamically(eighth)).peak > activation_memory(eighth).peak
    network = resnet1d(10, 4, 1 / 8, "small")
    recipe = Recipe(view="spectrum", bins_by="cutting")
    raw = to_onnx(network, 1750, recipe=recipe, samples=3500)
    # The view comes first: 50 x 70 complex values, and the network's 1750 values after it.
    memory = activation_memory(raw)
    assert memory.nodes[0].bytes >= 2 * 3500 * 4
    assert memory.nodes[-1].bytes == activation_memory(eighth).nodes[-1].bytes


def test_the_model_is_left_as_it_was(eighth):
    before = eighth.SerializeToString()
    activation_memory(eighth)
    assert eighth.SerializeToString() == before


def test_an_open_length_is_taken_from_samples():
    model = graph(THREE_LAYERS, **WEIGHTS)
    dim = model.graph.input[0].type.tensor_type.shape.dim[2]
    dim.ClearField("dim_value")
    dim.dim_param = "length"
    with pytest.raises(ArgumentError, match="samples is None, but the model's input has any"):
        activation_memory(model)
    assert activation_memory(model, samples=16).peak == 576
    assert listed(model, samples=32)[:2] == [("Conv", 640), ("Relu", 512)]
    assert activation_memory(graph(THREE_LAYERS, **WEIGHTS), samples=16).peak == 576
    with pytest.raises(ArgumentError, match="samples is 17, but the model's input has 16; leave"):
        activation_memory(graph(THREE_LAYERS, **WEIGHTS), samples=17)


def test_a_shape_that_is_not_known_is_refused():
    model = graph("a = NonZero (input) output = Cast <to = 1> (a)")
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    with pytest.raises(ArgumentError, match=r"tensor 'a' \(at NonZero\) whose shape cannot be"):
        activation_memory(model)
