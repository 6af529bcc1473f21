"""MobileNets for small images: depthwise separable convolutions, and inverted residuals."""

from __future__ import annotations

from torch import Tensor, nn

from autoprune.architectures._initialise import initialise

__all__ = ["mobilenet_v1", "mobilenet_v2"]

# Both keep 32×32 images at full size in the stem; the originals halve 224×224 ones there.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class ConvNorm(nn.Sequential):
    """Convolution, normalisation and, by default, an activation.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        kernel: 1 or 3.
        stride: >= 1.
        depthwise: One conv group for each channel.
        activation: The module that follows, if any.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        activation: nn.Module | None = None,
    ) -> None:
        groups = inputs if depthwise else 1
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(width),
        ]
        super().__init__(*layers, *([] if activation is None else [activation]))


class InvertedResidual(nn.Module):
    """Widens, filters each channel, narrows; adds its input where the shape allows.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        expansion: Inner channels for each that comes in, >= 1.
        stride: >= 1.
    """

    def __init__(self, inputs: int, width: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * inputs
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(ConvNorm(inputs, inner, activation=nn.ReLU6()))
        layers.append(ConvNorm(inner, inner, kernel=3, stride=stride, depthwise=True, activation=nn.ReLU6()))
        layers.append(ConvNorm(inner, width))
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class MobileNetCifar(nn.Module):
    """Features, global average pooling and one linear layer.

    Args:
        features: From the image to ``width`` channels.
        width: Channels that the features give.
        n_classes: Logits.
    """

    def __init__(self, features: nn.Module, width: int, *, n_classes: int) -> None:
        super().__init__()
        self.features = features
        self.fc = nn.Linear(width, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


def mobilenet_v1(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNet v1 with a stem of stride 1 (Howard et al., 2017): 46,354,432 MACs at 3×32×32."""
    layers: list[nn.Module] = [ConvNorm(in_channels, 32, kernel=3, activation=nn.ReLU())]
    inputs = 32
    for width, stride in _V1:
        filters = ConvNorm(inputs, inputs, kernel=3, stride=stride, depthwise=True, activation=nn.ReLU())
        layers.append(nn.Sequential(filters, ConvNorm(inputs, width, activation=nn.ReLU())))
        inputs = width
    return MobileNetCifar(nn.Sequential(*layers), inputs, n_classes=n_classes)


def mobilenet_v2(*, n_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNet v2 with strides for small images (Sandler et al., 2018)."""
    layers: list[nn.Module] = [ConvNorm(in_channels, 32, kernel=3, activation=nn.ReLU6())]
    inputs = 32
    for expansion, width, repeats, stride in _V2:
        for repeat in range(repeats):
            layers.append(InvertedResidual(inputs, width, expansion=expansion, stride=1 if repeat else stride))
            inputs = width
    layers.append(ConvNorm(inputs, 1280, activation=nn.ReLU6()))
    return MobileNetCifar(nn.Sequential(*layers), 1280, n_classes=n_classes)
