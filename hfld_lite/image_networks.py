"""CIFAR ResNets, for the image study: 32 x 32 RGB pictures, as in the published code.

Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2. The names of
the layers are those of the one network that was published, so that its state loads strictly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError
from hfld_lite.networks import Output

BLOCKS = {20: 3, 32: 5, 56: 9, 110: 18}
"""Residual blocks in each of the three stages, by depth = 6 · blocks + 2."""

MIN_SIDE = 8
"""The smallest picture that leaves more than one position after the two halvings."""


class Block(nn.Module):
    """A basic block, ``ReLU(bn2(conv2(ReLU(bn1(conv1(x))))) + shortcut(x))``.

    The shortcut is option A, without parameters: every second pixel, and zeros for the new
    channels, half of them before and half behind the old ones.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, H, W)`` to ``(batch, outputs, ceil(H/stride), ceil(W/stride))``."""
        pixels = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(pixels, (0, 0, 0, 0, self.padding, self.padding))
        body = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(body + shortcut)


class CifarResNet(nn.Module):
    """A CIFAR ResNet; build it with :func:`cifar_resnet`, which explains the arguments."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            later = (Block(outputs, outputs, 1) for _ in range(BLOCKS[depth] - 1))
            return nn.Sequential(Block(inputs, outputs, stride), *later)

        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        self.feature_channels, self.num_classes = 64, num_classes
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Output:
        """Map images ``(batch, 3, H, W)`` to features ``(batch, 64, H/4, W/4)`` and logits.

        Raises:
            ArgumentError: if the images have another shape or a side below 8 pixels.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIDE:
            raise ArgumentError(
                f"A CIFAR ResNet takes images of shape (batch, 3, height, width) with sides of at "
                f"least {MIN_SIDE}, 32 as a rule; found shape {tuple(images.shape)}."
            )
        x = torch.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(x)))
        return Output(features, self.linear(features.mean((2, 3))))


def cifar_resnet(depth: int, num_classes: int = 100) -> CifarResNet:
    """Build a CIFAR ResNet: 3x3 convolutions of 16, 32, 64 channels, shortcuts of option A.

    Its features are the map *before* pooling, 64 x 8 x 8 for a 32 x 32 image. The published code
    matched the pooled 64 x 1 x 1 map instead (``features.mean((2, 3), keepdim=True)``): softmax
    over one position is 1, so that one-to-all matching was plain MSE there.

    Args:
        depth: 20, 32, 56 or 110.
        num_classes: number of classes, two or more.

    Returns:
        A network that maps ``(batch, 3, H, W)`` to an :class:`hfld_lite.networks.Output`.

    Raises:
        ArgumentError: if an argument is outside these values.
    """
    if depth not in BLOCKS:
        raise ArgumentError(f"depth is {depth!r}; choose one of {sorted(BLOCKS)}.")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ArgumentError(f"num_classes is {num_classes!r}; at least 2 are needed.")
    return CifarResNet(depth, num_classes)
