"""What claims ask of all trials of a study, kept up as it grows."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import Counts, Position
from autoprune.search.trials import sql

__all__ = ["Register"]


class Register:
    """The trials of a study by state, key, result and what they retry, so that a claim costs the same in a long study.

    Read before a transaction makes trials, since what it takes back would be remembered. Threads may share one.

    Args:
        study_id: Optuna's id of the study.
    """

    def __init__(self, study_id: int) -> None:
        self._guard = threading.Lock()
        self._position = Position(study_id)
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
            for entry in sql.news(connection, self._position):
                self._take_in(entry)
            return Counts.of(self._ended + Counter(self._position.unfinished.values()))

    def _take_in(self, entry: sql.Entry) -> None:
        if self._position.is_new(entry.trial_id):
            if entry.retry_of is None:
                self.n_first_tries += 1
            else:
                self._retried.add(entry.retry_of)
            if entry.key is not None:
                self._keys[entry.key].append(entry.trial_id)
        if entry.state.is_finished():
            self._ended[entry.state] += 1
        if entry.state is TrialState.FAIL:
            self._failed.add(entry.trial_id)
        elif entry.state is TrialState.COMPLETE and entry.result_key is not None:
            first = self._results.get(entry.result_key, entry.trial_id)
            self._results[entry.result_key] = min(entry.trial_id, first)
        self._position.saw(entry.trial_id, entry.state)  # At last: what an interrupt cuts short is read again.

    def running(self) -> list[int]:
        """The RUNNING trials."""
        return self._unfinished(TrialState.RUNNING)

    def oldest_waiting(self) -> int | None:
        """The WAITING trial that has waited longest."""
        return min(self._unfinished(TrialState.WAITING), default=None)

    def _unfinished(self, state: TrialState) -> list[int]:
        with self._guard:
            return [one for one, at in self._position.unfinished.items() if at is state]

    def is_taken(self, key: str, *, besides: int | None = None) -> bool:
        """Whether a trial that did not fail, other than ``besides``, has this key."""
        return any(one != besides and one not in self._failed for one in self._keys.get(json.dumps(key), ()))

    def is_retried(self, number: int) -> bool:
        """Whether the trial with this number has been given another try."""
        return json.dumps(number) in self._retried

    def with_result(self, result_key: str) -> int | None:
        """The first COMPLETE trial that has this result."""
        return self._results.get(json.dumps(result_key))
