"""How far a reader of a study's trials has come, so that it reads on instead of all again."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import schema
from autoprune.search.storage.among import among, ids_text, in_memory

__all__ = ["Position"]

_TRIALS = schema.optuna_trials
_UNFINISHED = (TrialState.WAITING, TrialState.RUNNING)


def _open_ids(state: TrialState) -> str:
    return f"open_{state.name.lower()}"


def _any_of(*, if_changed: bool) -> sa.ColumnElement[bool]:
    open_ones = {state: among(_TRIALS.c.trial_id, _open_ids(state)) for state in _UNFINISHED}
    known = [sa.and_(each, _TRIALS.c.state != state) if if_changed else each for state, each in open_ones.items()]
    is_new = _TRIALS.c.trial_id > sa.bindparam("newest")
    # By their ids: a database that sees an index on `study_id` would go through all trials of the study.
    of_study = in_memory(_TRIALS.c.study_id) == sa.bindparam("study_id")
    return sa.and_(of_study, sa.or_(is_new, *known))


class Position:
    """The newest trial that a reader knows, and those that had not ended when it read them.

    Trials are made one after the other, under the study's lock, wait before they run, and never change once they have
    ended.

    Args:
        study_id: Optuna's id of the study.
    """

    CHANGED = _any_of(if_changed=True)
    """Condition on trials: they are new, or in another state than they were."""
    UNFINISHED = _any_of(if_changed=False)
    """The same, or had not ended: for readers of what changes while a trial runs."""

    def __init__(self, study_id: int) -> None:
        self._study_id = study_id
        self._newest = 0
        self.unfinished: dict[int, TrialState] = {}
        """State by trial id."""

    @property
    def asked(self) -> dict[str, Any]:
        """The parameters of both conditions."""
        ids = {state: ids_text(one for one, at in self.unfinished.items() if at is state) for state in _UNFINISHED}
        own = {_open_ids(state): text for state, text in ids.items()}
        return {"study_id": self._study_id, "newest": self._newest, **own}

    def is_new(self, trial_id: int) -> bool:
        """Whether a trial that was read has not been read before."""
        return trial_id > self._newest

    def saw(self, trial_id: int, state: TrialState) -> None:
        """Go on to a trial; to be told in the order of ids."""
        if state.is_finished():
            self.unfinished.pop(trial_id, None)
        else:
            self.unfinished[trial_id] = state
        self._newest = max(self._newest, trial_id)
