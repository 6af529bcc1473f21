"""Networks that autoprune builds by name; each is a function, its channel groups are traced."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autoprune.architectures._densenet_cifar import densenet40
from autoprune.architectures._mobilenet_cifar import mobilenet_v1, mobilenet_v2
from autoprune.architectures._preresnet_cifar import preresnet164
from autoprune.architectures._resnet_cifar import resnet20, resnet32, resnet44, resnet56, resnet110, resnet_digits
from autoprune.architectures._torchvision import build_torchvision
from autoprune.architectures._vgg_cifar import vgg16, vgg19
from autoprune.errors import ConfigError, unknown_name

__all__ = ["ARCHITECTURES", "build"]

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet_digits": resnet_digits,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "preresnet164": preresnet164,
    "densenet40": densenet40,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
}

_TORCHVISION = "torchvision/"


def build(name: str, *, n_classes: int, in_channels: int) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: A name in `ARCHITECTURES`, or ``"torchvision/<name>"``.
        n_classes: Logits.
        in_channels: Channels of the image.

    Raises:
        ConfigError: There is no network of that name.

    Example:
        >>> sum(p.numel() for p in build("resnet20", n_classes=10, in_channels=3).parameters())
        272474
    """
    if name.startswith(_TORCHVISION):
        return build_torchvision(name.removeprefix(_TORCHVISION), n_classes=n_classes, in_channels=in_channels)
    if name not in ARCHITECTURES:
        raise ConfigError(unknown_name("architecture", name, [*ARCHITECTURES, f"{_TORCHVISION}<name>"]))
    return ARCHITECTURES[name](n_classes=n_classes, in_channels=in_channels)
