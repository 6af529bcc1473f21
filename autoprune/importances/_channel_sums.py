"""Sums over the weights that write or read each channel, in any prunable layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.engine.channels import ChannelGroup, Member, Traced
from autoprune.widths import Scores

__all__ = ["norms", "sum_by_channel", "weighing_members"]


def weighing_members(group: ChannelGroup, model: nn.Module) -> list[tuple[Member, nn.Module]]:
    """The matrices of a group, with their modules, once for each of their axes that it lives on."""
    pairs = [(member, model.get_submodule(member.module)) for member in group.members if member.weight]
    return [(m, module) for m, module in pairs if isinstance(module, _ConvNd | nn.Linear) or m.axis != "out"]


def sum_by_channel(values: Tensor, module: nn.Module, member: Member) -> Tensor:
    """Sum what belongs to each channel of a group.

    Args:
        values: One number for each weight of ``module``, in the weight's shape.
        module: A convolution or linear layer.
        member: Which of its axes, and where each channel lies on it.

    Returns:
        Shape (C,). The weights of a depthwise layer write a channel; that they also read it is not counted again.
    """
    by_pair = values.reshape(*values.shape[:2], -1).sum(2)  # (O, I / conv groups)
    if isinstance(module, _ConvTransposeNd) and module.groups == 1:
        by_pair = by_pair.T
    if member.writes:
        sums = by_pair.sum(1)
    elif isinstance(module, _ConvNd) and module.groups > 1:
        if module.groups in (module.in_channels, module.out_channels):
            sums = by_pair.new_zeros(module.in_channels)
        else:
            sums = by_pair.reshape(module.groups, -1, by_pair.shape[1]).sum(1).flatten()
    else:
        sums = by_pair.sum(0)
    return sums[torch.from_numpy(member.index).to(sums.device)].sum(1)


def norms(model: nn.Module, traced: Traced, *, axes: tuple[str, ...]) -> Scores:
    """ℓ2 norm of the weights of each channel, shape (C,) by group, in float64.

    Args:
        model: The network.
        traced: Its channel groups.
        axes: ``"out"`` for the weights that write a channel, ``"in"`` for those that read it.
    """
    scores = {}
    for group in traced.groups:
        total: Tensor = torch.zeros(group.width, dtype=torch.float64)
        for member, module in weighing_members(group, model):
            if ("out" if member.writes else "in") in axes and member.weight:
                weight = model.get_parameter(member.weight)
                total += sum_by_channel(weight.detach().cpu().double().square(), module, member)
        scores[group.name] = np.asarray(total.sqrt().numpy(), dtype=np.float64)
    return scores
