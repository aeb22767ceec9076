"""Wrong answers to the exercises of notebook 08, and what each must bring."""

import math

import numpy as np
import torch
from torch import nn

from hfld_lite import Output, resnet1d
from hfld_lite.course.exercises.e08_edge_size_analysis import challenge_score


def positions(layer, length):
    (k,), (s,), (p,) = layer.kernel_size, layer.stride, layer.padding
    return (length + 2 * p - k) // s + 1


def bytes_of(layers, weight=1, bias=4, scale=4, folded=True, by_layer=False):
    total = 0
    for layer in layers:
        channels = layer.weight.shape[0]
        total += weight * layer.weight.numel() + (scale if by_layer else scale * channels)
        total += bias * channels if folded or layer.bias is not None else 0
    return total


def peak(sizes, operators, free=True, shortcut=True, write=True):
    last = {name: i for i, (reads, _) in enumerate(operators) for name in reads}
    alive, found = {operators[0][0][0]}, 0
    for i, (reads, writes) in enumerate(operators):
        alive.add(writes)
        counted = alive if shortcut else {*reads, writes}
        found = max(found, sum(sizes[name] for name in counted if write or name != writes))
        if free:
            alive = {name for name in alive if last.get(name, -1) > i}
    return found


def fits(needed, device, kib=1024, names=("flash", "ram"), none=True, macs=True, strict=False):
    pairs = [(needed[name], device[f"{name}_kib"]) for name in names]
    limits = [(need, None if kibs is None else kibs * kib) for need, kibs in pairs]
    limits += [(needed["macs"], device["macs"])] if macs else []
    for need, limit in limits:
        if limit is None and not none:
            return False
        if limit is not None and (need >= limit if strict else need > limit):
            return False
    return True


def together(needed, device):
    """One budget for all memory."""
    pairs = [(needed[n], device[f"{n}_kib"]) for n in ("flash", "ram")]
    have = sum(1024 * (kib or 10**6) for _, kib in pairs)
    return sum(need for need, _ in pairs) <= have and needed["macs"] <= (device["macs"] or 10**12)


def requantised(
    half=lambda h: 1 << (h - 1),
    shift=lambda x, h: x >> h,
    point=lambda x, z: x + z,
    low=-128,
    high=127,
):
    """A way to requantise, right but for what is given."""
    return lambda a, m, h, z: min(high, max(low, point(shift(a * m + half(h), h), z)))


def clip(x, low=-128):
    return min(127, max(low, x))


def wrapped(a, m, h, z):
    return int(np.int64(z + ((a * m + (1 << (h - 1))) >> h)).astype(np.int8))


class Untrained(nn.Module):
    """A network that is small enough, and has learned nothing."""

    def __init__(self, channels=6, stride=4, classes=4, name="logits"):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, channels, 9, stride, 4, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(9),
        )
        self.head, self.name = nn.Linear(9 * channels, classes), name

    def forward(self, x):
        features = self.body(x.unsqueeze(1))
        logits = self.head(features.flatten(1))
        return Output(features, logits) if self.name == "logits" else features


class Table(Untrained):
    """Keeps a matrix where the library does not see it."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(875, 4))


challenge_score(Untrained())  # as the notebook does before its check; this makes the tiles

# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "conv_macs": [
        (lambda layer, n: layer.weight.numel(), "at each position"),
        (lambda layer, n: layer.weight.numel() * n, "not 100"),
        (lambda layer, n: (layer.weight.numel() + 8) * positions(layer, n), "biases are counted"),
        (lambda layer, n: 2 * layer.weight.numel() * positions(layer, n), "twice the number"),
        (lambda layer, n: layer.weight.numel() * ((n - 5) // 3 + 1), "padding is left out"),
        (
            lambda layer, n: layer.in_channels * layer.out_channels * 5 * positions(layer, n),
            "With groups",
        ),
        (lambda layer, n: layer.weight.numel() * (n // layer.stride[0]), "N_out = 34"),
        (lambda layer, n: layer.weight.numel() * -(-n // layer.stride[0]), "12 come out"),
        (lambda layer, n: layer.in_channels * 8 * positions(layer, n), "kernel is left out"),
    ],
    "int8_bytes": [
        (lambda layers: bytes_of(layers, weight=4, scale=0), "as in float32"),
        (lambda layers: bytes_of(layers, bias=0, scale=0), "weights alone"),
        (lambda layers: bytes_of(layers, scale=0), "Biases or scales are missing"),
        (lambda layers: bytes_of(layers, bias=1), "32 bits, not in 8"),
        (lambda layers: bytes_of(layers, by_layer=True), "not one a layer"),
        (lambda layers: bytes_of(layers, folded=False), "leaves one"),
        (lambda layers: bytes_of(layers, bias=1, scale=1), "not one."),
    ],
    "peak_bytes": [
        (lambda sizes, operators: max(sizes.values()), "largest tensor"),
        (lambda sizes, operators: sum(sizes.values()), "sum of all tensors"),
        (lambda sizes, operators: peak(sizes, operators, shortcut=False), "shortcut is left out"),
        (lambda sizes, operators: peak(sizes, operators, free=False), "sum of all tensors"),
        (lambda sizes, operators: peak(sizes, operators, write=False), "At each operator"),
        (lambda sizes, operators: 2100, "the input counts"),
        (lambda sizes, operators: peak(sizes, operators[:-1]), "last operator"),
    ],
    "fits_on": [
        (together, "own limit"),
        (lambda needed, device: fits(needed, device, names=["flash"]), "30,000 bytes of RAM"),
        (lambda needed, device: fits(needed, device, kib=1000), "1,024 bytes"),
        (lambda needed, device: fits(needed, device, strict=True), "still fits"),
        (lambda needed, device: fits(needed, device, macs=False), "31 million"),
        (
            lambda needed, device: (
                needed["ram"] <= 1024 * (device["ram_kib"] or 0)
                and needed["flash"] <= 1024 * (device["flash_kib"] or 0)
            ),
            "not a limit of 0",
        ),
        (lambda needed, device: "yes", "Return True or False"),
    ],
    "requantise": [
        (requantised(half=lambda h: 0), "Add 2^(h − 1)"),
        (requantised(half=lambda h: 1 << h), "a half and not more"),
        (lambda a, m, h, z: clip(z + ((a + (1 << (h - 1))) * m >> h)), "before a is multiplied"),
        (requantised(point=lambda x, z: x), "zero point is missing"),
        (requantised(point=lambda x, z: x - z), "zero point is subtracted"),
        (lambda a, m, h, z: clip((a * m + (1 << (h - 1)) + z) >> h), "before the shift"),
        (requantised(shift=lambda x, h: x, low=-(10**30), high=10**30), "shift is missing"),
        (requantised(half=lambda h: 0, shift=lambda x, h: x // h), "Divided by h"),
        (lambda a, m, h, z: clip(z + ((a + (1 << (h - 1))) >> h)), "multiplier is missing"),
        (requantised(shift=lambda x, h: int(x / 2**h)), "int() cuts towards zero"),
        (lambda a, m, h, z: clip(z + round(a * m / 2**h)), "even neighbour"),
        (
            lambda a, m, h, z: clip(z + (1 if a > 0 else -1) * ((abs(a) * m + 2 ** (h - 1)) >> h)),
            "a half goes up below zero, too",
        ),
        (requantised(low=-(10**6), high=10**6), "208 does not fit"),
        (requantised(low=0, high=255), "Clipped to 0"),
        (wrapped, "wrapped around"),
        (lambda a, m, h, z: z + clip((a * m + (1 << (h - 1))) >> h), "Clipped too early"),
        (requantised(shift=lambda x, h: clip(x >> h)), "Clipped too early"),
        (requantised(low=-(10**6)), "at both ends"),
        (requantised(low=-127), "Clipped to −127"),
        (requantised(low=0), "Clipped to 0"),
        (lambda a, m, h, z: clip(z + math.floor(a * m / 2**h + 0.5)), "just below 14.5"),
        (lambda a, m, h, z: clip(z + math.floor(a * (m / 2**h) + 0.5)), "just below 14.5"),
        (lambda a, m, h, z: clip(z + (a * m / 2**h + 0.5) // 1), "not an integer"),
        (lambda a, m, h, z: torch.tensor(1.0) * clip(a), "not an integer"),
        (lambda a, m, h, z: 5, "expected 23"),
        (lambda a, m, h, z: "23", "not an integer"),
        (lambda a, m, h, z: [23, 24], "a number is asked for"),
    ],
    "zero_point": [
        (("conv_3", 7), "it is clipped"),
        (("mean_17", -20), "which is rounding"),
        (("input", -128), "its zero point is right"),
        (("weights_3", 0), "There is no tensor"),
        ((3, -90), "There is no tensor"),
        (("add_4", -85), "the zero point of the table"),
        (("add_4", -80), "The wrong way"),
        (("add_4", -91), "rounded"),
        (("add_4", "−90"), "a number is asked for"),
        (("add_4", None), "not answered yet"),
    ],
    "smallest": [
        (resnet1d(10, 4, 1 / 16, "small"), "Too large"),
        (Untrained(channels=12, stride=1, classes=4).eval(), "hardly more than"),
        (Untrained(), "hardly more than"),
        (Untrained(classes=2), "the classes AN"),
        (Table(), "whose bytes are not known"),
        (Untrained(name="features"), "must return an Output"),
        (0.93, "A trained network is asked for"),
    ],
}
