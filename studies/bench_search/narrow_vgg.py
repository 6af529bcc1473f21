"""The second network of the bench: VGG-16 with batch normalisation at a quarter of its widths, for 32×32 images."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["narrow_vgg"]

_STAGES = ((16, 2), (32, 2), (64, 3), (128, 3), (128, 3))  # Width and convolutions of each.


class NarrowVGG(nn.Module):
    """13 convolutions of 3×3, global average pooling and a linear layer: 19,907,840 MACs at 3×32×32."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage, (width, depth) in enumerate(_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, 10)  # The peers leave a layer of this name as it is.

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


def narrow_vgg() -> nn.Module:
    """The network with random weights."""
    return NarrowVGG()
