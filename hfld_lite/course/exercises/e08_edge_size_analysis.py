"""Checks for notebook 08: operations, bytes, memory, devices, integers, the smallest student."""

import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hfld_lite.course.exercises.answers import ask, check, compare, expect, number
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.views import network_inputs
from hfld_lite.edge.analysis import count_macs, stored_bytes, threads
from hfld_lite.edge.integers import HIGHEST, LOWEST
from hfld_lite.errors import ArgumentError
from hfld_lite.rivals.presets import preset


@check
def check_conv_macs(conv_macs: Callable[[nn.Conv1d, int], int]) -> str:
    """``conv_macs(layer, length)``: C_in / groups · C_out · k · N_out."""
    layer = nn.Conv1d(4, 8, 5, stride=3, padding=2)
    weights = 4 * 8 * 5
    compare(
        number(ask(conv_macs, layer, 100), "What conv_macs returns"),
        weights * 34,
        {
            "Each weight is used at each position that comes out: multiply by these 34.": weights,
            "With stride 3 there come 34 positions out, not 100; those are counted.": weights * 100,
            "The biases are counted; an operation here is a multiplication with its "
            "addition.": weights * 34 + 8 * 34,
            "The biases are counted; an operation here is a multiplication with its addition. ": (
                weights * 34 + 8
            ),
            "This is twice the number: a multiplication and its addition are one operation.": (
                2 * weights * 34
            ),
            "The padding is left out: N_out = ⌊(N + 2p − k) / s⌋ + 1.": weights * 32,
            "The kernel is left out: each value that comes out sums C_in · k products.": 4 * 8 * 34,
            "The input channels are left out: each value that comes out sums C_in · k products.": (
                8 * 5 * 34
            ),
        },
        "C_in / groups · C_out · k · N_out, with N_out = 34 here.",
    )
    grouped = nn.Conv1d(4, 8, 5, stride=3, padding=2, groups=4)
    expect(
        number(ask(conv_macs, grouped, 100), "What conv_macs returns") == 8 * 5 * 34,
        "With groups, each output channel reads only C_in / groups channels.",
    )
    expect(
        number(ask(conv_macs, nn.Conv1d(1, 3, 7, stride=3), 41), "What conv_macs returns") == 252,
        "Right for two layers, wrong for Conv1d(1, 3, 7, stride=3) at 41 positions, where 12 come "
        "out: N_out = ⌊(N + 2p − k) / s⌋ + 1.",
    )
    return "The same as the library counts, with strides, padding and groups."


@check
def check_int8_bytes(int8_bytes: Callable[[Sequence[nn.Module]], int]) -> str:
    """``int8_bytes(layers)``: a byte a weight, 4 + 4 for each output channel."""
    layers = [nn.Conv1d(4, 8, 3, bias=False), nn.Conv1d(8, 16, 1), nn.Linear(144, 6)]
    weights, channels = 4 * 8 * 3 + 8 * 16 + 144 * 6, 8 + 16 + 6
    compare(
        number(ask(int8_bytes, layers), "What int8_bytes returns"),
        weights + 8 * channels,
        {
            "These are four bytes for each number, as in float32; a weight takes one byte here.": 4
            * (weights + channels),
            "These are four bytes for each weight, as in float32; a weight takes one byte here.": 4
            * weights
            + 8 * channels,
            "These are the weights alone: each output channel has a bias and a scale besides, of 4 "
            "bytes each.": weights,
            "Biases or scales are missing: each output channel has one of both, of 4 bytes "
            "each.": weights + 4 * channels,
            "Biases are kept in 32 bits, not in 8: a sum of many products of 8 bits is long.": (
                weights + 5 * channels
            ),
            "There is one scale for each output channel, not one a layer.": (
                weights + 4 * channels + 4 * 3
            ),
            "The first layer gets a bias, too: batch norm is folded into it and leaves "
            "one.": weights + 8 * channels - 4 * 8,
            "A bias and a scale take 4 bytes each, not one.": weights + 2 * channels,
            "Scales and biases belong to the output channels, weight.shape[0].": (
                weights + 8 * (4 + 8 + 144)
            ),
        },
        "One byte a weight, and for each output channel 4 bytes for its bias and 4 for its scale.",
    )
    return "The same as the library's stored_bytes."


@check
def check_peak_bytes(peak_bytes: Callable[[Mapping[str, int], Sequence], int]) -> str:
    """``peak_bytes(sizes, operators)``: the most bytes alive while an operator runs."""
    sizes = {"x": 400, "a": 800, "b": 700, "c": 600, "d": 600, "y": 10}
    operators = ((["x"], "a"), (["a"], "b"), (["b"], "c"), (["a", "c"], "d"), (["d"], "y"))
    compare(
        number(ask(peak_bytes, dict(sizes), operators), "What peak_bytes returns"),
        2100,
        {
            "This is the largest tensor; while an operator runs, what it reads and what it writes "
            "are alive together.": 800,
            "This is the sum of all tensors; one that nobody reads any more is free again.": 3110,
            "The shortcut is left out: the addition reads 'a' once more, so that 'a' stays alive "
            "beside 'b' and 'c'.": 2000,
            "'x' is still counted after its last reader; then its memory is free.": 2500,
        },
        "At each operator add up what it writes, and what it or a later operator reads.",
    )
    line = ((["x"], "a"), (["a"], "b"), (["b"], "y"))
    first, last = ({"x": 3000, "a": 20, "b": 5, "y": 6}, {"x": 9, "a": 20, "b": 500, "y": 600})
    expect(
        number(ask(peak_bytes, first, line), "What peak_bytes returns") == 3020,
        "With an input of 3,000 bytes the peak is at the first operator: the input counts.",
    )
    expect(
        number(ask(peak_bytes, last, line), "What peak_bytes returns") == 1100,
        "With an answer of 600 bytes the peak is at the last operator: what it writes counts.",
    )
    return "A shortcut keeps its tensor alive: memory that no parameter count shows."


@check
def check_fits_on(fits_on: Callable[[Mapping, Mapping], bool]) -> str:
    """``fits_on(needed, device)``: every limit for itself, None for no limit, a KiB of 1,024."""
    board = {"flash_kib": 64, "ram_kib": 20, "macs": None}
    rule = {"flash_kib": 125, "ram_kib": None, "macs": 30_000_000}
    need = {"flash": 13_000, "ram": 9_000, "macs": 434_000}
    cases = (
        (need, board, True, "13,000 bytes of flash and 9,000 of RAM fit into 64 KiB and 20 KiB."),
        (
            need | {"ram": 30_000},
            board,
            False,
            "30,000 bytes of RAM do not fit into 20 KiB, whatever flash is left: each memory has "
            "its own limit.",
        ),
        (
            need | {"flash": 70_000},
            board,
            False,
            "70,000 bytes of flash do not fit into 64 KiB: each memory has its own limit.",
        ),
        (
            need | {"ram": 20_400},
            board,
            True,
            "20,400 bytes fit into 20 KiB: a KiB is 1,024 bytes, and data sheets mean that.",
        ),
        (
            need | {"ram": 20_480},
            board,
            True,
            "20,480 bytes fill 20 KiB to the last byte, and that still fits.",
        ),
        (need | {"ram": 10**6}, rule, True, "A limit of None is no limit, not a limit of 0."),
        (
            need | {"macs": 31_000_000},
            rule,
            False,
            "31 million operations are more than the rule's 30: macs are limited as well.",
        ),
    )
    for needed, device, right, sentence in cases:
        found = ask(fits_on, dict(needed), dict(device))
        expect(isinstance(found, bool), f"Return True or False; found {found!r}.")
        expect(found == right, sentence)
    return "Three budgets, and the first that is exceeded decides."


_ACCUMULATORS = (
    (
        (14, 3, 4, 20),
        {
            22: "42 / 16 = 2.625 became 2: a shift rounds down. Add 2^(h − 1), a half, before it.",
            3: "The zero point is missing: 0 is stored as z, so z is added at the end.",
            -17: "The zero point is subtracted; that is for what a layer reads. It is added to "
            "what the layer writes.",
            4: "The zero point is added before the shift, which divides it by 2^h as well; add it "
            "at the end.",
            24: "The half is added before a is multiplied; add 2^(h − 1) to the product a m.",
            62: "The shift is missing: a m is divided by 2^h.",
            70: "The shift is missing: a m is divided by 2^h.",
            30: "Divided by h; a shift by h bits divides by 2^h.",
            31: "Divided by h; a shift by h bits divides by 2^h.",
            21: "The multiplier is missing: a m is shifted, not a.",
        },
    ),
    (
        (13, 3, 4, 20),
        {23: "39 / 16 = 2.4375 became 3: add 2^(h − 1) before the shift, a half and not more."},
    ),
    (
        (-14, 3, 4, 20),
        {18: "−2.625 became −2: int() cuts towards zero. >> rounds down below zero, too."},
    ),
    (
        (5, 1, 1, 0),
        {2: "2.5 became 2: Python's round() takes the even neighbour. Here a half goes up, to 3."},
    ),
    (
        (-5, 1, 1, 0),
        {
            -3: "−2.5 became −3: a half goes up below zero, too, to −2.",
            0: "Clipped to 0; the lowest integer is −128, and where ReLU follows it is z.",
        },
    ),
    (
        (1000, 3, 4, 20),
        {
            208: "208 does not fit into eight bits: clip to −128 … 127.",
            -48: "208 wrapped around to −48 in eight bits: clip before you convert.",
            147: "Clipped too early: the zero point is added before clipping.",
        },
    ),
    (
        (-1000, 3, 4, 20),
        {
            -167: "−167 does not fit into eight bits: clip to −128 … 127, at both ends.",
            -127: "Clipped to −127; the lowest integer of eight bits is −128.",
            -108: "Clipped too early: the zero point is added before clipping.",
        },
    ),
    (
        (1000, 3, 4, -20),
        {107: "Clipped too early: the zero point is added before clipping."},
    ),
    (
        (151338627, 1725988821, 54, 0),
        {
            15: "Right for small numbers. Here a m / 2^54 is just below 14.5, and a float rounds "
            "it to 14.5: multiply and shift integers, without a division of floats."
        },
    ),
)
"""Accumulator, multiplier, shift and zero point, and by what comes out, the mistake."""


@check
def check_requantise(requantise: Callable[[int, int, int, int], int]) -> str:
    """``requantise(a, m, h, z)``: z + ⌊(a m + 2^(h − 1)) / 2^h⌋, clipped to −128 … 127."""
    draw = random.Random(0)
    others = [
        (
            draw.randint(-(2**20), 2**20),
            draw.randint(2**30, 2**31 - 1),
            draw.randint(34, 48),
            draw.randint(LOWEST, HIGHEST),
        )
        for _ in range(200)
    ]
    for given, mistakes in (*_ACCUMULATORS, *((each, {}) for each in others)):
        a, m, h, z = given
        right = min(HIGHEST, max(LOWEST, z + ((a * m + (1 << (h - 1))) >> h)))
        found = _integer(ask(requantise, *given))
        if found != right:
            otherwise = (
                f"For a = {a}, m = {m}, h = {h}, z = {z} it returns {found}, expected {right}: "
                "⌊(a m + 2^(h − 1)) / 2^h⌋ + z, then clipped to −128 … 127."
            )
            expect(False, mistakes.get(found, otherwise))
    return "One multiplication, one addition and one shift, the same on every chip."


def _integer(value: Any) -> int:
    """An integer of Python, numpy or torch; a float is none, even without a fraction."""
    number(value, "What requantise returns")
    try:
        return operator.index(value)
    except TypeError:
        expect(
            False,
            f"It returns {value!r}, which is not an integer: a chip without floats shifts, >> h, "
            "where you divide by 2**h.",
        )


_CLIPPED, _COARSE, _WRONG, _STORED = "conv_3", "mean_17", "add_4", -85

_TENSORS = {
    "input": (0.05, -128, (0.0, 5.02, 12.71)),
    "conv_0": (0.02, -128, (0.0, 1.337, 3.4)),
    _CLIPPED: (0.04, 7, (-1.95, 0.41, 6.3)),
    _WRONG: (0.03, -90, (-0.62, 0.0, 2.51)),
    _COARSE: (0.6, -20, (-14.65, 3.25, 40.45)),
    "gate_21": (1 / 256, -128, (0.31, 0.5, 0.98)),
}
"""Scale, right zero point and real values of tensors."""


def stored_tensors() -> pd.DataFrame:
    """Values of some tensors in eight bits, for exercise 6: one of their zero points is wrong.

    A row for each value: ``tensor``, ``s``, ``z``, ``q``, and ``x``, the value in float32.
    """
    return pd.DataFrame(
        {
            "tensor": name,
            "s": s,
            "z": _STORED if name == _WRONG else z,
            "q": int(np.clip(round(x / s) + z, LOWEST, HIGHEST)),
            "x": x,
        }
        for name, (s, z, values) in _TENSORS.items()
        for x in values
    )


@check
def check_zero_point(wrong: str, right_zero: int) -> str:
    """The tensor whose zero point is not that of its integers, and the zero point that is."""
    expect(
        isinstance(wrong, str) and wrong in _TENSORS,
        f"There is no tensor {wrong!r}; choose from {', '.join(_TENSORS)}.",
    )
    expect(
        wrong != _CLIPPED,
        f"{wrong} has one value that is off, and its q is 127: it is clipped. A wrong zero point "
        "moves all values.",
    )
    expect(
        wrong != _COARSE,
        f"The steps of {wrong} are coarse, s = {_TENSORS[wrong][0]}, and its values are off by "
        "less than half a step, which is rounding. Divide by s, and compare in steps.",
    )
    expect(
        wrong == _WRONG,
        f"All values of {wrong} are s (q − z) to within half a step; its zero point is right.",
    )
    right, found = _TENSORS[_WRONG][1], number(right_zero, "right_zero")
    expect(found != _STORED, f"{found:g} is the zero point of the table, and the wrong one.")
    expect(
        found != 2 * _STORED - right,
        f"The wrong way: with z = {_STORED} all values are too small, and a lower z makes "
        "s (q − z) larger.",
    )
    expect(
        found == right,
        f"{wrong} it is, but with z = {found:g} its values are not s (q − z) to within half a "
        "step: z = q − x / s, rounded.",
    )
    return "All its values were off by the same number of steps: that is a wrong zero point."


LEAST_ACCURACY, MOST_BYTES, MOST_MACS = 0.80, 4_000, 200_000
"""What a student of the challenge must reach on tiles that it never heard, and may cost."""

BINS = 875
"""Bins of the spectrum that it reads: up to 5 kHz."""


class Score(NamedTuple):
    """What a student of the challenge costs, how good it is on new tiles, and its score."""

    int8_bytes: int
    macs: int
    accuracy: float
    score: float


def challenge_score(student: nn.Module) -> Score:
    """Measure a student of the challenge of notebook 08.

    Score = 100 (accuracy − 0.80) + 10 log₂(4,000 / bytes) + 10 log₂(200,000 / MACs): half the
    bytes, half the operations or ten points of accuracy are worth 10 each.

    Args:
        student: maps ``(batch, 875)`` to an :class:`hfld_lite.Output` with logits of the classes
            AN, AD, BN and BD; made of convolutions, linear layers and batch norm.

    Raises:
        ArgumentError: if a layer of another kind has parameters, or it answers in another form.
    """
    used, macs = stored_bytes(student, "int8"), count_macs(student, BINS)
    inputs, labels = _new_tiles()
    was_training = student.training
    student.eval()
    with torch.inference_mode(), threads(1):
        answer = student(inputs)
    student.train(was_training)
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor) or logits.shape != (len(labels), 4):
        raise ArgumentError(
            "The student must return an Output whose logits are (batch, 4), for the classes AN, "
            "AD, BN and BD."
        )
    accuracy = float((logits.argmax(1) == labels).float().mean())
    saved = math.log2(MOST_BYTES / max(used, 1)) + math.log2(MOST_MACS / max(macs, 1))
    return Score(used, macs, accuracy, 100 * (accuracy - LEAST_ACCURACY) + 10 * saved)


@cache
def _new_tiles() -> tuple[Tensor, Tensor]:
    """Spectra and labels of 80 simulated tiles, none of them those of the notebook."""
    tiles = simulate_tiles("AB", tiles_per_class=20, drops=1, seed=2001)
    recipe = preset("classroom").replace(view="spectrum", bins=BINS, bins_by="cutting")
    inputs = network_inputs(torch.from_numpy(tiles.signals), recipe, tiles.sample_rate)
    return inputs, torch.from_numpy(tiles.labels)


@check
def check_smallest(smallest: nn.Module) -> str:
    """``smallest``, trained: 4,000 bytes, 200,000 MACs, and right on 80 % of new tiles."""
    expect(
        isinstance(smallest, nn.Module),
        f"A trained network is asked for, an nn.Module; this is a {type(smallest).__name__}.",
    )
    try:
        found = challenge_score(smallest)
    except ArgumentError as error:
        expect(False, str(error))
    expect(
        found.int8_bytes <= MOST_BYTES,
        f"Too large: {found.int8_bytes:,} bytes in INT8, and {MOST_BYTES:,} are allowed; fewer "
        "channels save most, as weights grow with their square.",
    )
    expect(
        found.macs <= MOST_MACS,
        f"Too slow: {found.macs:,} operations, and {MOST_MACS:,} are allowed; a larger stride in "
        "the first layer halves all that comes after it.",
    )
    expect(
        found.accuracy > 0.5,
        f"It fits, and is right on {found.accuracy:.0%} of new tiles, hardly more than by telling "
        "types apart: is it trained, and on spectra like these?",
    )
    expect(
        found.accuracy >= LEAST_ACCURACY,
        f"It fits, but is right on {found.accuracy:.1%} of new tiles only, and "
        f"{LEAST_ACCURACY:.0%} are asked for: train it longer, or distil it from the teacher.",
    )
    return (
        f"{found.int8_bytes:,} bytes, {found.macs:,} operations, {found.accuracy:.1%} on new "
        f"tiles: a score of {found.score:.1f}."
    )
