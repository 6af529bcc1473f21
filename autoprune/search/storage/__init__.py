"""The database: where it lies, its tables, its locks, its studies and their history."""

from autoprune.search.storage import schema
from autoprune.search.storage.among import among, ids_text, in_memory
from autoprune.search.storage.counts import Counts, count
from autoprune.search.storage.database import Database
from autoprune.search.storage.history import raw_rows
from autoprune.search.storage.position import Position
from autoprune.search.storage.quiet import quiet
from autoprune.search.storage.study import DriverRow, StudyHandle, StudyRow, list_studies

__all__ = [
    "Counts",
    "Database",
    "DriverRow",
    "Position",
    "StudyHandle",
    "StudyRow",
    "among",
    "count",
    "ids_text",
    "in_memory",
    "list_studies",
    "quiet",
    "raw_rows",
    "schema",
]
