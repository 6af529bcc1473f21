"""Files of a study that may go."""

from autoprune.search.files.leftovers import (
    driver_signs,
    own_phases,
    stale_checkpoints,
    stray_files,
    temporary_files,
)
from autoprune.search.files.retention import (
    Beaten,
    Holding,
    beaten,
    delete_networks,
    holdings,
    sha256_beside,
)
from autoprune.search.files.scratch import make_scratch, remove_scratch, stale_scratch
from autoprune.search.files.sharing import enter_folder, is_shared

__all__ = [
    "Beaten",
    "Holding",
    "beaten",
    "delete_networks",
    "driver_signs",
    "enter_folder",
    "holdings",
    "is_shared",
    "make_scratch",
    "own_phases",
    "remove_scratch",
    "sha256_beside",
    "stale_checkpoints",
    "stale_scratch",
    "stray_files",
    "temporary_files",
]
