"""Importance by the norm of a channel's filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.contracts import Importance
from autoprune.engine.groups import ChannelGroup

__all__ = ["FilterNorm"]


@dataclass(frozen=True)
class FilterNorm(Importance):
    """ℓ2 norm of everything that writes or reads a channel, relative to the group's mean.

    Dividing by the mean makes groups of different fan-in comparable, which a ranking of all channels
    together needs.

    References:
        Li et al. (2017), Pruning filters for efficient ConvNets, arXiv 1608.08710 (writers only, ℓ1);
        the group form follows Fang et al. (2023), DepGraph, arXiv 2301.12900.
    """

    def score(self, model: nn.Module, group: ChannelGroup) -> NDArray[np.float64]:
        """Norm over the members' weights divided by its mean over the group, shape (C,)."""
        total = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            module = model.get_submodule(member.module)
            if isinstance(module, _ConvNd | nn.Linear):
                total += _squares(module, member.axis)[torch.from_numpy(member.index)].sum(1)
        norm = total.sqrt()
        return np.asarray((norm / norm.mean().clamp_min(1e-12)).numpy(), dtype=np.float64)


def _squares(module: _ConvNd | nn.Linear, axis: str) -> Tensor:
    """Sum of the squared weights that write or read each channel, shape (O,) or (I,)."""
    weight = module.weight.detach().double().cpu()
    squares = weight.reshape(*weight.shape[:2], -1).square().sum(2)  # (O, I / conv groups)
    if axis == "out":
        return squares.sum(1)
    if isinstance(module, nn.Linear):
        return squares.sum(0)
    if module.groups > 1 and module.groups in (module.in_channels, module.out_channels):
        return squares.new_zeros(module.in_channels)  # Depthwise: the weights that write a channel read it as well.
    return squares.reshape(module.groups, -1, squares.shape[1]).sum(1).flatten()
