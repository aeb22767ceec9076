"""A graph as a list of operations, and where their activations lie, against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser, shape_inference
from random_programs import random_program
from torch import nn

from hfld_lite import ArgumentError, adapt
from hfld_lite.edge.export import to_onnx
from hfld_lite.edge.memory import activation_memory
from hfld_lite.edge.program import place, read_program
from hfld_lite.networks import SqueezeExcitation

LENGTH = 61


def logits(program, inputs):
    return program.run(inputs)[-1][:, :, 0]


def expected(network, inputs):
    with torch.no_grad():
        found = network(torch.from_numpy(inputs))
    return getattr(found, "logits", found)


def assert_equal(network, model, length):
    program = read_program(model)
    inputs = np.random.default_rng(1).random((5, length), np.float32)
    right = expected(network, inputs)
    assert right.std(0).min() > 1e-4, "the network tells inputs apart"
    torch.testing.assert_close(logits(program, inputs), right, rtol=1e-5, atol=1e-6)
    return program


@pytest.mark.parametrize(
    ("depth", "width", "length", "head"),
    [
        *((10, 1 / 16, 601, "small"), (10, 1 / 8, 600, "small"), (10, 1 / 4, 601, "small")),
        *((18, 1 / 16, 601, "small"), (18, 1 / 8, 600, "small"), (18, 1 / 4, 601, "small")),
        (50, 1 / 16, 333, "published"),
    ],
)
def test_resnets_give_torch_s_logits_and_the_arena_is_as_small_as_the_analysis_says(
    exported, depth, width, length, head
):
    network, model = exported(depth, width, length, head)
    program = assert_equal(network, model, length)
    kinds = {operation.kind for operation in program.operations}
    assert kinds == {"conv", "max pool", "add", "mean", "sigmoid", "gate"}, "ReLU is inside them"
    assert 1.0 <= place(program, 4).bytes / activation_memory(model).peak <= 1.1
    assert place(program, 1).bytes <= max(place(program, 4).bytes / 4 + 64, 4 * length)
    assert_apart(program, 4)
    assert_apart(program, 1)


class Functional(nn.Module):
    """Its convolution is read as it is, and by a ReLU of what was flattened."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 3, 5), nn.Conv1d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * (LENGTH - 4), 3)

    def forward(self, x):
        x = self.first(x[:, None])
        return self.head(torch.relu(x.flatten(1)) + self.second(x).flatten(1))


def sequence(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, LENGTH)), *layers)


ADAPTED = {
    "everything": lambda: sequence(
        nn.Conv1d(1, 3, 5, stride=2, padding=3),
        nn.BatchNorm1d(3),
        nn.MaxPool1d(3, 2, 1),
        nn.ReLU(),
        nn.Conv1d(3, 5, 4, stride=3, padding=1, bias=False),
        nn.Dropout(),
        nn.ReLU(),
        SqueezeExcitation(5, 2),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(20, 7),
        nn.Sigmoid(),
        nn.Linear(7, 3),
    ),
    "longer kernel than input": lambda: sequence(
        nn.Conv1d(1, 2, 67, stride=5, padding=9),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2, 3, bias=False),
    ),
    "linear layers": lambda: nn.Sequential(nn.Linear(LENGTH, 9), nn.ReLU(), nn.Linear(9, 2)),
    "one convolution": lambda: sequence(nn.Conv1d(1, 4, LENGTH), nn.Flatten()),
    "even kernel, same length": lambda: sequence(
        nn.Conv1d(1, 4, 4, padding="same"), nn.Flatten(), nn.Linear(4 * LENGTH, 2)
    ),
    "flattened before a ReLU": Functional,
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", ADAPTED)
def test_other_networks_give_torch_s_logits(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ADAPTED[name]()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d):
                nn.init.uniform_(layer.running_mean, -1, 1)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, -2, 2)
                nn.init.uniform_(layer.bias, -1, 1)
    network.eval()
    path = next(iter(dict(network.named_children())))
    program = assert_equal(network, to_onnx(adapt(network, path), LENGTH), LENGTH)
    assert_apart(program, 4)
    relus = [operation for operation in program.operations if operation.kind == "relu"]
    assert len(relus) == (name in ("everything", "flattened before a ReLU"))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((nn.Conv1d(1, 4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(228, 2)), "operator Tanh,"),
        ((nn.Conv1d(1, 4, 5, padding=2, padding_mode="circular"), nn.Flatten()), "operator Pad,"),
        ((nn.AvgPool1d(2), nn.Flatten(), nn.Linear(30, 2)), "operator AveragePool,"),
        ((nn.Unflatten(2, (1, LENGTH)), nn.Conv2d(1, 2, (1, LENGTH)), nn.Flatten()), "of 2 axes"),
    ],
)
def test_layers_of_torch_are_refused_by_their_operator(layers, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        read_program(to_onnx(sequence(*layers), LENGTH))
    assert str(caught.value).endswith(
        "export it as onnx, or build it of 1-D convolutions, linear layers, ReLU, sums, gates and "
        "pooling."
    )


GRAPHS = {
    "GRU, Concat": "y, h = GRU<hidden_size = 2>(x, w, w) z = Concat<axis = 1>(x, x)",
    "LSTM": "y, h = LSTM<hidden_size = 2>(x, w, w)",
    "ConvTranspose": "z = ConvTranspose(x, w)",
    "AveragePool": "z = AveragePool<kernel_shape = [2]>(x)",
    "Concat": "z = Concat<axis = 1>(x, x)",
    "BatchNormalization": "z = BatchNormalization(x, b, b, b, b)",
    "Clip": "z = Clip(x)",
    "Sub": "z = Sub(x, x)",
    "Conv with groups": "z = Conv<group = 2, kernel_shape = [3]>(x, w)",
    "Conv with dilation": "z = Conv<dilations = [2], kernel_shape = [3]>(x, w)",
    "Conv of 2 axes": "z = Conv<kernel_shape = [3, 1]>(x, w)",
    "Conv of two activations": "z = Conv<kernel_shape = [3]>(x, x)",
    "Conv on reshaped channels": "z = Conv<kernel_shape = [3]>(x, v)",
    "Conv with other padding than stated": (
        'z = Conv<auto_pad = "SAME_UPPER", kernel_shape = [3]>(x, w)'
    ),
    "MaxPool with other padding than stated": (
        "z = MaxPool<ceil_mode = 1, kernel_shape = [3], strides = [2]>(x)"
    ),
    "MaxPool with dilation": "z = MaxPool<dilations = [2], kernel_shape = [3]>(x)",
    "MatMul of two activations": "z = MatMul(x, x)",
    "MatMul with another matrix than a pooling's": "z = MatMul(x, m)",
    "Add with a constant as its input": "z = Add(x, b)",
    "Mul of shapes (1, 8) and (1, 8)": "z = Mul(x, x)",
    "ReduceMean over other axes than positions": "z = ReduceMean(x, axis)",
    "Gemm with factors": "f = Flatten(x) z = Gemm<alpha = 2.0>(f, l)",
    "Unsqueeze that changes channels or positions": (
        "c = Conv<kernel_shape = [3]>(x, w) f = Flatten(c) z = Unsqueeze(f, axis)"
    ),
    "Relu as its last layer": "f = Flatten(x) g = Gemm<transB = 1>(f, l) z = Relu(g)",
    "Conv as its last layer": "z = Conv<kernel_shape = [3]>(x, w)",
    "Relu behind the logits": "f = Flatten(x) z = Gemm<transB = 1>(f, l) r = Relu(x)",
}


@pytest.mark.parametrize("words", GRAPHS)
def test_operators_that_are_not_written_in_c_are_refused_by_name(words):
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 18]>
        graph (float[batch, 1, 8] x) => (float p)
        <float[2, 1, 3] w = {{1, 2, 3, 4, 5, 6}}, float[1, 2, 3] v = {{1, 2, 3, 4, 5, 6}},
         float[1] b = {{1}}, float[2, 8] l = {{{", ".join("1" * 16)}}},
         float[8, 2] m = {{{", ".join("1" * 16)}}}, int64[1] axis = {{1}}>
        {{ {GRAPHS[words]} p = Softmax(z) }}"""
    )
    with pytest.raises(ArgumentError) as caught:
        read_program(shape_inference.infer_shapes(model))
    assert f" {words}, not written in C;" in str(caught.value)


def test_a_graph_without_softmax_is_refused():
    text = """<ir_version: 8, opset_import: ["": 18]>
        graph (float[batch, 8] x) => (float[batch, 8] y) { y = Relu(x) }"""
    with pytest.raises(ArgumentError, match="operator Relu at its end"):
        read_program(parser.parse_model(text))
    text = text.replace("Relu", "Softmax")
    with pytest.raises(ArgumentError, match="Softmax as its last layer"):
        read_program(parser.parse_model(text))


def assert_apart(program, width):
    """No operation writes over anything that it or a later one still reads."""
    places, operations = place(program, width), program.operations
    sizes = [width * c * p for c, p in program.shapes]
    assert places.bytes >= 4 * program.shapes[0].positions, "floats, before they are quantised"
    assert len(places.offsets) == len(program.shapes) - 1, "all but the logits"
    assert max(map(sum, zip(places.offsets, sizes[:-1], strict=True))) <= places.bytes
    assert places.offsets[0] == 0
    assert all(offset % 4 == 0 for offset in (*places.offsets, places.bytes))

    def overlap(i, j):
        (a, b), (m, n) = (places.offsets[i], places.offsets[j]), (sizes[i], sizes[j])
        return a < b + n and b < a + m

    for step, operation in enumerate(operations[:-1]):
        made = {0, *(op.output for op in operations[:step])}
        read_later = {i for op in operations[step + 1 :] for i in op.inputs}
        out = operation.output
        for kept in made & read_later:
            assert not overlap(out, kept)
        for i in operation.inputs:
            if overlap(out, i):
                assert operation.kind in ("add", "gate", "relu", "sigmoid")
                assert places.offsets[i] == places.offsets[out]
                assert sizes[i] == sizes[out]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]))
def test_no_activation_lies_over_another_that_is_still_read(seed, width):
    assert_apart(random_program(seed, most=12), width)


def test_an_activation_keeps_its_place_where_it_is_read_twice():
    found = [random_program(seed, ("add", "relu", "conv")) for seed in range(30)]
    assert any(
        place(program, 4).offsets[op.inputs[0]] == place(program, 4).offsets[op.output]
        for program in found
        for op in program.operations[:-1]
        if op.kind in ("add", "relu")
    ), "some are computed in place"
