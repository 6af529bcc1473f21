"""The width rule ``global``."""

from __future__ import annotations

from typing import ClassVar

from autoprune.cost import Limits
from autoprune.widths._contract import Evidence, WidthRule
from autoprune.widths._ranking import remove_least

__all__ = ["Global"]


class Global(WidthRule):
    """The channels of all groups ranked together, the least important removed until the limits are met."""

    name: ClassVar[str] = "global"
    summary: ClassVar[str] = "all channels ranked together"
    ranks: ClassVar[bool] = True

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """What the shortest removal leaves."""
        return remove_least(evidence.cost, evidence.scores, limits)
