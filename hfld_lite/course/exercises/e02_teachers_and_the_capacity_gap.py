"""Checks for notebook 02: sizes of networks, what they see, and how large a gap is."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from hfld_lite.course.exercises.answers import ask, check, close, compare, expect, number, tensor
from hfld_lite.edge.analysis import receptive_field
from hfld_lite.networks import ResNet1d, count_parameters, resnet1d


@check
def check_block_parameters(block_parameters: Callable[..., int]) -> str:
    """``block_parameters(inputs, outputs, kernel)``: convolution without bias, then batch norm."""
    found = number(ask(block_parameters, 5, 7, 3), "What block_parameters returns")
    compare(
        found,
        5 * 7 * 3 + 2 * 7,
        {
            "The batch norm is forgotten: a scale and a shift for each output channel.": 105,
            "The convolution has no bias here; the batch norm's shift does its work.": 126,
            "Batch norm's running mean and variance are buffers: they are stored, but not "
            "trained.": 133,
            "Batch norm has two numbers for each channel, scale and shift.": 112,
            "The batch norm comes after the convolution, so it has the output channels.": 115,
            "Inputs and outputs are multiplied, not added: each output reads each input.": 50,
        },
        f"5 → 7 channels with kernel 3 give {found:g} here; inputs × outputs × kernel, and the "
        "batch norm.",
    )
    other = number(ask(block_parameters, 64, 192, 1), "What block_parameters returns")
    expect(close(other, 64 * 192 + 384), "Right for one block, but not for 64 → 192 with kernel 1.")
    return "Half the channels on both sides leave a quarter of the weights."


@check
def check_head_share(head_share: Callable[..., float]) -> str:
    """``head_share(network)``: the share of all parameters that is in ``network.head``."""
    network = resnet1d(10, 6, 1 / 16)
    found = number(ask(head_share, network), "What head_share returns")
    head, total = count_parameters(network.head), count_parameters(network)
    weights = [p for name, p in network.head.named_parameters() if "weight" in name]
    tensors = len(list(network.head.parameters())) / len(list(network.parameters()))
    compare(
        found,
        head / total,
        {
            "That is in per cent; return a share from 0 to 1.": 100 * head / total,
            "Tensors are counted, not their entries; p.numel() is the number of entries.": tensors,
            "Only the head's first layer is counted; it has four.": count_parameters(
                network.head[0]
            )
            / total,
            "Compared with the rest of the network; compare with all of it.": head / (total - head),
            "That is the share of everything else.": 1 - head / total,
            "The head's biases are forgotten.": sum(p.numel() for p in weights) / total,
            "That is the number of parameters, not their share.": head,
        },
        f"The share of the head is {found:.3f} here; expected {head / total:.3f}.",
    )
    small = resnet1d(10, 6, 1 / 16, head="small")
    expect(
        close(
            float(ask(head_share, small)), count_parameters(small.head) / count_parameters(small)
        ),
        "Right for the published head, but not for the small one; count, do not assume.",
    )
    return f"The published head has {head / total:.0%} of a ResNet10 at width 1/16."


@check
def check_sees(sees: Callable[..., int]) -> str:
    """``sees(layers)``: the receptive field of layers ``[(kernel, stride), …]`` in input values."""
    layers = [(7, 2), (3, 2), (3, 1), (3, 1), (3, 2)]
    found = number(ask(sees, layers), "What sees returns")
    compare(
        found,
        _field(layers),
        {
            "The strides are ignored: after a stride of 2, a step is two input values wide.": 1
            + sum(k - 1 for k, _ in layers),
            "Whole kernels are added; neighbouring windows overlap, so a layer adds k − 1 "
            "steps.": _field(layers, whole=True),
            "A layer's own stride counts only for the layers after it: add first, then multiply "
            "the spacing.": _field(layers, early=True),
            "The first value is missing: one position sees 1 before any layer.": _field(layers) - 1,
            "The spacing is the product of the strides before, not their sum.": _field(
                layers, product=False
            ),
        },
        f"{layers} see {found:g} values here; expected {_field(layers)}.",
    )
    expect(
        close(number(ask(sees, [(3, 1)] * 4), "What sees returns"), 9),
        "Right with strides, but four layers of kernel 3 without stride see 9 values.",
    )
    return "Early strides widen the receptive field of all later layers."


@check
def check_far_sighted(far_sighted: nn.Module) -> str:
    """A student for six classes that sees 400 values or more with at most 20,000 parameters."""
    expect(
        isinstance(far_sighted, ResNet1d),
        f"far_sighted is a {type(far_sighted).__name__}; build a network with resnet1d.",
    )
    expect(
        far_sighted.num_classes == 6,
        f"It has {far_sighted.num_classes} classes; there are six: three types of two.",
    )
    count, field = count_parameters(far_sighted), receptive_field(far_sighted)
    head = count_parameters(far_sighted.head)
    expect(
        count <= 20_000 or head < count / 2,
        f"{count:,} parameters, {head:,} of them in the head: look at the head first.",
    )
    expect(
        count <= 20_000,
        f"{count:,} parameters are more than 20,000; they shrink with the square of the width.",
    )
    expect(
        field >= 400,
        f"One feature sees {field} values of the input, fewer than 400; deeper networks see more.",
    )
    expect(
        not any(isinstance(m, nn.Dropout) and m.p > 0 for m in far_sighted.modules()),
        "Dropout in the head: with it, a student cannot regress a teacher's logits.",
    )
    return f"{count:,} parameters, and one feature sees {field} values."


@check
def check_paired_gap(paired_gap: Callable[..., tuple[float, float]]) -> str:
    """``paired_gap(teacher, student)``: mean and deviation of the gap over seeds, in points."""
    t = np.array([0.95, 0.91, 0.97, 0.93, 0.96])
    s = np.array([0.91, 0.88, 0.92, 0.90, 0.94])
    both = ask(paired_gap, t, s)
    expect(
        isinstance(both, tuple | list) and len(both) == 2,
        "paired_gap must return two numbers, the mean gap and its deviation.",
    )
    mean, deviation = number(both[0], "The mean"), number(both[1], "The deviation")
    d = 100 * (t - s)
    compare(
        mean,
        d.mean(),
        {
            "The gap is in shares; return points, 1 point = 0.01.": d.mean() / 100,
            "The sign is wrong: the gap is teacher minus student.": -d.mean(),
        },
        f"The mean gap is {mean:g}; expected {d.mean():g} points.",
    )
    compare(
        deviation,
        d.std(ddof=1),
        {
            "Divided by n: a few seeds are a sample, so divide by n − 1 (ddof=1).": d.std(),
            "The deviations were computed separately; subtract seed by seed first, the seeds "
            "are pairs.": 100 * math.hypot(t.std(ddof=1), s.std(ddof=1)),
            "That is the difference of two deviations; take the deviation of the differences.": 100
            * abs(t.std(ddof=1) - s.std(ddof=1)),
            "That is the mean's standard error; return the deviation over seeds.": d.std(ddof=1)
            / math.sqrt(5),
            "The deviation is in shares; return points.": d.std(ddof=1) / 100,
            "That is the variance; take its square root.": d.var(ddof=1),
        },
        f"The deviation is {deviation:g}; expected {d.std(ddof=1):.3f} points.",
    )
    return "Seed by seed, because a lucky seed lifts teacher and student alike."


@check
def check_fair_compare(fair_compare: Callable[..., Any]) -> str:
    """The mended comparison: one seed for each repeat, and the same recipe for both."""
    asked: list[tuple[str, int, float]] = []

    def train(role: str, seed: int, weight_decay: float) -> float:
        asked.append((role, seed, weight_decay))
        lift = 0.05 * math.sin(7.0 * seed) - 40 * weight_decay
        return (0.95 if role == "teacher" else 0.90 + 0.01 * math.cos(seed)) + lift

    gaps = ask(fair_compare, train, 5)
    seeds = {role: [s for r, s, _ in asked if r == role] for role in ("teacher", "student")}
    expect(all(seeds.values()), "Train both roles, 'teacher' and 'student'.")
    for role, drawn in seeds.items():
        expect(
            len(set(drawn)) > 1 or len(drawn) == 1,
            f"The {role} has the same seed in all repeats: the deviation over repeats is then not "
            "over seeds.",
        )
        expect(len(set(drawn)) == 5, f"The {role} was trained with {len(set(drawn))} seeds of 5.")
    expect(
        set(seeds["teacher"]) == set(seeds["student"]),
        "Teacher and student have different seeds; with the same seeds, the repeats are pairs.",
    )
    expect(
        len({decay for *_, decay in asked}) == 1,
        "Teacher and student have different weight decay: that compares two recipes, not "
        "two networks.",
    )
    gaps = tensor(np.asarray(gaps, float), (5,), "What fair_compare returns")
    pairs = {(r, s): train(r, s, d) for r, s, d in list(asked)}
    right = [pairs["teacher", s] - pairs["student", s] for s in dict.fromkeys(seeds["teacher"])]
    compare(
        gaps,
        right,
        {"The sign is wrong: teacher minus student.": [-gap for gap in right]},
        "The gaps are not teacher minus student, seed by seed.",
    )
    return "Each repeat has its own seed, and both networks have the same seeds and recipe."


def _field(
    layers: Sequence[tuple[int, int]],
    whole: bool = False,
    early: bool = False,
    product: bool = True,
) -> int:
    """The receptive field, with a choice of mistakes."""
    seen, spacing = 1, 1
    for kernel, stride in layers:
        grown = spacing * stride if product else spacing + stride - 1
        seen += (kernel if whole else kernel - 1) * (grown if early else spacing)
        spacing = grown
    return seen
