"""How well one channel is told by another one, as the layers that combine them see both."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import Member, Traced, readers_of
from autoprune.engine.contracts import Batches
from autoprune.engine.measuring.showing import N_BATCHES, show

__all__ = ["ChannelMoments", "joint_correlations", "measure_channel_moments"]

_MOST_SAMPLES = 65_536  # Of one reader and batch.
_DEAD = 1e-10  # Of a channel's mean square: below it, what is left about the mean is rounding.


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """What the channels of a group are at one of its readers, over images and places.

    Args:
        member: The reader, and where the channels lie.
        mean: Shape (C,).
        covariance: Shape (C, C).
    """

    member: Member
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def variance(self) -> NDArray[np.float64]:
        """Shape (C,); 0 of a channel that is constant but for rounding."""
        found = np.diag(self.covariance)
        return np.where(found > _DEAD * (found + self.mean**2), found, 0.0)

    @property
    def correlations(self) -> NDArray[np.float64]:
        """|ρ|, shape (C, C), in [0, 1]; 1 with everything for a channel that is constant: any other says it as well."""
        spread = np.sqrt(self.variance)
        lives = spread > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.abs(self.covariance) / np.outer(spread, spread)
        return np.where(np.outer(lives, lives), np.minimum(found, 1.0), 1.0)


@torch.no_grad()
def measure_channel_moments(
    model: nn.Module, traced: Traced, *, batches: Batches, n_batches: int = N_BATCHES
) -> Mapping[str, list[ChannelMoments]]:
    """Means and covariances of the channels of every group, at each layer that combines them.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.
        n_batches: How many of them at most, >= 1.

    Raises:
        DataError: There is no batch.
    """
    heard = {group.name: [_Sums(member) for member in readers_of(model, group)] for group in traced.groups}
    listeners = [(sums.member.module, functools.partial(_hear, sums=sums)) for each in heard.values() for sums in each]
    show(model, traced, batches, listeners=listeners, n_batches=n_batches, what="correlations")
    return {name: [sums.moments() for sums in each if sums.n] for name, each in heard.items()}


def joint_correlations(moments: list[ChannelMoments], width: int) -> NDArray[np.float64]:
    """|ρ| where it is the least of all readers, shape (C, C): a pair must be alike for each of them.

    Args:
        moments: Of the group's readers.
        width: C.
    """
    return np.min([each.correlations for each in moments], axis=0) if moments else np.zeros((width, width))


class _Sums:
    """Sums of what one reader sees of a group."""

    def __init__(self, member: Member) -> None:
        self.member, self.n = member, 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, samples: Tensor) -> None:
        """Samples of every channel, shape (C, n)."""
        if samples.shape[1] > _MOST_SAMPLES:
            drawn = torch.randperm(samples.shape[1], generator=torch.Generator().manual_seed(self.n))[:_MOST_SAMPLES]
            samples = samples[:, drawn.to(samples.device)]
        samples = samples.double()
        self._sum = self._sum + samples.sum(1)
        self._products = self._products + samples @ samples.T
        self.n += samples.shape[1]

    def moments(self) -> ChannelMoments:
        """Those of all samples."""
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._products, Tensor)
        mean = (self._sum / self.n).cpu().numpy()
        return ChannelMoments(self.member, mean, (self._products / self.n).cpu().numpy() - np.outer(mean, mean))


def _hear(module: nn.Module, args: tuple[Tensor, ...], *, sums: _Sums) -> None:
    x = args[0].detach()
    by_channel = x.movedim(1 if isinstance(module, _ConvNd) else -1, 0).flatten(1)  # (I, places)
    sums.add(by_channel[torch.from_numpy(sums.member.index).to(x.device)].flatten(1))
