"""Importance by the norm of a channel's filters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.importances._channel_sums import norms
from autoprune.widths import Scores

__all__ = ["FilterNorm"]


@dataclass(frozen=True)
class FilterNorm(Importance):
    """ℓ2 norm of the filters that write a channel.

    Before a BatchNorm the size of a filter changes nothing, so this tells what weight decay and training left of it.

    References:
        Li et al. (2017), Pruning filters for efficient ConvNets, arXiv 1608.08710, there with ℓ1.
    """

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Norm over the filters of all layers that write a channel, shape (C,)."""
        return norms(model, traced, axes=("out",))
