"""Importance by the norm of a channel's filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            weight = module.weight.detach().double().cpu()
            reads = member.axis == "in" and not (
                isinstance(module, nn.Conv2d) and weight.shape[1] != module.in_channels
            )
            by_position = (weight.transpose(0, 1) if reads else weight).flatten(1).square().sum(1)
            index = torch.as_tensor(np.asarray(member.index)).reshape(group.width, -1)
            total += by_position[index].sum(1)
        norm = total.sqrt()
        return np.asarray((norm / norm.mean().clamp_min(1e-12)).numpy(), dtype=np.float64)
