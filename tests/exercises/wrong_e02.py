"""Wrong answers to the exercises of notebook 02, and the sentence that each must bring."""

import numpy as np
from torch import nn

from hfld_lite import resnet1d
from hfld_lite.networks import count_parameters


def field(layers, whole=False, early=False, start=1):
    """The receptive field with a choice of mistakes."""
    seen, spacing = start, 1
    for kernel, stride in layers:
        spacing *= stride if early else 1
        seen += (kernel if whole else kernel - 1) * spacing
        spacing *= 1 if early else stride
    return seen


def gap(t, s, *, scale=100, ddof=1, paired=True):
    """The gap with a choice of mistakes."""
    d = scale * (t - s)
    apart = scale * np.hypot(t.std(ddof=ddof), s.std(ddof=ddof))
    return d.mean(), d.std(ddof=ddof) if paired else apart


def comparison(train, repeats, *, seeds=(0, 0, 0, 0, 0), decays=(5e-4, 5e-4), sign=1, offset=0):
    """The comparison with a choice of mistakes."""
    teacher = [train("teacher", seed, decays[0]) for seed in seeds]
    student = [train("student", seed + offset, decays[1]) for seed in seeds]
    return sign * (np.array(teacher) - student)


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "block_parameters": [
        (lambda i, o, k: i * o * k, "batch norm is forgotten"),
        (lambda i, o, k: i * o * k + 3 * o, "no bias"),
        (lambda i, o, k: i * o * k + 4 * o, "buffers"),
        (lambda i, o, k: i * o * k + 2 * i, "output channels"),
        (lambda i, o, k: i * o * 3 + 2 * o, "kernel 1"),
    ],
    "head_share": [
        (lambda n: len(list(n.head.parameters())) / len(list(n.parameters())), "Tensors"),
        (lambda n: count_parameters(n.head[0]) / count_parameters(n), "first layer"),
        (lambda n: 100 * count_parameters(n.head) / count_parameters(n), "per cent"),
        (lambda n: count_parameters(n.head), "not their share"),
        (lambda n: 0.95755, "expected"),
    ],
    "sees": [
        (lambda layers: 1 + sum(k - 1 for k, _ in layers), "strides are ignored"),
        (lambda layers: field(layers, whole=True), "k − 1"),
        (lambda layers: field(layers, early=True), "own stride"),
        (lambda layers: field(layers, start=0), "first value"),
    ],
    "far_sighted": [
        (resnet1d(18, 6, 1 / 16), "look at the head"),
        (resnet1d(34, 6, 1 / 16, "small"), "more than 20,000"),
        (resnet1d(10, 6, 1 / 16, "small"), "fewer than 400"),
        (resnet1d(18, 2, 1 / 16, "small"), "there are six"),
        (resnet1d(18, 6, 1 / 16, "small", dropout=0.5), "Dropout"),
        (nn.Linear(3, 6), "build a network"),
    ],
    "paired_gap": [
        (lambda t, s: gap(t, s, scale=1), "in shares"),
        (lambda t, s: gap(s, t), "sign is wrong"),
        (lambda t, s: gap(t, s, ddof=0), "n − 1"),
        (lambda t, s: gap(t, s, paired=False), "seed by seed first"),
        (lambda t, s: gap(t, s)[0], "two numbers"),
    ],
    "fair_compare": [
        (lambda train, n: comparison(train, n), "same seed in all repeats"),
        (lambda train, n: comparison(train, n, seeds=range(n), decays=(5e-5, 5e-4)), "two recipes"),
        (lambda train, n: comparison(train, n, seeds=range(n), sign=-1), "sign is wrong"),
        (lambda train, n: comparison(train, n, seeds=range(n), offset=50), "different seeds"),
        (lambda train, n: comparison(train, n, seeds=range(2)), "2 seeds of 5"),
    ],
}
