"""Importance by the norm of all weights of a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.importances._channel_sums import norms
from autoprune.widths import Scores

__all__ = ["GroupNorm"]


@dataclass(frozen=True)
class GroupNorm(Importance):
    """ℓ2 norm of all weights that write or read a channel.

    References:
        Li et al. (2017), Pruning filters for efficient ConvNets, arXiv 1608.08710 (writers only, ℓ1);
        the group form follows Fang et al. (2023), DepGraph, arXiv 2301.12900.
    """

    least_steps: ClassVar[int | None] = 0

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Norm over the weights of all of a channel's layers, shape (C,)."""
        return norms(model, traced, axes=("out", "in"))
