"""Pre-activation residual networks of bottlenecks for small images (He et al., 2016, Identity Mappings)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architectures._initialise import initialise

__all__ = ["preresnet164"]

_EXPANSION = 4


class PreBottleneck(nn.Module):
    """Three convolutions, each after its normalisation and activation, beside an untouched shortcut.

    Args:
        inputs: Channels that come in.
        width: Channels of the two inner layers; four times as many go out.
        stride: Of the 3×3 convolution, >= 1.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        total: Tensor = out + shortcut
        return total


class PreResNetCifar(nn.Module):
    """A 3×3 stem, three stages of pre-activation bottlenecks, a last normalisation, pooling and one linear layer.

    Args:
        blocks: Blocks of each stage, >= 1.
        n_classes: Logits.
        in_channels: Channels of the image; any height and width from 4×4 up.
    """

    def __init__(self, *, blocks: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16 * _EXPANSION, 32, blocks, 2)
        self.layer3 = _stage(32 * _EXPANSION, 64, blocks, 2)
        self.bn = nn.BatchNorm2d(64 * _EXPANSION)
        self.fc = nn.Linear(64 * _EXPANSION, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn(x)).mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [PreBottleneck(_EXPANSION * width, width) for _ in range(blocks - 1)]
    return nn.Sequential(PreBottleneck(inputs, width, stride), *rest)


def preresnet164(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Pre-activation ResNet-164: 18 bottlenecks a stage, 1.70 million parameters."""
    return PreResNetCifar(blocks=18, n_classes=n_classes, in_channels=in_channels)
