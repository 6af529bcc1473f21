"""Networks of torchvision, by name and without weights."""

from __future__ import annotations

import inspect

from torch import nn

from autoprune.errors import ConfigError, unknown_name

__all__ = ["build_torchvision"]


def build_torchvision(name: str, *, n_classes: int, in_channels: int) -> nn.Module:
    """Build a classifier of torchvision without weights and without auxiliary heads.

    Args:
        name: Torchvision's name of the network, such as ``"resnet50"``.
        n_classes: Logits.
        in_channels: Channels of the image; torchvision builds for 3, another number replaces the first convolution.

    Raises:
        ConfigError: Torchvision has no such classifier, or its first layer can't take ``in_channels``.
    """
    from torchvision import models  # torchvision takes a second to import, and most studies don't need it

    valid = models.list_models(module=models)
    if name not in valid:
        raise ConfigError(unknown_name("torchvision network", name, valid))
    options: dict[str, object] = {"weights": None, "num_classes": n_classes}
    accepted = inspect.signature(models.get_model_builder(name)).parameters
    if name in ("googlenet", "inception_v3") and "kwargs" in accepted:
        options |= {"aux_logits": False, "init_weights": False}  # their own initialisation takes a minute
    model: nn.Module = models.get_model(name, **options)
    if in_channels != 3:
        _replace_first_conv(model, name, in_channels)
    return model


def _replace_first_conv(model: nn.Module, name: str, in_channels: int) -> None:
    for qualified, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.in_channels != 3 or module.groups != 1 or getattr(model, "transform_input", False):
            break
        first = nn.Conv2d(
            in_channels,
            module.out_channels,
            (module.kernel_size[0], module.kernel_size[1]),
            stride=(module.stride[0], module.stride[1]),
            padding=module.padding if isinstance(module.padding, str) else (module.padding[0], module.padding[1]),
            bias=module.bias is not None,
        )
        parent, _, leaf = qualified.rpartition(".")
        setattr(model.get_submodule(parent), leaf, first)
        return
    raise ConfigError(
        f"'torchvision/{name}' can only be built for 3 input channels, but got in_channels={in_channels}."
    )
