"""Penalties that drive channels to zero, one file each."""

from autoprune.engine.contracts import Penalty
from autoprune.penalties._l1 import L1

__all__ = ["L1", "PENALTIES"]

PENALTIES: dict[str, type[Penalty]] = {"l1": L1}
