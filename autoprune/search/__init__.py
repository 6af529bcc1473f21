"""The search half: the database that remembers trials, proposals, and the Pareto front; knows no torch and no ray."""

from autoprune.search.claims import Claim, Claims, Counts, Failures, Proposal, Refusal, Room
from autoprune.search.database import Database
from autoprune.search.study import DriverRow, StudyRecord, StudyRow, list_studies

__all__ = [
    "Claim",
    "Claims",
    "Counts",
    "Database",
    "DriverRow",
    "Failures",
    "Proposal",
    "Refusal",
    "Room",
    "StudyRecord",
    "StudyRow",
    "list_studies",
]
