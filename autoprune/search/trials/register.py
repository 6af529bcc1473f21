"""What claims ask of all trials of a study, kept up as it grows."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import Counts
from autoprune.search.trials import sql

__all__ = ["Register"]


class Register:
    """The trials of a study by state, key, result and what they retry, so that a claim costs the same in a long study.

    Trials are made one after the other, under the study's lock and with their keys, and one that has ended never
    changes: only new ones and those that have not ended are read again. Read before a transaction makes trials, since
    what it takes back would be remembered. Threads may share one.

    Args:
        study_id: Optuna's id of the study.
    """

    def __init__(self, study_id: int) -> None:
        self._study_id = study_id
        self._guard = threading.Lock()
        self._newest = 0
        self._open: dict[int, TrialState] = {}
        self._ended = Counter[TrialState]()
        # By their JSON, as it is stored.
        self._keys = defaultdict[str, list[int]](list)
        self._results: dict[str, int] = {}
        self._retried: set[str] = set()
        self._failed: set[int] = set()
        self.n_first_tries = 0
        """Trials that retry no other one."""

    def read(self, connection: sa.Connection) -> Counts:
        """Read on, and count the trials by state."""
        with self._guard:
            for row in sql.news(connection, self._study_id, newest=self._newest, open_ids=sorted(self._open)):
                self._take_in(row)
            n = self._ended + Counter(self._open.values())
        return Counts(
            waiting=n[TrialState.WAITING],
            running=n[TrialState.RUNNING],
            complete=n[TrialState.COMPLETE],
            pruned=n[TrialState.PRUNED],
            failed=n[TrialState.FAIL],
        )

    def _take_in(self, row: sql.Entry) -> None:
        if row.trial_id not in self._open:
            self._newest = max(self._newest, row.trial_id)
            if row.retry_of is None:
                self.n_first_tries += 1
            else:
                self._retried.add(row.retry_of)
            if row.key is not None:
                self._keys[row.key].append(row.trial_id)
        if not row.state.is_finished():
            self._open[row.trial_id] = row.state
            return
        self._open.pop(row.trial_id, None)
        self._ended[row.state] += 1
        if row.state is TrialState.FAIL:
            self._failed.add(row.trial_id)
        elif row.state is TrialState.COMPLETE and row.result_key is not None:
            self._results[row.result_key] = min(row.trial_id, self._results.get(row.result_key, row.trial_id))

    def oldest_waiting(self) -> int | None:
        """The WAITING trial that has waited longest."""
        return min((one for one, state in self._open.items() if state is TrialState.WAITING), default=None)

    def is_taken(self, key: str, *, besides: int | None = None) -> bool:
        """Whether a trial that did not fail, other than ``besides``, has this key."""
        return any(one != besides and one not in self._failed for one in self._keys.get(json.dumps(key), ()))

    def is_retried(self, number: int) -> bool:
        """Whether the trial with this number has been given another try."""
        return json.dumps(number) in self._retried

    def with_result(self, result_key: str) -> int | None:
        """The first COMPLETE trial that has this result."""
        return self._results.get(json.dumps(result_key))
