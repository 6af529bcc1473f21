"""Importance by the Fisher matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.engine.measuring import measure_fisher
from autoprune.importances._damage import joint_scores
from autoprune.widths import Damages, Scores

__all__ = ["Fisher"]


@dataclass(frozen=True)
class Fisher(Importance):
    """What the loss is expected to rise by, to the second order, when channels leave one by one.

    A channel's score is ``sum(G[R][:, R])`` with ``G[c, d] = E[s_c s_d] / 2`` over the channels R that are gone once it
    is, s_c the derivative of an image's loss by a gate on channel c. It is in units of the loss, so what is lost counts
    the same in every layer, and width rules that go by damage go by it.

    References:
        Theis et al. (2018), Faster gaze prediction with dense networks and Fisher pruning, arXiv 1801.05787. The whole
        matrix in place of its diagonal, and the greedy order, are ours.
    """

    is_comparable: ClassVar[bool] = True

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """What is lost at the channel's place in the greedy order, shape (C,).

        Raises:
            DataError: There is no batch.
        """
        return joint_scores(measure_fisher(model, traced, batches=batches))

    def damages(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Damages:
        """G of every group."""
        return measure_fisher(model, traced, batches=batches)
