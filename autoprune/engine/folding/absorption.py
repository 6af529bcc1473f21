"""Removed channels that a kept one tells almost as well are taken over by it: its readers' weights move."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches
from autoprune.engine.folding.constants import fold_into
from autoprune.engine.measuring import ChannelMoments, measure_channel_moments
from autoprune.widths import Kept

__all__ = ["Partner", "absorb", "partners"]

_LEAST = 0.8


@dataclass(frozen=True)
class Partner:
    """``channel ≈ slope * other + shift``.

    Args:
        channel: The one that leaves.
        other: The one that stays.
        slope: a.
        shift: b.
    """

    channel: int
    other: int
    slope: float
    shift: float


def absorb(model: nn.Module, traced: Traced, kept: Kept, *, batches: Batches, least: float = _LEAST) -> nn.Module:
    """Let kept channels speak for removed ones, wherever these are read.

    For a reader that sees channels u and v with correlation ρ, ``v ≈ a u + b`` with ``a = ρ σ_v / σ_u`` and
    ``b = E v - a E u``. So its weights for u grow by a times those for v, and what b adds goes to its bias, or else to
    the mean of the BatchNorm behind it. Exact where |ρ| is 1; the constant b but for borders that are padded with
    zeros, as in `fold_constants`. Each reader has its own partners: a residual stream is not the same everywhere.
    Depthwise layers hand channels on; grouped and transposed convolutions are left as they are.

    Args:
        model: What is to be cut; left as it is.
        traced: Its channel groups.
        kept: Channels that will stay.
        batches: What correlations are measured on.
        least: The smallest |ρ| at which a channel is taken over, in [0, 1].

    Returns:
        A network of the same size, to be cut with the same ``kept``; with all channels it says others twice.

    References:
        Babaeizadeh, Smaragdis and Campbell (2016), NoiseOut: a simple way to prune neural networks, arXiv 1611.06211.
        Partners for each reader, among the channels that stay, are ours.
    """
    absorbed = copy.deepcopy(model)
    losing = tuple(group for group in traced.groups if len(kept.get(group.name, range(group.width))) < group.width)
    if not losing:
        return absorbed
    measured = measure_channel_moments(model, dataclasses.replace(traced, groups=losing), batches=batches)
    for group in losing:
        for moments in measured[group.name]:
            name = moments.member.module
            reader = absorbed.get_submodule(name)
            if isinstance(reader, _ConvTransposeNd) or getattr(reader, "groups", 1) > 1:
                continue
            norm = absorbed.get_submodule(traced.norms[name]) if name in traced.norms else None
            _take_over(reader, norm, moments, taken=partners(moments, np.asarray(kept[group.name]), least=least))
    return absorbed


def partners(moments: ChannelMoments, stays: NDArray[np.int64], *, least: float) -> list[Partner]:
    """Who takes over which removed channel at one reader; those that nobody tells well enough are left out.

    Args:
        moments: Of the group's channels there.
        stays: The channels that stay, shape (k,).
        least: The smallest |ρ| at which a channel is taken over.
    """
    found = []
    correlations, variance = moments.correlations, moments.variance
    for channel in np.setdiff1d(np.arange(len(moments.mean)), stays).tolist():
        if variance[channel] == 0:
            found.append(Partner(channel, int(stays[0]), 0.0, float(moments.mean[channel])))
            continue
        lives = stays[variance[stays] > 0]
        if not len(lives):
            continue
        other = int(lives[correlations[channel, lives].argmax()])
        if correlations[channel, other] >= least:
            slope = float(moments.covariance[channel, other] / variance[other])
            found.append(Partner(channel, other, slope, float(moments.mean[channel] - slope * moments.mean[other])))
    return found


@torch.no_grad()
def _take_over(reader: nn.Module, norm: nn.Module | None, moments: ChannelMoments, *, taken: list[Partner]) -> None:
    weight, index = reader.weight, moments.member.index
    assert isinstance(weight, Tensor)
    constants = torch.zeros(weight.shape[1], dtype=torch.float64)
    for partner in taken:
        gone, other = (torch.from_numpy(index[each]) for each in (partner.channel, partner.other))
        constants[gone] = partner.shift
        weight[:, other] += partner.slope * weight[:, gone]
    positions = np.concatenate([np.zeros(0, dtype=np.int64), *(index[partner.channel] for partner in taken)])
    fold_into(reader, positions, constants, norm=norm)
