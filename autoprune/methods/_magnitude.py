"""Magnitude: no sparse training, channels ranked by the norm of their filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoprune.engine.contracts import Hooks, Method, Scores
from autoprune.engine.groups import Traced
from autoprune.importances import FilterNorm

__all__ = ["Magnitude"]


@dataclass(frozen=True)
class Magnitude(Method):
    """Cut the dense network as it is, by filter norms; the baseline that any training has to beat.

    References:
        Li et al. (2017), Pruning filters for efficient ConvNets, arXiv 1608.08710.
    """

    name: ClassVar[str] = "magnitude"
    trains: ClassVar[bool] = False

    def attach(self, model: nn.Module, traced: Traced) -> Hooks:
        """Nothing to prepare."""
        return Hooks()

    def rank(self, model: nn.Module, traced: Traced) -> Scores:
        """Filter norms by group."""
        return {group.name: FilterNorm().score(model, group) for group in traced.groups}
