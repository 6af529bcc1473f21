"""Files of a study that may go."""

from autoprune.search.files.leftovers import driver_signs, own_phases, stale_scratch, stray_files, temporary_files
from autoprune.search.files.retention import (
    Holding,
    beaten_networks,
    holdings,
    prune_networks,
    sha256_beside,
)

__all__ = [
    "Holding",
    "beaten_networks",
    "driver_signs",
    "holdings",
    "own_phases",
    "prune_networks",
    "sha256_beside",
    "stale_scratch",
    "stray_files",
    "temporary_files",
]
