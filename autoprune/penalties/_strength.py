"""The search range that the strengths of all penalties share."""

from collections.abc import Mapping

__all__ = ["STRENGTH"]

STRENGTH: Mapping[str, float | str] = {"low": 1e-5, "high": 1e-2, "scale": "log", "points": 4}
"""Few points, so that trials share sparsify phases; weaker than this does nothing in phases of a few epochs."""
