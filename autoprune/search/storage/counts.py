"""How many trials a study has in each state."""

from __future__ import annotations

from collections.abc import Mapping
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

    @classmethod
    def of(cls, by_state: Mapping[TrialState, int]) -> Counts:
        """From numbers by Optuna's states, of which those that have no trial may be left out."""
        return cls(
            waiting=by_state.get(TrialState.WAITING, 0),
            running=by_state.get(TrialState.RUNNING, 0),
            complete=by_state.get(TrialState.COMPLETE, 0),
            pruned=by_state.get(TrialState.PRUNED, 0),
            failed=by_state.get(TrialState.FAIL, 0),
        )

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


_TRIALS = schema.optuna_trials
_BY_STATE = (
    sa.select(_TRIALS.c.state, sa.func.count().label("n"))
    .where(_TRIALS.c.study_id == sa.bindparam("study_id"))
    .group_by(_TRIALS.c.state)
)


def count(connection: sa.Connection, study_id: int) -> Counts:
    """Number of trials of a study by state."""
    return Counts.of({row.state: row.n for row in connection.execute(_BY_STATE, {"study_id": study_id})})
