"""Scores that rank the channels of a group, one file each."""

from autoprune.engine.contracts import Importance
from autoprune.importances._filter_norm import FilterNorm
from autoprune.importances._scale import ScaleMagnitude

__all__ = ["IMPORTANCES", "FilterNorm", "ScaleMagnitude"]

IMPORTANCES: dict[str, type[Importance]] = {"filter_norm": FilterNorm, "scale": ScaleMagnitude}
