"""How many trials a study has in each state."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import schema

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """Number of trials of a study by state.

    Args:
        waiting: For another try.
        running: Under way.
        complete: With a result.
        pruned: Stopped early.
        failed: Without a result: those that failed, and those that lost their driver or worker or were interrupted.
        retried: How many of these were given another try, where that was counted.
    """

    waiting: int
    running: int
    complete: int
    pruned: int
    failed: int
    retried: int = 0

    @property
    def failed_for_good(self) -> int:
        """Failed trials that nothing takes the place of."""
        return self.failed - self.retried

    @property
    def finished(self) -> int:
        """Trials with a result: complete, or stopped early."""
        return self.complete + self.pruned

    @property
    def taken(self) -> int:
        """Trials that fill a place among ``n_trials``: all but the failed ones."""
        return self.waiting + self.running + self.finished


def count(connection: sa.Connection, study_id: int) -> Counts:
    """Number of trials of a study by state."""
    trials = schema.optuna_trials
    query = (
        sa.select(trials.c.state, sa.func.count().label("n"))
        .where(trials.c.study_id == study_id)
        .group_by(trials.c.state)
    )
    by_state = {row.state: row.n for row in connection.execute(query)}
    return Counts(
        waiting=by_state.get(TrialState.WAITING, 0),
        running=by_state.get(TrialState.RUNNING, 0),
        complete=by_state.get(TrialState.COMPLETE, 0),
        pruned=by_state.get(TrialState.PRUNED, 0),
        failed=by_state.get(TrialState.FAIL, 0),
    )
