"""What ranks channels after a sparsify phase: the size of what was shrunk, or any importance."""

from __future__ import annotations

from autoprune.engine.contracts import Importance
from autoprune.importances import IMPORTANCES, FilterNorm, ScaleMagnitude

__all__ = ["SCORED_BY", "SEARCHED", "importance_of"]

SCORED_BY = ("size", *IMPORTANCES)
"""What a method that shrinks channels can be ranked by."""
SEARCHED = {"values": ("size", "damage")}
"""What of these is searched: both can be compared between groups as they are."""


def importance_of(scored_by: str, *, acts_on: str = "scales") -> Importance:
    """The importance that scores the channels.

    Args:
        scored_by: One of `SCORED_BY`; ``"size"`` is that of what the method acts on.
        acts_on: ``"scales"`` of BatchNorms, or ``"norms"`` of filters.
    """
    if scored_by != "size":
        return IMPORTANCES[scored_by]()
    return ScaleMagnitude() if acts_on == "scales" else FilterNorm()
