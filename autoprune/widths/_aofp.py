"""The width rule ``aofp``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.cost import Limits
from autoprune.widths._contract import Evidence, Kept, WidthRule
from autoprune.widths._damages import joint_damages, largest_damage
from autoprune.widths._ranking import least_important_first, remove_least

__all__ = ["AOFP"]


class AOFP(WidthRule):
    """In every group the largest set of least important channels whose joint damage is at most θ, the same for all.

    θ follows from the limits: it is bisected to the largest one that they allow, and what room is left then goes to
    the channels that would have done the most damage. So a ladder of MACs targets is a ladder of θ. Of the scores only
    the order within a group counts.

    References:
        After the filter-by-filter search of Ding et al. (2019), Approximated oracle filter pruning, arXiv 1905.04748.
    """

    name: ClassVar[str] = "aofp"
    summary: ClassVar[str] = "as many channels as the next layer can miss"
    ranks: ClassVar[bool] = True

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """What is left when channels leave by the joint damage of all that have left their group with them."""
        nested = {}
        for name in evidence.cost.groups:
            order = least_important_first(evidence.scores[name])
            nested[name] = np.empty(len(order))
            nested[name][order] = joint_damages(evidence.damages[name], order)
        return remove_least(evidence.cost, nested, limits)

    def findings(self, evidence: Evidence, kept: Kept) -> dict[str, float]:
        """``theta``, the largest joint damage that the removed channels of a group do."""
        return {"theta": largest_damage(evidence.damages, kept)}
