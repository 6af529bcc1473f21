"""Importance drawn by lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from autoprune.config import check, option, seed_of
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.widths import Scores

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Importance):
    """Drawn by lot: what a score that claims to know something has to beat.

    Args:
        seed: Of the draw; each group has its own from it.

    References:
        Mittal et al. (2018), Recovering from random pruning, arXiv 1801.10447.
    """

    seed: int = option(0, low=0)

    def __post_init__(self) -> None:
        check(self)

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Uniform in [0, 1), shape (C,)."""
        return {
            group.name: np.random.default_rng(seed_of("random importance", self.seed, group.name)).random(group.width)
            for group in traced.groups
        }
