"""Moves what a method put into a network, and what silent channels say, into the layers that stay."""

from autoprune.engine.folding.absorption import absorb
from autoprune.engine.folding.compaction import Inserted, Site, fold_compactors, insert, sites
from autoprune.engine.folding.compensation import compensate
from autoprune.engine.folding.constants import fold_constants, silent_channels

__all__ = [
    "Inserted",
    "Site",
    "absorb",
    "compensate",
    "fold_compactors",
    "fold_constants",
    "insert",
    "silent_channels",
    "sites",
]
