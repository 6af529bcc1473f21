"""The width rule ``learned``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.cost import Limits
from autoprune.widths._contract import Evidence, WidthRule
from autoprune.widths._ranking import remove_least

__all__ = ["Learned"]


class Learned(WidthRule):
    """What the method decided while it trained: channels with a score of 0 or less go, and no others.

    Where that is not enough for the limits, the ranking goes on, as the rule ``global`` does it; a method that decides
    nothing is ranked from the start.
    """

    name: ClassVar[str] = "learned"
    summary: ClassVar[str] = "what the method decided while it trained"
    ranks: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """The number of channels alive, rounded up to an allowed width, unless that costs too much."""
        cost, widths = evidence.cost, {}
        for name, allowed in zip(cost.groups, limits.allowed(cost), strict=True):
            n_alive = int((evidence.scores[name] > 0).sum())
            widths[name] = int(allowed[min(int(np.searchsorted(allowed, n_alive)), len(allowed) - 1)])
        return widths if limits.keeps(cost, widths) else remove_least(cost, evidence.scores, limits)
