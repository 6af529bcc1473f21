"""How many trials a study has in each state, as people want to know it."""

from __future__ import annotations

import dataclasses

from autoprune.search.storage import Counts, StudyHandle, count
from autoprune.search.trials import sql

__all__ = ["counted"]


def counted(study: StudyHandle) -> Counts:
    """Trials by state, and how many of the failed ones were given another try.

    These lost their driver or worker, or were interrupted.
    """
    with study.db.reading() as connection:
        counts = count(connection, study.study_id)
        return dataclasses.replace(counts, retried=sql.count_retried(connection, study.study_id))
