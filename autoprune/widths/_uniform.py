"""The width rule ``uniform``."""

from __future__ import annotations

from typing import ClassVar

from autoprune.cost import Limits, fit
from autoprune.widths._contract import Evidence, WidthRule

__all__ = ["Uniform"]


class Uniform(WidthRule):
    """One keep ratio for all groups, as large as the limits allow."""

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "one keep ratio for all"

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """The inverse of the cost model."""
        return fit(evidence.cost, limits)
