"""The life of a trial in the database: claimed with a lease, told once, healed when its driver dies.

::

    proposal --claim--> RUNNING, with a lease --tell--> COMPLETE | PRUNED | FAIL (with its reason)
    RUNNING, lease expired or never written --reap--> FAIL, and at most one WAITING clone of it
    WAITING --claim_waiting--> RUNNING, with a lease

Every arrow is one durable transaction under the study's lock: a process that dies, or a machine that loses its power,
leaves a trial before it or behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from autoprune.errors import ConfigError, LeaseLostError
from autoprune.search.events import Events, silent
from autoprune.search.storage import Counts, StudyHandle, schema
from autoprune.search.trials import sql
from autoprune.search.trials.attributes import Attr, cut, plain, wrong_attrs, wrong_numbers, wrong_values
from autoprune.search.trials.records import Claim, EarlierResult, Failures, NotClaimed, Proposal, Room
from autoprune.search.trials.register import Register
from autoprune.search.trials.stored import GIVEN, StoredTrial

__all__ = ["Lifecycle"]

_log = logging.getLogger(__name__)

# System attribute of Optuna's, one for each constraint: where `Trial.set_constraint` writes.
_CONSTRAINT = "constraints:"
_UNCONSTRAINED: Mapping[str, float] = MappingProxyType({})
_NOTHING: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


class Lifecycle:
    """One driver's hands on the trials of a study; threads of the driver may share it.

    Args:
        study: The study.
        owner: Name of this driver, new for each start of a process.
        n_trials: Wanted number of trials with a result. It may be raised (or lowered) while a study runs.
        grace_s: Seconds without a beat after which a trial is taken to be orphaned; beat at least four times as often.
        max_retry: How often a trial that lost its driver or worker is tried again.
        events: Told of trials that are tried again.
    """

    def __init__(
        self,
        study: StudyHandle,
        *,
        owner: str,
        n_trials: int,
        grace_s: float = 60,
        max_retry: int = 2,
        events: Events = silent,
    ) -> None:
        if not owner or n_trials < 1 or not grace_s > 0 or max_retry < 0:
            raise ConfigError(
                "claims need an `owner`, `n_trials` >= 1, `grace_s` > 0 and `max_retry` >= 0, but got "
                f"owner={owner!r}, n_trials={n_trials}, grace_s={grace_s}, max_retry={max_retry}."
            )
        self.study = study
        self.owner = owner
        self.n_trials = n_trials
        self.grace_s = grace_s
        self.max_retry = max_retry
        self._events = events
        self._db = study.db
        self._reaps_from = 0.0
        self._register = Register(study.study_id)
        self._fitting: set[tuple[str, str]] = set()

    # What a driver asks

    def room(self) -> Room:
        """Whether there is something to claim; orphans are reaped when nothing else is left to do."""
        room = self._room()
        if room is Room.FULL_FOR_NOW and self.reap():
            return self._room()
        return room

    def counts(self) -> Counts:
        """Number of trials by state."""
        with self._db.reading() as connection:
            return self._register.read(connection)

    def newest_trial_id(self) -> int:
        """The highest trial id of the study, 0 when it has no trial."""
        trials = schema.optuna_trials
        with self._db.reading() as connection:
            query = sa.select(sa.func.max(trials.c.trial_id)).where(trials.c.study_id == self.study.study_id)
            return connection.execute(query).scalar_one() or 0

    def failures(self, since_trial_id: int) -> Failures:
        """Failures among the trials made after ``since_trial_id``; those that were given another try don't count."""
        with self._db.reading() as connection:
            self._register.read(connection)
            failed = self._register.failed_for_good(since=since_trial_id)
            success = self._register.last_success(since=since_trial_id)
            reason = sql.attribute(connection, failed[0].trial_id, Attr.REASON) if failed else None
        return Failures(
            consecutive=sum(success is None or trial > success for trial in failed),
            total=len(failed),
            first_number=failed[0].number if failed else None,
            first_reason=reason,
        )

    def result_of(self, result_key: str) -> EarlierResult | None:
        """The result of a COMPLETE trial whose attribute ``result_key`` is this, if there is one."""
        with self._db.reading() as connection:
            self._register.read(connection)
            trial_id = self._register.with_result(result_key)
        if trial_id is None:
            return None
        trial = self._read(trial_id)
        attrs = {name: value for name, value in trial.found.items() if name != Attr.TAKEN_OVER_FROM}
        return EarlierResult(number=trial.computed_by, attrs=attrs)

    # What a driver takes

    def claim(self, proposal: Proposal) -> Claim | NotClaimed:
        """Make a proposal a RUNNING trial of ours, in one transaction with all its parameters.

        From then on the network of the proposal's parent is kept. Where it has gone while the proposal was made, since
        other trials have come to beat it, nothing is claimed. Where it is gone for no such reason the trial is claimed
        all the same: it then starts from the next ancestor that is there, and says so.

        Raises:
            ConfigError: Its attributes are not JSON or use a reserved name, or its parameters contradict the
                distributions that the study has recorded.
        """
        wrong = wrong_attrs(proposal.attrs)
        if wrong:
            raise ConfigError(f"a proposal must carry plain attributes, but {wrong}.")
        attrs = plain(proposal.attrs)
        with self.study.lock():
            self._reap()
            now = self._db.now()
            with self._db.durably(), self._db.writing() as connection:
                counts, seed_number = self._register.read(connection), self._register.n_first_tries
                if counts.taken >= self.n_trials:
                    return NotClaimed.FULL
                if self._register.is_taken(proposal.key):
                    return NotClaimed.DUPLICATE
                if self._is_orphan(proposal, counts):
                    return NotClaimed.ORPHAN
                booked = {Attr.KEY: proposal.key, Attr.ATTEMPT: 0, Attr.SEED_NUMBER: seed_number, **self._booking(now)}
                trial_id, number = self._create(
                    connection, TrialState.RUNNING, proposal.params, proposal.distributions, attrs, booked
                )
                self._write_lease(connection, trial_id, now=now)
        params = dict(proposal.params)
        return Claim(trial_id=trial_id, number=number, params=params, attrs=attrs, attempt=0, seed_number=seed_number)

    def claim_waiting(self) -> Claim | None:
        """Take the oldest trial that waits for another try, if there is one and the study still wants it.

        Orphans are reaped before, so that they may be taken at once.
        """
        counts, stale, leftovers = self._look()
        if not (counts.waiting or stale or leftovers):  # Most often: without the lock.
            return None
        with self.study.lock():
            self._reap()
            with self._db.reading() as connection:
                counts, trial_id = self._register.read(connection), self._register.oldest_waiting()
            # Clones may outnumber the free places only after `n_trials` was lowered: then they stay.
            if trial_id is None or counts.running + counts.finished >= self.n_trials:
                return None
            now = self._db.now()
            with self._db.durably(), self._db.writing() as connection:
                sql.start(connection, trial_id, self._booking(now))
                self._write_lease(connection, trial_id, now=now)
            trial = self._read(trial_id)
        return Claim(
            trial_id=trial_id,
            number=trial.number,
            params=trial.frozen.params,
            attrs=trial.given,
            attempt=trial.attempt,
            seed_number=trial.seed_number,
        )

    def reap(self) -> list[int]:
        """Fail the trials whose driver is gone and queue each for another try; returns their ids.

        Any driver may do this at any time, also several at once; without orphans it is one short look.
        """
        _, stale, leftovers = self._look()
        if not stale and not leftovers:
            return []
        with self.study.lock():
            return self._reap()

    def spare_orphans(self) -> None:
        """Reap nothing for one grace period: the database was away, so that no driver could say that it lives.

        It may have come back without what it had last: all trials are read again.
        """
        self._register = Register(self.study.study_id)
        self.study.forget()
        self._reaps_from = self._db.now() + self.grace_s

    # What a driver tells

    def beat(self, trial_ids: Collection[int], *, progress: Mapping[int, Mapping[str, Any]] = _NOTHING) -> set[int]:
        """Say that these trials of ours are alive, and this driver with them.

        Args:
            trial_ids: All that this driver holds.
            progress: What `StoredTrial.progress` is to tell of them, JSON, as far as it is known.

        Returns:
            Those that are no longer ours: stop them, their results will be dropped.
        """
        now = self._db.now()
        drivers = schema.drivers
        with self._db.writing() as connection:
            kept = sql.beat(connection, trial_ids, owner=self.owner, expires_at=now + self.grace_s)
            for trial_id in sorted(kept & progress.keys()):
                sql.tell_progress(connection, trial_id, {**progress[trial_id], "at": now})
            connection.execute(sa.update(drivers).where(drivers.c.owner == self.owner).values(seen_at=now))
        return set(trial_ids) - kept

    def reached(self, trial_id: int, rungs: Mapping[str, float]) -> None:
        """Store how far a trial under way has come, for people who look; its end brings all of it again.

        Args:
            trial_id: A trial; nothing is stored where it is not, or no longer, ours.
            rungs: Score by rung reached.
        """
        with self._db.writing() as connection:
            if sql.holder(connection, trial_id) == (TrialState.RUNNING, self.owner):
                sql.write_attributes(connection, trial_id, user={Attr.RUNGS: plain(rungs)})

    def complete(
        self,
        trial_id: int,
        values: Sequence[float | None],
        attrs: Mapping[str, Any],
        *,
        constraints: Mapping[str, float] = _UNCONSTRAINED,
    ) -> TrialState:
        """Store a result: values, attributes and state. To tell again what has been told changes nothing.

        Args:
            trial_id: One of our trials.
            values: One for each objective.
            attrs: What else was found, JSON.
            constraints: Value minus limit by constraint: a trial is feasible where all are <= 0.

        Returns:
            COMPLETE, or FAIL where a value is missing or not finite or an attribute can't be stored: the trial's
            reason says which.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        wrong = wrong_values(values, self.study.objectives) or wrong_numbers(constraints) or wrong_attrs(attrs)
        if wrong:
            self.failed(trial_id, wrong)
            return TrialState.FAIL
        self._tell(
            trial_id, TrialState.COMPLETE, attrs, constraints, [float(value) for value in values if value is not None]
        )
        return TrialState.COMPLETE

    def stopped(
        self, trial_id: int, attrs: Mapping[str, Any], *, constraints: Mapping[str, float] = _UNCONSTRAINED
    ) -> TrialState:
        """Store a trial that was stopped early, its partial values among the attributes, as PRUNED.

        Args:
            trial_id: One of our trials.
            attrs: What was found, JSON.
            constraints: As for `complete`, as far as they are known.

        Returns:
            PRUNED, or FAIL where an attribute can't be stored.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        wrong = wrong_numbers(constraints) or wrong_attrs(attrs)
        if wrong:
            self.failed(trial_id, wrong)
            return TrialState.FAIL
        self._tell(trial_id, TrialState.PRUNED, attrs, constraints)
        return TrialState.PRUNED

    def failed(self, trial_id: int, reason: str, *, retry: bool = False) -> None:
        """Store a trial as FAIL with its reason. To tell again what has been told changes nothing.

        Args:
            trial_id: One of our trials.
            reason: The error, for people.
            retry: Whether the fault may lie outside the trial (a lost worker): it is tried again, ``max_retry`` times.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        number = self._give_up(trial_id, reason, self._next_attempt if retry else lambda trial: None)
        if number is not None:
            _log.warning("trial %d failed: %s", number, reason)

    def release(self, trial_id: int, reason: str) -> None:
        """Give an interrupted trial back: it waits for another try, and this one is not counted.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        self._give_up(trial_id, reason, lambda trial: trial.attempt)

    # How it is done

    def _is_orphan(self, proposal: Proposal, counts: Counts) -> bool:
        """Whether the parent's network has gone while the proposal was made; under the lock, in which it is dropped."""
        if proposal.parent is None or counts.finished == proposal.n_finished:
            return False
        parent = StoredTrial(self.study.history()[proposal.parent])
        return parent.weights is None or not Path(parent.weights).is_file()

    def _room(self) -> Room:
        counts = self.counts()
        if counts.finished >= self.n_trials:
            return Room.FINISHED
        can_retry = counts.waiting > 0 and counts.running + counts.finished < self.n_trials
        return Room.OPEN if can_retry or counts.taken < self.n_trials else Room.FULL_FOR_NOW

    def _booking(self, now: float) -> dict[str, Any]:
        return {Attr.OWNER: self.owner, Attr.CLAIMED_AT: now, Attr.REVISION: self.study.revision}

    def _write_lease(self, connection: sa.Connection, trial_id: int, *, now: float) -> None:
        expires_at = now + self.grace_s
        sql.write(connection, trial_id, study_id=self.study.study_id, owner=self.owner, expires_at=expires_at)

    def _create(
        self,
        connection: sa.Connection,
        state: TrialState,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attrs: dict[str, Any],
        booked: dict[str, Any],
    ) -> tuple[int, int]:
        template = create_trial(
            state=state,
            params=params,
            distributions=distributions,
            user_attrs=attrs | booked,
            system_attrs={GIVEN: sorted(attrs)},
        )
        try:
            return sql.create(connection, self.study.study_id, template, fitting=self._fitting)
        except ValueError as error:
            raise ConfigError(
                f"a proposal must fit the distributions that study {self.study.name!r} has recorded, but {error} "
                "Give a parameter whose choices changed a new name."
            ) from error

    def _read(self, trial_id: int) -> StoredTrial:
        return StoredTrial(self.study.trial(trial_id))

    def _lost(self, trial_id: int, state: TrialState | None, holder: str | None) -> LeaseLostError:
        now = "gone" if state is None else f"{state.name} with a lease of {holder}" if holder else state.name
        return LeaseLostError(
            f"a result must come from the driver that holds the trial's lease, but the trial with id {trial_id} of "
            f"study {self.study.name!r} is now {now}, not RUNNING for {self.owner}: its late result was dropped. "
            "Nothing has to be done; beat more often than `grace_s` if it happens again."
        )

    def _tell(
        self,
        trial_id: int,
        state: TrialState,
        attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
        values: Sequence[float] = (),
    ) -> None:
        excess = {f"{_CONSTRAINT}{name}": float(value) for name, value in constraints.items()}

        def write(connection: sa.Connection) -> None:
            sql.write_attributes(connection, trial_id, user=plain(attrs), system=excess)
            sql.end(connection, trial_id, state, values=values)

        self._end(trial_id, state, write)

    def _give_up(self, trial_id: int, reason: str, next_attempt: Callable[[StoredTrial], int | None]) -> int | None:
        """Fail a trial of ours; returns its number, or None where it had failed so before."""
        number: int | None = None
        retry: dict[str, Any] | None = None

        def write(connection: sa.Connection) -> None:
            nonlocal number, retry
            trial = self._read(trial_id)
            number, retry = trial.number, self._retire(connection, trial, reason, next_attempt(trial))

        self._end(trial_id, TrialState.FAIL, write, reason=cut(reason))
        self._say_retry(retry)
        return number

    def _end(
        self, trial_id: int, state: TrialState, write: Callable[[sa.Connection], None], *, reason: str | None = None
    ) -> None:
        """End a trial of ours, unless it has ended so: the server may have been away before it could say that it did.

        What has failed may have been failed by a reaper, which gives another reason.
        """
        with self.study.lock(), self._db.durably(), self._db.writing() as connection:
            found, holder = sql.holder(connection, trial_id)
            if found is TrialState.RUNNING and holder == self.owner:
                write(connection)
                return
            ours = {Attr.OWNER: self.owner} | ({} if reason is None else {Attr.REASON: reason})
            if found is not state or any(sql.attribute(connection, trial_id, key) != ours[key] for key in ours):
                raise self._lost(trial_id, found, holder)

    def _look(self) -> tuple[Counts, list[sql.StaleTrial], list[int]]:
        """Trials by state, those that nobody stands for, and those that have ended, but not their lease."""
        now = self._db.now()
        with self._db.reading() as connection:
            counts, stale, leftovers = self._register.read(connection), list[sql.StaleTrial](), list[int]()
            if now >= self._reaps_from:
                stale = sql.stale(connection, self._register.running(), now=now, grace_s=self.grace_s)
                leftovers = sql.leftovers(connection, self.study.study_id)
        return counts, stale, leftovers

    def _reap(self) -> list[int]:
        """Reap, under the study's lock."""
        _, orphans, leftovers = self._look()
        if leftovers:
            with self._db.writing() as connection:
                for trial_id in leftovers:
                    sql.drop(connection, trial_id)
        for orphan in orphans:
            trial = self._read(orphan.trial_id)
            owner = trial.owner or "nobody"
            reason = trial.reason or (
                f"driver {owner} ended before it held a lease"
                if orphan.owner is None
                else f"lease of {owner} expired: no sign of life for {self.grace_s:g} s"
            )
            _log.warning("trial %d has lost its driver: %s", trial.number, reason)
            with self._db.durably(), self._db.writing() as connection:
                retry = self._retire(connection, trial, reason, self._next_attempt(trial))
            self._say_retry(retry)
        return [orphan.trial_id for orphan in orphans]

    def _next_attempt(self, trial: StoredTrial) -> int | None:
        return trial.attempt + 1 if trial.attempt < self.max_retry else None

    def _retire(
        self, connection: sa.Connection, trial: StoredTrial, reason: str, next_attempt: int | None
    ) -> dict[str, Any] | None:
        """Fail a trial, and queue a clone of it where there is a next attempt; returns what to say of the clone."""
        frozen, trial_id, said = trial.frozen, trial.frozen._trial_id, None
        self._register.read(connection)
        if (
            next_attempt is not None
            and trial.key is not None
            # Drivers of earlier versions died between the clone and the failure, too.
            and not self._register.is_retried(trial.number)
            and not self._register.is_taken(trial.key, besides=trial_id)
        ):
            booked = {Attr.KEY: trial.key, Attr.ATTEMPT: next_attempt, Attr.RETRY_OF: trial.number}
            booked[Attr.SEED_NUMBER] = trial.seed_number
            booked[Attr.REVISION] = self.study.revision if trial.revision is None else trial.revision
            again, _ = self._create(
                connection, TrialState.WAITING, frozen.params, frozen.distributions, trial.given, booked
            )
            said = {
                "trial": trial.number,
                "trial_id": trial_id,
                "again": again,
                "attempt": next_attempt,
                "reason": reason,
            }
        sql.write_attributes(connection, trial_id, user={Attr.REASON: cut(reason)})
        sql.end(connection, trial_id, TrialState.FAIL)
        return said

    def _say_retry(self, said: dict[str, Any] | None) -> None:
        if said is not None:
            self._events("retry", **said)
