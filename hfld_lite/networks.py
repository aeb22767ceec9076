"""What learns: 1-D ResNets of any width, and `adapt`, which makes any module a network.

Source: the networks of the code that the HFLKD paper's authors released, after He et al., "Deep
residual learning for image recognition", 2016, and Hu et al., "Squeeze-and-excitation networks",
2018.
"""

import warnings
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError, nearest

POSITIONS = 9
"""Positions along the frequency (or time) axis of every network's features."""

MIN_SAMPLES = 257
"""The shortest input that leaves nine positions after the five halvings of the network."""

STAGE_CHANNELS = (64, 128, 256, 512)
STUDENT_STAGE_CHANNELS = (64, 192, 384, 512)
STAGE_BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
HEADS = ("published", "small")


class Output(NamedTuple):
    """What every network returns.

    ``features`` are ``(batch, channels, positions…)``, positions along one axis or several;
    ``logits`` are ``(batch, classes)``.
    """

    features: Tensor
    logits: Tensor


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the length (up to the stride), without bias, then batch norm."""
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outputs))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate that reads the mean of all channels.

    ``y = x · σ(W₂ ReLU(W₁ mean(x)))``, with W as 1x1 convolutions with bias.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        first, second = nn.Conv1d(channels, hidden, 1), nn.Conv1d(hidden, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool1d(1), first, nn.ReLU(), second, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, positions)`` to the same shape."""
        return x * self.gate(x)


class Block(nn.Module):
    """A residual block, ``ReLU(body(x) + shortcut(x))``: basic (3-3) or bottleneck (1-3-1)."""

    def __init__(self, inputs: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = channels * 4 if bottleneck else channels
        sizes = [(channels, 3, stride), (outputs, 3, 1)]
        if bottleneck:
            sizes = [(channels, 1, 1), (channels, 3, stride), (outputs, 1, 1)]
        self.body = nn.Sequential(conv_bn(inputs, *sizes[0]))
        for (before, *_), size in pairwise(sizes):
            self.body.extend([nn.ReLU(), conv_bn(before, *size)])
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, length)`` to ``(batch, outputs, ceil(length / stride))``."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet1d(nn.Module):
    """A 1-D ResNet for recordings of one channel, ``resnet1d(depth, num_classes, …)``.

    Args:
        depth: 10, 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        num_classes: number of classes, two or more.
        width: factor on every channel count, from 1/16 to 2 (1 is the published network). At
            depth 10 the stages have 64, 192, 384, 512 channels times ``width``, else
            64, 128, 256, 512 (times 4 after a bottleneck).
        head: ``"published"``, Linear → 2048 → 512 → 128 → classes whatever the width, or
            ``"small"``, one Linear from the flattened features to the classes.
        dropout: probability in the head, before its last and between its layers. By default 0.5
            with the published head, as published, and 0 with the small one. Use 0 in a student
            that is distilled: with dropout it cannot regress the teacher's logits.

    Raises:
        ArgumentError: if an argument is outside these values.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        width: float = 1.0,
        head: str = "published",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if depth not in STAGE_BLOCKS:
            raise ArgumentError(f"depth is {depth!r}; choose one of {sorted(STAGE_BLOCKS)}.")
        if not isinstance(num_classes, int) or num_classes < 2:
            raise ArgumentError(f"num_classes is {num_classes!r}; at least 2 are needed.")
        if not 1 / 16 <= width <= 2:
            raise ArgumentError(f"width is {width!r}; choose a number from 1/16 to 2.")
        if head not in HEADS:
            raise ArgumentError(f"head is {head!r}; choose one of {', '.join(HEADS)}.")
        if dropout is None:
            dropout = 0.5 if head == "published" else 0.0
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout is {dropout!r}; choose a probability from 0 to below 1.")
        bottleneck = depth >= 50
        stages = STUDENT_STAGE_CHANNELS if depth == 10 else STAGE_CHANNELS
        channels = [round(c * width) for c in stages]
        stem = round(64 * width)
        self.stem = nn.Sequential(*conv_bn(1, stem, 7, 2), nn.ReLU(), nn.MaxPool1d(3, 2, 1))
        self.stages = nn.Sequential()
        inputs = stem
        for stage, (blocks, c) in enumerate(zip(STAGE_BLOCKS[depth], channels, strict=True)):
            layers = nn.Sequential()
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Block(inputs, c, stride, bottleneck))
                inputs = c * 4 if bottleneck else c
            self.stages.append(layers)
        self.attention = SqueezeExcitation(inputs, max(1, inputs // (32 if bottleneck else 16)))
        self.pool = nn.AdaptiveAvgPool1d(POSITIONS)
        self.head = _head(head, inputs * POSITIONS, num_classes, dropout)
        self.feature_channels, self.num_classes = inputs, num_classes
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Output:
        """Map inputs ``(batch, length)`` to features ``(batch, C, 9)`` and logits.

        Raises:
            ArgumentError: if the input has another shape or is shorter than 257 samples.
        """
        if x.ndim != 2 or x.shape[1] < MIN_SAMPLES:
            raise ArgumentError(
                f"A 1-D ResNet reads (batch, length), a length of at least {MIN_SAMPLES}; found "
                f"shape {tuple(x.shape)}; use longer recordings, more bins, or average bins "
                "where they are cut."
            )
        features = self.pool(self.attention(self.stages(self.stem(x.unsqueeze(1)))))
        return Output(features, self.head(features.flatten(1)))


def _head(kind: str, inputs: int, num_classes: int, dropout: float) -> nn.Sequential:
    if kind == "small":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, num_classes))
    layers = nn.Sequential()
    for before, after in pairwise([inputs, 2048, 512, 128]):
        layers.extend([nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)])
    return layers.append(nn.Linear(128, num_classes))


resnet1d = ResNet1d


def count_parameters(network: nn.Module) -> int:
    """Number of trainable and frozen parameters, without buffers."""
    return sum(p.numel() for p in network.parameters())


class Adapted(nn.Module):
    """Any module that returns logits, made a network: ``adapt(module, features="layer4.1")``.

    Args:
        module: maps ``(batch, …)`` to logits ``(batch, classes)``; it is not changed.
        features: dotted path of the layer whose output are the features, as in
            ``module.named_modules()``. An output ``(batch, channels, …)`` of any shape is flattened
            to positions; a vector counts as one position.

    Raises:
        ArgumentError: if the module has no layer at this path; the nearest path is named.
    """

    def __init__(self, module: nn.Module, features: str) -> None:
        super().__init__()
        self.module, self.path, self._warned = module, features, False
        paths = [path for path, _ in module.named_modules() if path]
        if features not in paths:
            kind, hint = type(module).__name__, nearest(features, paths)
            raise ArgumentError(f"{kind} has no layer {features!r} to tap; {hint}.")

    def forward(self, x: Tensor) -> Output:
        """Map what the module reads to its layer's output ``(batch, C, positions)`` and logits."""
        seen: list[object] = []
        layer = self.module.get_submodule(self.path)

        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            # A copy: a layer behind it may work in place.
            seen.append(output.clone() if isinstance(output, Tensor) else output)

        # Hooked for this call only: a copied, saved or exported network carries no hook.
        handle = layer.register_forward_hook(keep)
        try:
            logits = self.module(x)
        finally:
            handle.remove()
        features = seen[-1] if seen else None
        if not isinstance(features, Tensor) or features.ndim < 2:
            raise ArgumentError(
                f"The layer {self.path!r} gave {type(features).__name__} for inputs of shape "
                f"{tuple(x.shape)}; tap a layer that gives a tensor (batch, channels, positions…)."
            )
        if features.ndim == 2 and not self._warned:
            self._warned = True
            warnings.warn(
                f"The layer {self.path!r} gives a vector, which counts as one position: one-to-all "
                "matching is then one-to-one. Tap a layer before the pooling.",
                stacklevel=2,
            )
        return Output(features.reshape(*features.shape[:2], -1), logits)


adapt = Adapted
