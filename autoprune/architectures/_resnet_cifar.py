"""Residual networks of basic blocks for small images (He et al., 2016), with projection shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architectures._initialise import initialise

__all__ = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet_digits"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        stride: Of the first convolution, >= 1.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNetCifar(nn.Module):
    """A 3×3 stem, three stages of basic blocks, global average pooling and one linear layer.

    Args:
        blocks: Blocks of each of the three stages, >= 1.
        widths: Channels of each stage.
        n_classes: Logits.
        in_channels: Channels of the image; any height and width from 4×4 up.
    """

    def __init__(self, *, blocks: int, widths: Sequence[int], n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, 1)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2)
        self.fc = nn.Linear(widths[2], n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(width, width) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, width, stride), *rest)


def _build(blocks: int, n_classes: int, in_channels: int) -> nn.Module:
    return ResNetCifar(blocks=blocks, widths=(16, 32, 64), n_classes=n_classes, in_channels=in_channels)


def resnet20(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-20: 40,813,184 MACs and 272,474 parameters at 3×32×32."""
    return _build(3, n_classes, in_channels)


def resnet32(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-32: 69,124,736 MACs at 3×32×32."""
    return _build(5, n_classes, in_channels)


def resnet44(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-44: 97,436,288 MACs at 3×32×32."""
    return _build(7, n_classes, in_channels)


def resnet56(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-56: 125,747,840 MACs at 3×32×32."""
    return _build(9, n_classes, in_channels)


def resnet110(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-110: 253,149,824 MACs at 3×32×32."""
    return _build(18, n_classes, in_channels)


def resnet_digits(*, n_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """One block per stage, for the 1×8×8 digits of scikit-learn; trains in seconds on a processor."""
    return _build(1, n_classes, in_channels)
