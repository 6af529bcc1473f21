"""What ranks channels after a sparsify phase: the size of what was shrunk, or the damage that their removal does."""

from __future__ import annotations

from autoprune.engine.contracts import Importance
from autoprune.importances import Damage, FilterNorm, ScaleMagnitude

__all__ = ["SCORED_BY", "SEARCHED", "importance_of"]

SCORED_BY = ("size", "damage")
SEARCHED = {"values": SCORED_BY}


def importance_of(scored_by: str, *, acts_on: str = "scales") -> Importance:
    """The importance that scores the channels.

    Args:
        scored_by: One of `SCORED_BY`; ``"size"`` is that of what the method acts on.
        acts_on: ``"scales"`` of BatchNorms, or ``"norms"`` of filters.
    """
    if scored_by == "damage":
        return Damage()
    return ScaleMagnitude() if acts_on == "scales" else FilterNorm()
