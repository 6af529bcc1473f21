"""The width rule ``per_stage``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from autoprune.cost import CostModel, Limits, fit
from autoprune.widths._contract import Evidence, WidthRule

__all__ = ["PerStage"]


class PerStage(WidthRule):
    """Keep ratios in the proportions of one multiplier for each stage of the network, as large as the limits allow."""

    name: ClassVar[str] = "per_stage"
    summary: ClassVar[str] = "a multiplier for each stage of the network"
    unit: ClassVar[str] = "stage"

    def sampled(self, cost: CostModel) -> Mapping[str, tuple[str, ...]]:
        """One for each of `CostModel.stages`."""
        return cost.stages

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """The inverse of the cost model, along the multipliers."""
        return fit(evidence.cost, limits, multipliers=evidence.multipliers)
