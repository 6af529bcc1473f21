"""Importance by damage at the next layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.engine.measuring import measure_damages
from autoprune.widths import Damages, Scores, joint_damages

__all__ = ["Damage", "joint_scores", "order_of_damage"]


@dataclass(frozen=True)
class Damage(Importance):
    """Joint damage at the next layer when channels leave one by one, each time the one that adds the least.

    A channel's score is what has been lost of the readers' outputs once it and all before it are gone:
    ``T(R) = ‖z - z_R‖² / ‖z‖²``, 0 for nothing, 1 for as much as there was, added over several readers. Two channels
    that say the same count as one that is missing twice over, which no score of single channels can see.

    References:
        The damage is that of Ding et al. (2019), Approximated oracle filter pruning for destructive CNN width
        optimization, arXiv 1905.04748. Measuring all sets at once, without the means that recalibration restores, and
        the greedy order are ours.
    """

    least_steps: ClassVar[int | None] = 0
    is_comparable: ClassVar[bool] = True

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """``T`` of the channel's place in the greedy order, shape (C,).

        Raises:
            DataError: There is no batch.
        """
        return joint_scores(measure_damages(model, traced, batches=batches))


def joint_scores(damages: Damages) -> Scores:
    """What has been lost once a channel and all before it are gone, each time the one that adds the least; (C,)."""
    scores = {}
    for name, matrix in damages.items():
        order = order_of_damage(matrix)
        scores[name] = np.empty(len(order))
        scores[name][order] = joint_damages(matrix, order)
    return scores


def order_of_damage(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """The channels of a group in the order in which each next one adds the least damage; shape (C,).

    Ties leave from the end, as everywhere.

    Args:
        matrix: See `widths.Damages`.
    """
    added, left = np.diag(matrix).copy(), np.ones(len(matrix), dtype=np.bool_)
    order = np.empty(len(matrix), dtype=np.int64)
    for place in range(len(matrix)):
        costs = np.where(left, added, np.inf)
        channel = len(matrix) - 1 - int(costs[::-1].argmin())
        order[place], left[channel] = channel, False
        added += 2 * matrix[channel]
    return order
