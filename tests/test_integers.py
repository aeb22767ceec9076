"""A network in eight bits against the same sums in Python's own integers, and against floats."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from random_programs import random_inputs, random_program

from hfld_lite import ArgumentError, DataError
from hfld_lite.edge.export import CALIBRATION, INPUT, quantise, session
from hfld_lite.edge.integers import MOST_SHIFT, fixed_point, to_integers, windows
from hfld_lite.edge.program import KINDS, Operation, Program, Shape, _real, read_program

INT32 = range(-(2**31), 2**31)

seeds = st.integers(0, 2**32 - 1)


@given(st.floats(2.0**-31, 2.0**30 - 1))
def test_fixed_point_is_within_2_to_the_minus_30(ratio):
    m, h = fixed_point(ratio)
    assert 2**30 <= m < 2**31
    assert 1 <= h <= MOST_SHIFT
    assert abs(Fraction(m, 2**h) / Fraction(ratio) - 1) < Fraction(1, 2**30)


@given(st.floats(0, 2.0**-31))
def test_a_tiny_fixed_point_errs_by_less_than_half_a_step_of_any_sum(ratio):
    m, h = fixed_point(ratio)
    assert 0 <= m < 2**31
    assert h <= MOST_SHIFT
    assert abs(Fraction(m, 2**h) - Fraction(ratio)) * 2**31 < Fraction(1, 2)


def test_fixed_point_of_powers_of_two_is_exact_and_a_large_one_is_refused():
    for exponent in range(-31, 30):
        m, h = fixed_point(2.0**exponent)
        assert Fraction(m, 2**h) == Fraction(2) ** exponent
    below = float(np.nextafter(1.0, 0))
    assert Fraction(*map(int, (fixed_point(below)[0], 2 ** fixed_point(below)[1]))) == 1
    with pytest.raises(ArgumentError, match=r"1\.07e\+09 times that before it; expected below"):
        fixed_point(2.0**30)


def test_windows_are_those_of_adaptive_pooling():
    for positions, outputs in product(range(1, 14), range(1, 14)):
        x = torch.rand(1, 1, positions, dtype=torch.float64)
        means = [x[0, 0, a:b].mean() for a, b in windows(positions, outputs)]
        right = torch.nn.functional.adaptive_avg_pool1d(x, outputs)[0, 0]
        torch.testing.assert_close(torch.stack(means), right)


def by_hand(integers, step, x):
    """An operation's results for one recording, by loops over Python's integers.

    ``x`` has for each input a list of positions of each channel, as they are stored.
    """
    program, numbers = integers.program, integers.numbers[step]
    op = program.operations[step]
    before, out = program.shapes[op.inputs[0]], program.shapes[op.output]
    zeros, zero = [integers.zeros[i] for i in op.inputs], integers.zeros[op.output]
    low = zero if op.relu else -128

    def settle(total, m=None, h=None):
        h = int(numbers.shift[0]) if h is None else h
        moved = total if m is None else total * m
        assert abs(moved) + 2 ** (h - 1) < 2**63, "in 64 bits"
        rounded = (moved + 2 ** (h - 1)) // 2**h
        assert rounded + zero in INT32, "before it is clipped"
        return min(127, max(low, zero + rounded))

    found = []
    for c, p in product(range(out.channels), range(out.positions)):
        begin = p * op.stride - op.pad
        inside = range(max(0, begin), min(before.positions, begin + op.kernel))
        if op.kind == "conv":
            total = int(numbers.bias[c])
            for i, t in product(range(before.channels), inside):
                total += int(numbers.weight[c, i, t - begin]) * (x[0][i][t] - zeros[0])
            assert total in INT32
            if numbers.scale is None:
                found.append(settle(total, int(numbers.multiplier[c]), int(numbers.shift[c])))
            else:
                found.append(float(np.float32(total) * numbers.scale[c]))
        elif op.kind == "max pool":
            found.append(max(x[0][c][t] for t in inside))
        elif op.kind == "relu":
            found.append(max(x[0][c][p], zeros[0]))
        elif op.kind == "sigmoid":
            found.append(int(numbers.table[x[0][c][p] + 128]))
        elif op.kind == "mean":
            a, b = p * before.positions // out.positions, (p + 1) * before.positions
            b = (b + out.positions - 1) // out.positions
            total = sum(x[0][c][t] - zeros[0] for t in range(a, b))
            found.append(settle(total, int(numbers.multiplier[0]) // (b - a)))
        elif op.kind == "gate":
            total = (x[0][c][p] - zeros[0]) * (x[1][c][0] - zeros[1])
            found.append(settle(total, int(numbers.multiplier[0])))
        else:
            m = numbers.multiplier.tolist()
            a, b = (each[c][p] - z for each, z in zip(x, zeros, strict=True))
            found.append(settle(a * m[0] + b * m[1]))
    return np.reshape(found, out)


def assert_as_by_hand(integers, inputs):
    values = integers.run(inputs)
    stored = values[:-1]
    assert all(v.min() >= -128 and v.max() <= 127 for v in stored)
    for step, op in enumerate(integers.program.operations):
        x = [values[i][0].tolist() for i in op.inputs]
        assert values[op.output][0].numpy().tolist() == by_hand(integers, step, x).tolist()
    return values


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, loud=st.sampled_from([1, 1, -1, 30]))
def test_each_operation_is_that_of_python_s_integers(kind, seed, loud):
    program = random_program(seed, (kind, "conv"), 3)
    assume(any(op.kind == kind for op in program.operations))
    integers = to_integers(program, random_inputs(program, CALIBRATION))
    assert_as_by_hand(integers, loud * random_inputs(program, 1, 1))


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_each_result_is_within_a_step_of_the_float_one(seed):
    """Of the float result of the same rounded inputs and weights."""
    program = random_program(seed)
    inputs = random_inputs(program, CALIBRATION)
    integers = to_integers(program, inputs)
    stored = integers.run(inputs)
    values = [
        (q.double() - zero) * scale
        for q, zero, scale in zip(stored, integers.zeros, integers.scales, strict=True)
    ]
    values[-1] = stored[-1]  # logits
    for op in program.operations:
        x = [values[i] for i in op.inputs]
        allowed, step = 0.501, integers.scales[op.output]
        if op.kind == "conv":
            weight = op.weight.astype(float)
            unit = np.abs(weight).max((1, 2), keepdims=True) / 127
            # The bias is rounded, too.
            allowed += integers.scales[op.inputs[0]] * unit.max() / step
            op = replace(op, weight=np.rint(weight / unit) * unit, bias=op.bias.astype(float))
        elif op.kind == "sigmoid":
            allowed = 1.001  # 1 has no number
        found = _real(op, x, program.shapes[op.output])
        if op.output < len(stored) - 1:
            low, high = (q - integers.zeros[op.output] for q in (-128, 127))
            found = found.clamp(low * step, high * step)
        assert (found - values[op.output]).abs().max() <= allowed * step


def test_the_input_is_rounded_to_the_nearest_step_and_clipped():
    program = random_program(0, ("conv",), 1)
    length = program.shapes[0].positions
    calibration = np.zeros((CALIBRATION, length), np.float32)
    calibration[0, :2] = -1, 3
    integers = to_integers(program, calibration)
    assert integers.scales[0] == pytest.approx(4 / 255)
    assert integers.zeros[0] == -64, "-128 + 1 / (4 / 255), rounded"
    given_ = np.array([[-9.0, -1, 0, 0.0078, 0.0079, 1, 3, 9]], np.float32)
    assert integers.quantise_input(given_).tolist() == [[-128, -128, -64, -64, -63, 0, 127, 127]]


def layer(weight, bias, length=1):
    """A convolution over one channel, and a linear layer that only passes its channels on."""
    weight = np.array(weight, np.float32).reshape(len(bias), 1, -1)
    count = len(bias)
    kernel = weight.shape[2]
    return Program(
        [Shape(1, length), Shape(count, length - kernel + 1), Shape(count, 1)],
        [
            Operation("conv", (0,), 1, kernel, weight=weight, bias=np.array(bias, np.float32)),
            Operation(
                "conv",
                (1,),
                2,
                length - kernel + 1,
                weight=np.eye(count, dtype=np.float32)[:, :, None].repeat(length - kernel + 1, 2),
                bias=np.zeros(count, np.float32),
            ),
        ],
    )


def test_a_channel_of_zeros_and_one_of_tiny_weights_keep_their_biases():
    program = layer([0, 1e-12, 1e-30, 1, 0], [0, 3, -2, 0, 0.5])
    inputs = np.linspace(0, 1, CALIBRATION, dtype=np.float32)[:, None]
    integers = to_integers(program, inputs)
    first = integers.numbers[0]
    assert np.abs(first.bias.astype(float)).max() < 1.001 * 2**30
    assert first.weight[0] == 0
    assert first.weight[3] == 127
    values = assert_as_by_hand(integers, inputs[-1:])
    found = (values[1][0, :, 0] - integers.zeros[1]) * integers.scales[1]
    np.testing.assert_allclose(found, [0, 3, -2, 1, 0.5], atol=0.51 * integers.scales[1])


def test_very_many_weights_do_not_overflow_32_bits():
    length = 100_000
    program = layer(np.ones(length), [1.0], length)
    inputs = np.ones((CALIBRATION, length), np.float32)
    inputs[:25] = 0
    integers = to_integers(program, inputs)
    total = int(integers.numbers[0].weight.astype(int).sum()) * 255 + int(
        integers.numbers[0].bias[0]
    )
    assert total in INT32
    logits = integers.logits(inputs)[:, 0]
    np.testing.assert_allclose(logits[[0, -1]], [1, 1 + length], atol=1.1 * integers.scales[1])


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_constant_activations_have_a_scale(value):
    program = layer([1, 0, -2], [0, 0, 0])
    integers = to_integers(program, np.full((CALIBRATION, 1), value, np.float32))
    assert all(scale > 0 for scale in integers.scales)
    assert all(-128 <= zero <= 127 for zero in integers.zeros)
    assert_as_by_hand(integers, np.array([[5.0]], np.float32))
    found = integers.logits(np.array([[value]], np.float32))
    np.testing.assert_allclose(found, [[value, 0, -2 * value]], atol=0.02)


def test_ranges_below_zero_have_their_zero_point_at_the_top():
    program = layer([1.0, 0.5], [-3, -4])
    inputs = -np.linspace(1, 2, CALIBRATION, dtype=np.float32)[:, None]
    integers = to_integers(program, inputs)
    assert integers.zeros[:2] == [127, 127]
    np.testing.assert_allclose(integers.logits(inputs), inputs * [1, 0.5] - [3, 4], atol=0.06)


def test_sums_that_nearly_cancel_stay_within_32_bits():
    """One input is the other one's negative but for rounding, and calibration saw no more."""
    ones = np.ones((1, 1, 1), np.float32)
    zero = np.zeros(1, np.float32)
    program = Program(
        [Shape(1, 1), Shape(1, 1), Shape(1, 1), Shape(1, 1)],
        [
            Operation("conv", (0,), 1, weight=-ones, bias=np.full(1, 1e-12, np.float32)),
            Operation("add", (0, 1), 2),
            Operation("conv", (2,), 3, weight=ones, bias=zero),
        ],
    )
    inputs = np.arange(CALIBRATION, dtype=np.float32)[:, None] % 2  # the sum is 1e-12 or 0
    integers = to_integers(program, inputs)
    for loud in (0, 1, -1, 1e9, -1e9):
        assert_as_by_hand(integers, np.array([[loud]], np.float32))


def test_too_few_rows_cannot_calibrate():
    program = random_program(0)
    with pytest.raises(DataError) as caught:
        to_integers(program, random_inputs(program, CALIBRATION - 1))
    assert str(caught.value) == (
        "calibration: there are 49 recordings; expected 50 or more, to know the range of the "
        "activations; train on more recordings, or export in float32 (onnx, c-float32)."
    )


def test_probabilities_are_near_those_of_onnx_runtime_in_eight_bits(exported):
    model = ModelProto.FromString(exported(10, 1 / 16, 601, "small")[1].SerializeToString())
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    (head,) = [value for value in model.graph.initializer if value.name == gemm.input[1]]
    sharp = 20 * numpy_helper.to_array(head)  # so that probabilities differ
    head.CopyFrom(numpy_helper.from_array(sharp, head.name))
    inputs = np.random.default_rng(0).normal(size=(200, 601)).cumsum(1).astype(np.float32)
    inputs = np.abs(inputs) / np.abs(inputs).max(1, keepdims=True)
    integers = to_integers(read_program(model), inputs[:100])
    ours = torch.softmax(torch.from_numpy(integers.logits(inputs)), 1).numpy()
    exact, theirs = (
        session(each).run(None, {INPUT: inputs})[0]
        for each in (model, quantise(model, inputs[:100]))
    )
    assert np.ptp(exact, 0).max() > 0.5, "the network tells inputs apart"
    assert np.abs(ours - theirs).max() < 0.05
    assert np.abs(ours - exact).mean() < 1.2 * np.abs(theirs - exact).mean()
