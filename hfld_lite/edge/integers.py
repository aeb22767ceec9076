"""A network in eight bits, with integers alone: what a microcontroller computes, also here.

A real value x is stored as the integer q with x = s (q − z): scale s, zero point z. Weights have a
scale for each output channel and z = 0, activations one s and z a tensor, from the range on
calibration recordings. A convolution sums in 32 bits,

    a_c = b_c + Σ w_ck (q_k − z_in),   q_out = z_out + ⌊(a_c m_c + 2^(h_c − 1)) / 2^(h_c)⌋,

clipped to −128 … 127. Its bias b_c is in units of s_in s_c, and m_c 2^(−h_c) ≈ s_in s_c / s_out, m
an integer of 31 bits: the *fixed-point requantisation*. Source: Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", 2018. It is the scheme
of TensorFlow Lite and CMSIS-NN, but for rounding once where these round twice.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hfld_lite.edge.export import check_calibration
from hfld_lite.edge.program import Operation, Program
from hfld_lite.errors import ArgumentError

LOWEST, HIGHEST = -128, 127

STEPS = HIGHEST - LOWEST

MOST = 2**30
"""Sums, and results before they are clipped, stay near this, so that they fit in 32 bits."""

GATE_SCALE, GATE_ZERO = 1 / 256, -128
"""A sigmoid's output, 0 to 1."""

MOST_SHIFT = 62
"""Of a product in 64 bits."""


@dataclass(frozen=True)
class Numbers:
    """The integers of one operation.

    Attributes:
        weight: of a convolution, int8 ``(outputs, inputs, kernel)``.
        bias: int32 ``(outputs,)``.
        multiplier, shift: m and h, int32: of each output channel; of a sum, one m for each of its
            two inputs and one h; of means and gates one of each.
        scale: of the last convolution's accumulators, float32 ``(outputs,)``: logits are not
            quantised.
        table: of a sigmoid, int8 ``(256,)``, for q = −128 … 127.
    """

    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    multiplier: np.ndarray | None = None
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    table: np.ndarray | None = None


@dataclass(frozen=True)
class Integers:
    """A program in eight bits: scale and zero point of each tensor, integers of each operation."""

    program: Program
    scales: list[float]
    zeros: list[int]
    numbers: list[Numbers]

    def run(self, inputs: np.ndarray | Tensor) -> list[Tensor]:
        """Every tensor for inputs ``(n, length)`` as the device has it; the logits in float32."""
        values = [self.quantise_input(inputs)[:, None]]
        for op, numbers in zip(self.program.operations, self.numbers, strict=True):
            x = [values[i] - self.zeros[i] for i in op.inputs]
            values.append(self._compute(op, numbers, x))
        return values

    def logits(self, inputs: np.ndarray | Tensor) -> np.ndarray:
        """Logits, float32 ``(n, classes)``."""
        return self.run(inputs)[-1][:, :, 0].numpy()

    def quantise_input(self, inputs: np.ndarray | Tensor) -> Tensor:
        """q of what the network reads, computed in float32 as in C."""
        x = np.asarray(inputs, np.float32) * np.float32(1 / self.scales[0])
        x = x + np.float32(self.zeros[0] - LOWEST + 0.5)
        clipped = np.clip(x, np.float32(0), np.float32(STEPS))
        return torch.from_numpy(clipped.astype(np.int64) + LOWEST)

    def _compute(self, op: Operation, numbers: Numbers, x: list[Tensor]) -> Tensor:
        """From integers less their zero points to integers."""
        out, zero = self.program.shapes[op.output], self.zeros[op.output]
        if op.kind == "sigmoid":
            return torch.tensor(numbers.table)[x[0] + self.zeros[op.inputs[0]] - LOWEST].long()
        if op.kind in ("max pool", "relu"):  # in the scale of the input
            found = x[0].clamp_min(0) if op.relu else _pooled(x[0], op)
            return found + zero
        if op.kind == "conv":
            sums = self.accumulate(op, numbers, x[0])
            if numbers.scale is not None:
                return sums.float() * torch.tensor(numbers.scale)[:, None]
            m, h = (torch.tensor(v).long()[:, None] for v in (numbers.multiplier, numbers.shift))
            products = sums * m
        else:
            m, h = numbers.multiplier.tolist(), torch.tensor(int(numbers.shift[0]))
            if op.kind == "mean":
                products = torch.stack(
                    [
                        x[0][:, :, a:b].sum(2) * (m[0] // (b - a))
                        for a, b in windows(x[0].shape[2], out.positions)
                    ],
                    2,
                )
            else:
                products = x[0] * x[1] * m[0] if op.kind == "gate" else x[0] * m[0] + x[1] * m[1]
        low = zero if op.relu else LOWEST
        return (zero + ((products + (1 << (h - 1))) >> h)).clamp(low, HIGHEST)

    def accumulate(self, op: Operation, numbers: Numbers, x: Tensor) -> Tensor:
        """A convolution's sums a_c, of integers less their zero point; exact in float64."""
        positions = self.program.shapes[op.output].positions
        after = (positions - 1) * op.stride + op.kernel - op.pad - x.shape[2]
        weight = torch.tensor(numbers.weight).double()
        x = F.pad(x.double(), (op.pad, max(0, after)))
        return F.conv1d(x, weight, torch.tensor(numbers.bias).double(), op.stride).long()


def _pooled(x: Tensor, op: Operation) -> Tensor:
    return F.max_pool1d(x.double(), op.kernel, op.stride, op.pad).long()


def windows(positions: int, outputs: int) -> list[tuple[int, int]]:
    """What adaptive pooling averages: from ⌊i P / Q⌋ up to ⌈(i + 1) P / Q⌉, of P to Q positions."""
    return [(i * positions // outputs, -(-(i + 1) * positions // outputs)) for i in range(outputs)]


def fixed_point(ratio: float) -> tuple[int, int]:
    """A positive real as m 2^(−h): m of 31 bits, h from 1 to 62.

    Raises:
        ArgumentError: if the ratio is 2^30 or more.
    """
    fraction, exponent = math.frexp(ratio)
    m, h = round(fraction * 2**31), 31 - exponent
    if m == 2**31:
        m, h = m // 2, h - 1
    if h < 1:
        raise ArgumentError(f"A scale is {ratio:.3g} times that before it; expected below 2^30.")
    if h > MOST_SHIFT:
        m, h = m >> min(h - MOST_SHIFT, 31), MOST_SHIFT
    return m, h


def to_integers(program: Program, calibration: np.ndarray | Tensor) -> Integers:
    """Quantise a program to eight bits.

    Args:
        program: of :func:`hfld_lite.edge.program.read_program`.
        calibration: what the network reads of training recordings, ``(n, length)``.

    Raises:
        DataError: if there are fewer than CALIBRATION recordings.
    """
    check_calibration(calibration)
    scales, zeros = [], []
    for values, op in zip(program.run(calibration), [None, *program.operations], strict=True):
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        least = _largest(op, scales) / MOST if op else 0.0
        scale = max((high - low) / STEPS, least) or 1.0
        zero = round(LOWEST - low / scale)
        if op and op.kind in ("max pool", "relu"):
            scale, zero = (each[op.inputs[0]] for each in (scales, zeros))
        elif op and op.kind == "sigmoid":
            scale, zero = GATE_SCALE, GATE_ZERO
        scales.append(scale)
        zeros.append(zero)
    last = program.operations[-1]
    numbers = [_numbers(op, scales, zeros, op is last) for op in program.operations]
    return Integers(program, scales, zeros, numbers)


def _largest(op: Operation, scales: list[float]) -> float:
    """A real value that no result exceeds, whatever the inputs' integers are."""
    x = [STEPS * scales[i] for i in op.inputs]
    if op.kind == "conv":
        return float((np.abs(op.weight.astype(float)).sum((1, 2)) * x[0] + np.abs(op.bias)).max())
    return math.prod(x) if op.kind == "gate" else sum(x)


def _numbers(op: Operation, scales: list[float], zeros: list[int], last: bool) -> Numbers:
    before, after = [scales[i] for i in op.inputs], scales[op.output]
    if op.kind == "conv":
        weight = op.weight.astype(float)
        units = np.abs(weight).max((1, 2)) / HIGHEST
        # No sum may overflow 32 bits: neither a bias among tiny weights nor very many weights.
        most = np.abs(weight).sum((1, 2)) * STEPS + np.abs(op.bias) / before[0]
        units = np.maximum(units, most / MOST)
        units[units == 0] = 1.0
        found = np.clip(np.rint(weight / units[:, None, None]), -HIGHEST, HIGHEST)
        bias = np.rint(op.bias / (before[0] * units)).astype(np.int32)
        values = {"weight": found.astype(np.int8), "bias": bias}
        if last:
            return Numbers(**values, scale=(before[0] * units).astype(np.float32))
        fixed = [fixed_point(before[0] * unit / after) for unit in units]
        return Numbers(**values, **_pair(*zip(*fixed, strict=True)))
    if op.kind == "add":
        m, h = fixed_point(max(before) / after)
        least = round(min(before) / after * 2.0**h)
        return Numbers(**_pair([m, least] if before[0] == max(before) else [least, m], [h]))
    if op.kind in ("mean", "gate"):
        m, h = fixed_point(math.prod(before) / after)
        return Numbers(**_pair([m], [h]))
    if op.kind == "sigmoid":
        x = before[0] * (np.arange(LOWEST, HIGHEST + 1) - zeros[op.inputs[0]])
        table = np.rint(1 / (1 + np.exp(-x)) / GATE_SCALE) + GATE_ZERO
        return Numbers(table=np.clip(table, LOWEST, HIGHEST).astype(np.int8))
    return Numbers()


def _pair(multiplier: object, shift: object) -> dict[str, np.ndarray]:
    return {"multiplier": np.array(multiplier, np.int32), "shift": np.array(shift, np.int32)}
