"""Penalties that drive channels to zero, one file each; every entry of `PENALTIES` is a method of network slimming."""

from autoprune.engine.contracts import Penalty
from autoprune.penalties._firm import firm
from autoprune.penalties._l1 import L1
from autoprune.penalties._log_sum import LogSum
from autoprune.penalties._lp import Lp
from autoprune.penalties._mcp import MCP
from autoprune.penalties._scad import SCAD
from autoprune.penalties._tl1 import TL1

__all__ = ["L1", "MCP", "PENALTIES", "SCAD", "TL1", "LogSum", "Lp", "firm"]

PENALTIES: dict[str, type[Penalty]] = {
    "l1": L1,
    "tl1": TL1,
    "lp": Lp,
    "mcp": MCP,
    "scad": SCAD,
    "log_sum": LogSum,
}
