"""CIFAR ResNets, for the image study: 32 x 32 RGB pictures, as in the published code.

Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2. The names of
the layers are those of the one network that was published, so that its state loads strictly.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.networks import Output
from hfld_lite.storage.files import regular_size

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


def load_published(path: str | Path, depth: int = 32, num_classes: int = 100) -> CifarResNet:
    """Load the weights of a CIFAR ResNet from a file of ``torch.save``, as the authors published.

    A pickle is a program, so this one is never run: torch's weights-only loading knows tensors and
    dicts, and refuses all else. Before any number is read, sizes and shapes are compared with the
    file's size and with the network.

    Args:
        path: a state by the layers' names; those of ``nn.DataParallel`` begin with ``module.``.
        depth: 20, 32, 56 or 110.
        num_classes: that the network tells apart.

    Returns:
        The network in evaluation mode.

    Raises:
        DataError: the file is damaged, holds anything but these weights, or those of another
            network.
        ArgumentError: the depth or the number of classes is impossible.
    """
    path = Path(path)
    with torch.device("meta"):
        network = cifar_resnet(depth, num_classes)
    try:
        _check_archive(path)
        # on the device "meta" tensors have shapes and no numbers: nothing is reserved for them
        _check_state(_weights(path, "meta"), network.state_dict())
        state = {_plain(name): value for name, value in _weights(path, "cpu").items()}
        network.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # torch and zipfile raise many kinds on damaged input
        raise DataError(
            path,
            f"is not a file of weights for this network ({_reason(error)})",
            expected=f"the state of a CIFAR ResNet{depth} with {num_classes} classes, as torch.save"
            " writes it",
            mend="copy it again, or give its depth and its number of classes",
        ) from error
    return network.eval()


def _weights(path: Path, device: str) -> Any:
    return torch.load(path, map_location=device, weights_only=True)


def _plain(name: str) -> str:
    return name.removeprefix("module.")


def _check_archive(path: Path) -> None:
    """Raise a ValueError unless the file is a zip of uncompressed records, none beyond its size."""
    size = regular_size(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive, as torch.save has made since version 1.6")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("a record is compressed, and torch.save compresses none")
    if (claimed := sum(record.file_size for record in records)) > size:
        raise ValueError(f"its records claim {claimed} bytes, and it has {size}")


def _check_state(found: Any, expected: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless names, types and shapes are the expected ones."""
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise ValueError("it holds no dict of names and tensors")
    names = [_plain(name) for name in found]
    for wrong, what in ((set(expected) - set(names), "lacks"), (set(names) - set(expected), "has")):
        if wrong:
            raise ValueError(f"it {what} {len(wrong)} tensors, such as {min(wrong)!r}")
    if len(names) > len(expected):
        raise ValueError("it has a tensor twice, with and without 'module.'")
    for name, value in found.items():
        like = expected[_plain(name)]
        here, there = (value.shape, value.dtype), (like.shape, like.dtype)
        if here != there:
            raise ValueError(f"{name} is {here[1]} {tuple(here[0])}, not {tuple(there[0])}")
        if not value.is_contiguous() or value.untyped_storage().nbytes() != like.nbytes:
            raise ValueError(f"{name} is a part of something larger")


def _reason(error: Exception) -> str:
    """The cause in few words, without torch's advice to load the file unsafely."""
    if called := re.search(r"GLOBAL (\S+)", str(error)):
        return f"its pickle calls for {called[1]}, which is not run"
    return (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
