"""Importance by how badly the other channels tell what a channel says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.engine.measuring import joint_correlations, measure_channel_moments
from autoprune.importances._channel_sums import norms
from autoprune.widths import Scores

__all__ = ["NoiseOut", "order_of_redundancy"]


def order_of_redundancy(
    correlations: NDArray[np.float64], spread: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The channels in the order in which they leave, and ``1 - |ρ|`` with the one that stays for each; shape (C,).

    Again and again the two that are most alike are found, and of them the one that varies less leaves. The last one
    has 1.

    Args:
        correlations: |ρ|, shape (C, C), symmetric.
        spread: How much each channel varies, shape (C,); 0 for a constant, which leaves before all others.
    """
    width = len(spread)
    alike = np.array(correlations)
    np.fill_diagonal(alike, -1.0)
    order, lost = [], []
    for _ in range(width - 1):
        first, second = sorted(divmod(int(alike.argmax()), width))
        gone = first if spread[first] < spread[second] else second
        order.append(gone)
        lost.append(1.0 - float(alike[first, second]))
        alike[gone], alike[:, gone] = -1.0, -1.0
    left = np.setdiff1d(np.arange(width), order)
    last = float(spread[left[0]] > 0)
    return np.array([*order, *left], dtype=np.int64), np.array([*lost, last])


@dataclass(frozen=True)
class NoiseOut(Importance):
    """How badly one other channel can say what a channel says: ``1 - |ρ|`` when channels leave one by one.

    Correlations are those at the layers that combine the channels, the smallest of them where there are several. It is
    the ranking for studies with `merge`, where a removed channel's readers turn to its partner.

    References:
        Babaeizadeh, Smaragdis and Campbell (2016), NoiseOut: a simple way to prune neural networks, arXiv 1611.06211.
        Its noisy outputs, which make channels more alike in training, are left out.
    """

    is_comparable: ClassVar[bool] = True

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """``1 - |ρ|`` at the channel's place in the order, never less than before it, shape (C,).

        Raises:
            DataError: There is no batch.
        """
        scores, weights = {}, norms(model, traced, axes=("out", "in"))
        for name, moments in measure_channel_moments(model, traced, batches=batches).items():
            width = traced.group(name).width
            spread = np.sqrt(np.sum([each.variance for each in moments], axis=0)) if moments else np.zeros(width)
            order, lost = order_of_redundancy(joint_correlations(moments, width), spread)
            scores[name] = np.empty(width)
            scores[name][order] = np.maximum.accumulate(lost)
            scores[name][weights[name] == 0] = 0.0  # It says nothing of its own, and nobody listens.
        return scores
