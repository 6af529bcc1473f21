"""VGG with batch normalisation for small images: convolutions and one linear layer (Simonyan & Zisserman, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoprune.architectures._initialise import initialise

__all__ = ["vgg16", "vgg19"]


class VGGCifar(nn.Module):
    """Stages of 3×3 convolutions with a 2×2 pooling between them, global average pooling, one linear layer.

    Args:
        depths: Convolutions of each of the five stages.
        n_classes: Logits.
        in_channels: Channels of the image; height and width must be at least 16.
    """

    def __init__(self, *, depths: Sequence[int], n_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512, 512), strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def vgg16(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG-16 of 13 convolutions and one linear layer: 313,201,664 MACs at 3×32×32."""
    return VGGCifar(depths=(2, 2, 3, 3, 3), n_classes=n_classes, in_channels=in_channels)


def vgg19(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG-19 of 16 convolutions and one linear layer: 398,136,320 MACs at 3×32×32, 5,504 scaled channels."""
    return VGGCifar(depths=(2, 2, 4, 4, 4), n_classes=n_classes, in_channels=in_channels)
