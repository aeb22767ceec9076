"""The 1-D networks that the released code compares with: AlexNet, VGG19, GoogLeNet, DenseNet-121.

They are plain modules that know nothing of a recipe: examples of given networks. Each is a trunk of
convolutions, a pooling to nine positions and a head,

    features = pool₉(trunk(x)),    logits = head(flatten(features)).

Layers, poolings and parameter counts are those of the released code. The initial weights are not:
all four networks begin with He's (He et al., "Delving deep into rectifiers", 2015). The released
code has them in AlexNet's convolutions only. Torch's default weights shrink the signal in each
layer, and narrow VGG19s and GoogLeNets, which have no batch norm, then stay at chance.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError
from hfld_lite.networks import POSITIONS, Output, conv_bn

VGG_GROUPS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512, 512, 512, 1024))

INCEPTIONS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""Channels in each module of GoogLeNet: 1, before 3, 3, before 5, 5, behind the pooling."""

POOLED, HEARD = (0, 2, 7), (2, 5)
"""Modules of GoogLeNet that a pooling precedes, and those that an auxiliary head follows."""

AUXILIARY_POSITIONS = 16
"""Positions that an auxiliary head reads: 128 channels · 16 = 2048, in 2-D 128 · 4 · 4."""

DENSE_BLOCKS, GROWTH, BOTTLENECK = (6, 12, 24, 16), 32, 4


class Network1d(nn.Module):
    """A trunk, nine positions and a head; the functions in :data:`NETWORKS_1D` build it.

    ``trunk`` maps ``(batch, 1, length)`` to ``(batch, outputs, positions)``; it leaves nine
    positions of ``least`` samples. ``sizes`` are those of the head's layers, the classes last.
    """

    def __init__(
        self, name: str, least: int, trunk: nn.Module, outputs: int, dropout: float, *sizes: int
    ) -> None:
        super().__init__()
        self.name, self.least = name, least
        self.feature_channels, self.num_classes = outputs, sizes[-1]
        self.trunk, self.pool = trunk, nn.AdaptiveAvgPool1d(POSITIONS)
        self.head = _head([outputs * POSITIONS, *sizes], dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Output:
        """Map inputs ``(batch, length)`` to features ``(batch, C, 9)`` and logits.

        Raises:
            ArgumentError: if the input has another shape or is shorter than ``least`` samples.
        """
        if x.ndim != 2 or x.shape[1] < self.least:
            raise ArgumentError(
                f"{self.name} takes inputs of shape (batch, length) with a length of at least "
                f"{self.least}, so that {POSITIONS} positions are left; found shape "
                f"{tuple(x.shape)}."
            )
        features = self.pool(self.trunk(x.unsqueeze(1)))
        return Output(features, self.head(features.flatten(1)))


class Joined(nn.Module):
    """Several branches that read the same input; their channels are concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, length)`` to ``(batch, sum of the branches' channels, length)``."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def alexnet1d(num_classes: int, width: float = 1.0, dropout: float = 0.5) -> Network1d:
    """Build AlexNet for recordings of one channel: five convolutions with batch norm.

    All kernels are 3 wide and have stride 1; three poolings shorten the input about 8 times.
    6,588,866 parameters at two classes. Source: Krizhevsky et al., "ImageNet classification with
    deep convolutional neural networks", 2012.

    Args:
        num_classes: number of classes, two or more.
        width: factor on every channel count and hidden size, from 1/16 to 2.
        dropout: probability behind each hidden layer of the head.

    Returns:
        A network that maps ``(batch, length)`` to an :class:`hfld_lite.networks.Output` with
        features ``(batch, feature_channels, 9)``.

    Raises:
        ArgumentError: if an argument is outside these values.
    """
    wide = _scaler(num_classes, width, dropout)
    trunk, inputs = nn.Sequential(), 1
    for number, channels in enumerate(wide(64, 192, 384, 256, 256), 1):
        conv = nn.Conv1d(inputs, channels, 3, 1, 1)
        trunk.extend([conv, nn.BatchNorm1d(channels), nn.ReLU()])
        if number in (1, 2, 5):
            trunk.append(nn.MaxPool1d(3, 2))
        inputs = channels
    return Network1d("AlexNet-1D", 79, trunk, inputs, dropout, *wide(2048, 512, 128), num_classes)


def vgg19_1d(num_classes: int, width: float = 1.0, dropout: float = 0.5) -> Network1d:
    """Build VGG19 for recordings of one channel: sixteen convolutions, no batch norm.

    A pooling halves the length behind each of five groups. 62,007,362 parameters at two classes.
    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
    recognition", 2015; the released code has 1024 channels in the last convolution.

    Args, returns and raises as in :func:`alexnet1d`.
    """
    wide = _scaler(num_classes, width, dropout)
    trunk, inputs = nn.Sequential(), 1
    for group in VGG_GROUPS:
        for channels in wide(*group):
            trunk.extend(_conv(inputs, channels, 3))
            inputs = channels
        trunk.append(nn.MaxPool1d(2))
    return Network1d("VGG19-1D", 288, trunk, inputs, dropout, *wide(4096, 4096), num_classes)


def googlenet1d(num_classes: int, width: float = 1.0, dropout: float = 0.5) -> Network1d:
    """Build GoogLeNet for recordings of one channel: nine inception modules, no batch norm.

    62,297,142 parameters at two classes, of which 4,333,828 are in ``auxiliary``: two more heads,
    behind the third and the sixth module. The released code never calls them, and no forward pass
    does so here. They are counted, stay as they were at the start and get no gradient.
    Source: Szegedy et al., "Going deeper with convolutions", 2015.

    Args, returns and raises as in :func:`alexnet1d`.
    """
    wide = _scaler(num_classes, width, dropout)
    stem, inputs, between, hidden = wide(64, 192, 128, 1024)
    trunk = nn.Sequential(
        *_conv(1, stem, 7, 2),
        nn.MaxPool1d(3, 2, ceil_mode=True),
        *_conv(stem, stem, 1),
        *_conv(stem, inputs, 3),
    )
    auxiliary = nn.ModuleList()
    for number, channels in enumerate(INCEPTIONS):
        if number in POOLED:
            trunk.append(nn.MaxPool1d(3, 2, ceil_mode=True))
        one, before3, three, before5, five, pooled = wide(*channels)
        branches = (
            _conv(inputs, one, 1),
            [*_conv(inputs, before3, 1), *_conv(before3, three, 3)],
            [*_conv(inputs, before5, 1), *_conv(before5, five, 5)],
            [nn.MaxPool1d(3, 1, 1), *_conv(inputs, pooled, 1)],
        )
        trunk.append(Joined(*(nn.Sequential(*branch) for branch in branches)))
        inputs = one + three + five + pooled
        if number in HEARD:
            pool = nn.AdaptiveAvgPool1d(AUXILIARY_POSITIONS)
            head = _head([between * AUXILIARY_POSITIONS, hidden, num_classes], dropout)
            conv = _conv(inputs, between, 1)
            auxiliary.append(nn.Sequential(pool, *conv, nn.Flatten(), head))
    network = Network1d("GoogLeNet-1D", 287, trunk, inputs, dropout, *wide(4096, 4096), num_classes)
    network.auxiliary = auxiliary
    return network


def densenet121_1d(num_classes: int, width: float = 1.0, dropout: float = 0.5) -> Network1d:
    """Build DenseNet-121 for recordings of one channel: 58 layers that read all layers before.

    A layer adds 32 channels to its input, ``x ← [x, conv₃(conv₁(x))]``, with batch norm and ReLU
    before each convolution. Between the blocks channels and length are halved. As in the released
    code no batch norm follows the last block. 15,481,474 parameters at two classes.
    Source: Huang et al., "Densely connected convolutional networks", 2017.

    Args, returns and raises as in :func:`alexnet1d`.
    """
    wide = _scaler(num_classes, width, dropout)
    inputs, growth = wide(64, GROWTH)
    trunk = nn.Sequential(conv_bn(1, inputs, 7, 2), nn.ReLU(), nn.MaxPool1d(3, 2, 1))
    between = BOTTLENECK * growth
    for number, layers in enumerate(DENSE_BLOCKS):
        if number:
            trunk.extend([*_norm_conv(inputs, inputs // 2, 1), nn.AvgPool1d(2)])
            inputs //= 2
        for _ in range(layers):
            body = *_norm_conv(inputs, between, 1), *_norm_conv(between, growth, 3)
            trunk.append(Joined(nn.Identity(), nn.Sequential(*body)))
            inputs += growth
    return Network1d("DenseNet121-1D", 285, trunk, inputs, dropout, *wide(1024, 512), num_classes)


NETWORKS_1D: dict[str, Callable[..., Network1d]] = {
    "alexnet": alexnet1d,
    "vgg19": vgg19_1d,
    "googlenet": googlenet1d,
    "densenet121": densenet121_1d,
}
"""The functions that build the networks, by name; all have the arguments of `alexnet1d`."""


def _scaler(num_classes: int, width: float, dropout: float) -> Callable[..., list[int]]:
    """Check the arguments of a network; return a function that scales its layers' sizes."""
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ArgumentError(f"num_classes is {num_classes!r}; at least 2 are needed.")
    if not 1 / 16 <= width <= 2:
        raise ArgumentError(f"width is {width!r}; choose a number from 1/16 to 2.")
    if not 0 <= dropout < 1:
        raise ArgumentError(f"dropout is {dropout!r}; choose a probability from 0 to below 1.")
    return lambda *sizes: [round(size * width) for size in sizes]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution with bias that keeps the length (up to the stride), then ReLU."""
    return [nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2), nn.ReLU()]


def _norm_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Batch norm, ReLU, then a convolution without bias that keeps the length."""
    conv = nn.Conv1d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
    return [nn.BatchNorm1d(inputs), nn.ReLU(), conv]


def _head(sizes: list[int], dropout: float) -> nn.Sequential:
    """Linear layers of these sizes with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for pair in pairwise(sizes):
        layers += [nn.Linear(*pair), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
