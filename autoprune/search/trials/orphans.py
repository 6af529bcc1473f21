"""Trials and leases that nobody stands for any longer, told without touching them: `Lifecycle.reap` heals them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import StudyHandle, schema
from autoprune.search.trials import sql
from autoprune.search.trials.owners import is_gone
from autoprune.search.trials.stored import StoredTrial

__all__ = ["Orphan", "drop_unknown_leases", "orphans"]


@dataclass(frozen=True)
class Orphan:
    """A trial that the next driver will heal.

    Args:
        number: Its number.
        why: What is amiss with it, a clause.
    """

    number: int
    why: str


def orphans(study: StudyHandle, *, grace_s: float) -> list[Orphan]:
    """RUNNING trials without a driver, and leases of trials that have ended.

    Args:
        study: The study; it may be read only.
        grace_s: As of `Lifecycle`.
    """
    leases, now = schema.leases, study.db.now()
    trials = [StoredTrial(trial) for trial in study.trials()]
    running = [trial.frozen._trial_id for trial in trials if trial.state is TrialState.RUNNING]
    with study.db.reading() as connection:
        stale = {one.trial_id for one in sql.stale(connection, running, now=now, grace_s=grace_s)}
        left = set(sql.leftovers(connection, study.study_id))
        query = sa.select(leases.c.trial_id, leases.c.owner).where(leases.c.study_id == study.study_id)
        gone = {row.trial_id for row in connection.execute(query) if is_gone(row.owner)}
    found = []
    for trial in trials:
        trial_id = trial.frozen._trial_id
        if trial_id in left:
            found.append(Orphan(trial.number, "has ended, but its lease is still there"))
        elif trial_id in stale:
            found.append(Orphan(trial.number, f"is RUNNING, but nobody has stood for it for {grace_s:g} s"))
        elif trial_id in gone:
            found.append(Orphan(trial.number, "is RUNNING, but the process of its driver is gone"))
    return found


def drop_unknown_leases(study: StudyHandle) -> None:
    """Delete the leases of trials that are not there."""
    leases, known = schema.leases, sa.select(schema.optuna_trials.c.trial_id)
    with study.db.writing() as connection:
        this = sa.and_(leases.c.study_id == study.study_id, leases.c.trial_id.not_in(known))
        connection.execute(sa.delete(leases).where(this))
