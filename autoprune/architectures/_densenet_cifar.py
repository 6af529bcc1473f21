"""Densely connected networks for small images (Huang et al., 2017), without bottlenecks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architectures._initialise import initialise

__all__ = ["densenet40"]


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to those that come in.

    Args:
        inputs: Channels that come in.
        growth: Channels that are added.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """A 1×1 convolution of the same width and a 2×2 average pooling.

    Args:
        width: Channels that come in and go out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNetCifar(nn.Module):
    """Three dense blocks with transitions between them, a last normalisation, pooling and one linear layer.

    Args:
        depth: Layers of each block, >= 1.
        growth: Channels that each layer adds.
        n_classes: Logits.
        in_channels: Channels of the image; any height and width from 4×4 up.
    """

    def __init__(self, *, depth: int, growth: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        features: list[nn.Module] = []
        for block in range(3):
            if block:
                features.append(Transition(width))
            for _ in range(depth):
                features.append(DenseLayer(width, growth))
                width += growth
        self.features = nn.Sequential(*features)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.features(self.conv1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def densenet40(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DenseNet-40 of growth 12: 12 layers a block, 1.06 million parameters."""
    return DenseNetCifar(depth=12, growth=12, n_classes=n_classes, in_channels=in_channels)
