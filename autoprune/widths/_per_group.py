"""The width rule ``per_group``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from autoprune.cost import CostModel, Limits, fit
from autoprune.widths._contract import Evidence, WidthRule

__all__ = ["PerGroup"]


class PerGroup(WidthRule):
    """Keep ratios in the proportions of one multiplier for each channel group, as large as the limits allow."""

    name: ClassVar[str] = "per_group"
    summary: ClassVar[str] = "a multiplier for each channel group"
    unit: ClassVar[str] = "channel group"

    def sampled(self, cost: CostModel) -> Mapping[str, tuple[str, ...]]:
        """One for each group, by its name."""
        return {name: (name,) for name in cost.groups}

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """The inverse of the cost model, along the multipliers."""
        return fit(evidence.cost, limits, multipliers=evidence.multipliers)
