"""What claims and ends ask of all trials of a study, kept up as it grows."""

from __future__ import annotations

import json
import threading
from bisect import insort
from collections import Counter, defaultdict
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import Counts, Position
from autoprune.search.trials import sql

__all__ = ["Ended", "Register"]


class Ended(NamedTuple):
    """A trial that has ended; in the order in which they did."""

    at: datetime
    trial_id: int
    number: int


class Register:
    """What claims and ends ask of the trials of a study, so that they cost the same in a long one.

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
        self._retried: set[int] = set()  # By their numbers.
        self._failed: set[int] = set()
        self._failures: list[Ended] = []
        self._successes: list[Ended] = []
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
                self._retried.add(json.loads(entry.retry_of))
            if entry.key is not None:
                self._keys[entry.key].append(entry.trial_id)
        if entry.state.is_finished():
            self._ended[entry.state] += 1
            ended = Ended(entry.ended_at or datetime.min, entry.trial_id, entry.number)
            insort(self._failures if entry.state is TrialState.FAIL else self._successes, ended)
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
        return number in self._retried

    def failed_for_good(self, *, since: int) -> list[Ended]:
        """The trials with a higher id than ``since`` that failed and were given no other try, in the order of ends."""
        with self._guard:
            return [one for one in self._failures if one.trial_id > since and not self.is_retried(one.number)]

    def last_success(self, *, since: int) -> Ended | None:
        """Of the trials with a higher id than ``since`` the one that got its result last."""
        with self._guard:
            return next((one for one in reversed(self._successes) if one.trial_id > since), None)

    def with_result(self, result_key: str) -> int | None:
        """The first COMPLETE trial that has this result."""
        return self._results.get(json.dumps(result_key))
