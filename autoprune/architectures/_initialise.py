"""The common initialisation of the built-in networks."""

from __future__ import annotations

from torch import nn

__all__ = ["initialise"]


def initialise(model: nn.Module) -> None:
    """Draw convolutions from He's normal (fan out) and leave batch normalisation at one and zero, in place.

    Args:
        model: The network; its linear layers get a small normal and a zero bias.

    References:
        He et al. (2015), Delving Deep into Rectifiers, arXiv 1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
