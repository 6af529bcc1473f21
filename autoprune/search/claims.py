"""The life of a trial in the database: claimed with a lease, told once, healed when its driver dies.

::

    proposal --claim--> RUNNING, with a lease --tell--> COMPLETE | PRUNED | FAIL (with its reason)
    RUNNING, lease expired or never written --reap--> FAIL, and at most one WAITING clone of it
    WAITING --claim_waiting--> RUNNING, with a lease

Every step that several transactions make up is done under the study's lock, in an order in which a process may die
between any two of them and the next ``reap`` puts it right.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.errors import ConfigError, LeaseLostError
from autoprune.search import _lease_rows, schema
from autoprune.search._attributes import RESERVED_ATTRS, cut, plain, wrong_attrs, wrong_numbers, wrong_values
from autoprune.search._claim_types import Claim, Counts, Failures, Proposal, Refusal, Result, Room
from autoprune.search.study import StudyRecord

__all__ = ["RESERVED_ATTRS", "Claim", "Claims", "Counts", "Failures", "Proposal", "Refusal", "Result", "Room"]

_log = logging.getLogger(__name__)

# System attribute: which user attributes came with the proposal, and so belong to a second try as well.
_GIVEN = "autoprune:given"
# System attribute of Optuna's, one for each constraint: where `Trial.set_constraint` writes.
_CONSTRAINT = "constraints:"
_UNCONSTRAINED: Mapping[str, float] = MappingProxyType({})


class Claims:
    """One driver's hands on the trials of a study; threads of the driver may share it.

    Args:
        study: The study.
        owner: Name of this driver, new for each start of a process.
        n_trials: Wanted number of trials with a result. It may be raised (or lowered) while a study runs.
        grace_s: Seconds without a beat after which a trial is taken to be orphaned; beat at least four times as often.
        max_retry: How often a trial that lost its driver or worker is tried again.
    """

    def __init__(
        self, study: StudyRecord, *, owner: str, n_trials: int, grace_s: float = 60, max_retry: int = 2
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
        self._db = study.db

    # What a driver asks

    def room(self) -> Room:
        """Whether there is something to claim; orphans are reaped when nothing else is left to do."""
        room = self._room()
        if room is Room.FULL_FOR_NOW and self.reap():
            return self._room()
        return room

    def counts(self) -> Counts:
        """Number of trials by state."""
        return self.study.counts()

    def newest_trial_id(self) -> int:
        """The highest trial id of the study, 0 when it has no trial."""
        trials = schema.optuna_trials
        with self._db.reading() as connection:
            query = sa.select(sa.func.max(trials.c.trial_id)).where(trials.c.study_id == self.study.study_id)
            return connection.execute(query).scalar_one() or 0

    def failures(self, since_trial_id: int) -> Failures:
        """Failures among the trials made after ``since_trial_id``; those that were given another try don't count."""
        study_id = self.study.study_id
        with self._db.reading() as connection:
            failed = _lease_rows.failed_for_good(connection, study_id, since_trial_id=since_trial_id)
            success = _lease_rows.last_success(connection, study_id, since_trial_id=since_trial_id)
        after = [trial for trial in failed if success is None or trial.at > success.at]
        return Failures(
            consecutive=len(after),
            total=len(failed),
            first_number=failed[0].number if failed else None,
            first_reason=failed[0].reason if failed else None,
        )

    def result_of(self, result_key: str) -> Result | None:
        """The result of a COMPLETE trial whose attribute ``result_key`` is this, if there is one."""
        with self._db.reading() as connection:
            trial_id = _lease_rows.complete_with(connection, self.study.study_id, result_key)
        if trial_id is None:
            return None
        trial = self._read(trial_id)
        before = RESERVED_ATTRS | _given(trial).keys()
        attrs = {name: value for name, value in trial.user_attrs.items() if name not in before}
        return Result(number=attrs.pop("taken_over_from", trial.number), attrs=attrs)

    # What a driver takes

    def claim(self, proposal: Proposal) -> Claim | Refusal:
        """Make a proposal a RUNNING trial of ours, in one transaction with all its parameters.

        Raises:
            ConfigError: Its attributes are not JSON or use a reserved name, or its parameters contradict the
                distributions that the study has recorded.
        """
        wrong = wrong_attrs(proposal.attrs)
        if wrong:
            raise ConfigError(f"a proposal must carry plain attributes, but {wrong}.")
        attrs = plain(proposal.attrs)
        study_id = self.study.study_id
        with self._lock():
            self._reap()
            with self._db.reading() as connection:
                if _lease_rows.count(connection, study_id).taken >= self.n_trials:
                    return Refusal.FULL
                if _lease_rows.key_is_taken(connection, study_id, proposal.key):
                    return Refusal.DUPLICATE
                seed_number = _lease_rows.count_first_tries(connection, study_id)
            now = self._db.now()
            booked = {"key": proposal.key, "attempt": 0, "seed_number": seed_number} | self._booking(now)
            trial_id = self._create(TrialState.RUNNING, proposal.params, proposal.distributions, attrs, booked)
            with self._db.writing() as connection:
                self._write_lease(connection, trial_id, now=now)
                trials = schema.optuna_trials
                number = connection.execute(
                    sa.select(trials.c.number).where(trials.c.trial_id == trial_id)
                ).scalar_one()
        params = dict(proposal.params)
        return Claim(trial_id=trial_id, number=number, params=params, attrs=attrs, attempt=0, seed_number=seed_number)

    def claim_waiting(self) -> Claim | None:
        """Take the oldest trial that waits for another try, if there is one and the study still wants it."""
        with self._lock():
            self._reap()
            with self._db.reading() as connection:
                counts = _lease_rows.count(connection, self.study.study_id)
                trial_id = _lease_rows.oldest_waiting(connection, self.study.study_id)
            # Clones may outnumber the free places only after `n_trials` was lowered: then they stay.
            if trial_id is None or counts.running + counts.finished >= self.n_trials:
                return None
            now = self._db.now()
            # The lease first: a trial must not be RUNNING, even for a moment, with nobody to stand for it.
            with self._db.writing() as connection:
                self._write_lease(connection, trial_id, now=now)
            with self._db.speaking():
                for name, value in self._booking(now).items():
                    self._db.storage.set_trial_user_attr(trial_id, name, value)
                self._db.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            trial = self._read(trial_id)
        return Claim(
            trial_id=trial_id,
            number=trial.number,
            params=trial.params,
            attrs=_given(trial),
            attempt=trial.user_attrs["attempt"],
            seed_number=_seed_number(trial),
        )

    def reap(self) -> list[int]:
        """Fail the trials whose driver is gone and queue each for another try; returns their ids.

        Any driver may do this at any time, also several at once; without orphans it is one short look.
        """
        now = self._db.now()
        with self._db.reading() as connection:
            orphans = _lease_rows.stale(connection, self.study.study_id, now=now, grace_s=self.grace_s)
            if not orphans and not _lease_rows.leftovers(connection, self.study.study_id):
                return []
        with self._lock():
            return self._reap()

    # What a driver tells

    def beat(self, trial_ids: Collection[int]) -> set[int]:
        """Say that these trials of ours are alive, and this driver with them.

        Returns:
            Those that are no longer ours: stop them, their results will be dropped.
        """
        now = self._db.now()
        drivers = schema.drivers
        with self._db.writing() as connection:
            kept = _lease_rows.beat(connection, trial_ids, owner=self.owner, expires_at=now + self.grace_s)
            connection.execute(sa.update(drivers).where(drivers.c.owner == self.owner).values(seen_at=now))
        return set(trial_ids) - kept

    def complete(
        self,
        trial_id: int,
        values: Sequence[float | None],
        attrs: Mapping[str, Any],
        *,
        constraints: Mapping[str, float] = _UNCONSTRAINED,
    ) -> TrialState:
        """Store a result: the attributes first, then the values and the state.

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
        numbers = [float(value) for value in values if value is not None]
        self._tell(trial_id, TrialState.COMPLETE, attrs, constraints, numbers)
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
        self._tell(trial_id, TrialState.PRUNED, attrs, constraints, None)
        return TrialState.PRUNED

    def failed(self, trial_id: int, reason: str, *, retry: bool = False) -> None:
        """Store a trial as FAIL with its reason.

        Args:
            trial_id: One of our trials.
            reason: The error, for people.
            retry: Whether the fault may lie outside the trial (a lost worker): it is tried again, ``max_retry`` times.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        with self._lock():
            self._hold(trial_id)
            trial = self._read(trial_id)
            _log.warning("trial %d failed: %s", trial.number, reason)
            attempt = trial.user_attrs.get("attempt", 0)
            self._retire(trial, reason=reason, next_attempt=attempt + 1 if retry and attempt < self.max_retry else None)

    def release(self, trial_id: int, reason: str) -> None:
        """Give an interrupted trial back: it waits for another try, and this one is not counted.

        Raises:
            LeaseLostError: The trial is no longer ours; nothing is stored.
        """
        with self._lock():
            self._hold(trial_id)
            trial = self._read(trial_id)
            self._retire(trial, reason=reason, next_attempt=trial.user_attrs.get("attempt", 0))

    # How it is done

    def _lock(self) -> Any:
        return self._db.lock(f"study:{self.study.study_id}")

    def _room(self) -> Room:
        counts = self.counts()
        if counts.finished >= self.n_trials:
            return Room.FINISHED
        can_retry = counts.waiting > 0 and counts.running + counts.finished < self.n_trials
        return Room.OPEN if can_retry or counts.taken < self.n_trials else Room.FULL_FOR_NOW

    def _booking(self, now: float) -> dict[str, Any]:
        return {"owner": self.owner, "claimed_at": now, "revision": self.study.revision}

    def _write_lease(self, connection: sa.Connection, trial_id: int, *, now: float) -> None:
        expires_at = now + self.grace_s
        _lease_rows.write(connection, trial_id, study_id=self.study.study_id, owner=self.owner, expires_at=expires_at)

    def _create(
        self,
        state: TrialState,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attrs: dict[str, Any],
        booked: dict[str, Any],
    ) -> int:
        template = create_trial(
            state=state,
            params=params,
            distributions=distributions,
            user_attrs=attrs | booked,
            system_attrs={_GIVEN: sorted(attrs)},
        )
        with self._db.speaking():
            try:
                return self._db.storage.create_new_trial(self.study.study_id, template_trial=template)
            except ValueError as error:
                raise ConfigError(
                    f"a proposal must fit the distributions that study {self.study.name!r} has recorded, but {error} "
                    "Give a parameter whose choices changed a new name."
                ) from error

    def _read(self, trial_id: int) -> FrozenTrial:
        with self._db.speaking(), self._db.looking():
            return self._db.storage.get_trial(trial_id)

    def _hold(self, trial_id: int) -> None:
        """Renew our lease, or raise: what follows has ``grace_s`` before anyone may reap the trial."""
        expires_at = self._db.now() + self.grace_s
        with self._db.writing() as connection:
            held = _lease_rows.renew(connection, trial_id, owner=self.owner, expires_at=expires_at)
            state, holder = _lease_rows.holder(connection, trial_id)
        if not held or state is not TrialState.RUNNING:
            raise self._lost(trial_id, state, holder)

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
        values: Sequence[float] | None,
    ) -> None:
        self._hold(trial_id)
        with self._dropped_if_finished(trial_id), self._db.speaking():
            for name, value in plain(attrs).items():
                self._db.storage.set_trial_user_attr(trial_id, name, value)
            for name, excess in constraints.items():
                self._db.storage.set_trial_system_attr(trial_id, f"{_CONSTRAINT}{name}", float(excess))
        with self._lock():
            self._hold(trial_id)
            with self._dropped_if_finished(trial_id), self._db.speaking():
                self._db.storage.set_trial_state_values(trial_id, state, values)
            with self._db.writing() as connection:
                _lease_rows.drop(connection, trial_id)

    @contextmanager
    def _dropped_if_finished(self, trial_id: int) -> Iterator[None]:
        try:
            yield
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise self._lost(trial_id, self._read(trial_id).state, None) from error

    def _reap(self) -> list[int]:
        """Reap, under the study's lock."""
        study_id, now = self.study.study_id, self._db.now()
        with self._db.reading() as connection:
            orphans = _lease_rows.stale(connection, study_id, now=now, grace_s=self.grace_s)
            leftovers = _lease_rows.leftovers(connection, study_id)
        if leftovers:
            with self._db.writing() as connection:
                for trial_id in leftovers:
                    _lease_rows.drop(connection, trial_id)
        for orphan in orphans:
            trial = self._read(orphan.trial_id)
            owner = trial.user_attrs.get("owner", "nobody")
            reason = trial.user_attrs.get("reason") or (
                f"driver {owner} ended before it held a lease"
                if orphan.owner is None
                else f"lease of {owner} expired: no sign of life for {self.grace_s:g} s"
            )
            _log.warning("trial %d has lost its driver: %s", trial.number, reason)
            attempt = trial.user_attrs.get("attempt", 0)
            self._retire(trial, reason=reason, next_attempt=attempt + 1 if attempt < self.max_retry else None)
        return [orphan.trial_id for orphan in orphans]

    def _retire(self, trial: FrozenTrial, *, reason: str, next_attempt: int | None) -> None:
        """Fail a trial and queue a clone of it, under the study's lock.

        The lease goes first, so that its old owner's late result can't slip in between; the clone comes before FAIL,
        so that a death in between loses nothing; that the clone is there keeps the next reaper from making another.
        """
        trial_id, study_id = trial._trial_id, self.study.study_id
        with self._db.speaking():
            self._db.storage.set_trial_user_attr(trial_id, "reason", cut(reason))
        with self._db.writing() as connection:
            _lease_rows.write(connection, trial_id, study_id=study_id, owner=_lease_rows.NOBODY, expires_at=0.0)
            key = trial.user_attrs.get("key")
            wanted = (
                next_attempt is not None
                and key is not None
                and not _lease_rows.is_requeued(connection, study_id, trial.number)
                and not _lease_rows.key_is_taken(connection, study_id, key, besides=trial_id)
            )
        if wanted:
            booked = {"key": key, "attempt": next_attempt, "retry_of": trial.number}
            booked["seed_number"] = _seed_number(trial)
            booked["revision"] = trial.user_attrs.get("revision", self.study.revision)
            self._create(TrialState.WAITING, trial.params, trial.distributions, _given(trial), booked)
        with self._db.speaking():
            self._db.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        with self._db.writing() as connection:
            _lease_rows.drop(connection, trial_id)


def _seed_number(trial: FrozenTrial) -> int:
    number: int = trial.user_attrs.get("seed_number", trial.number)
    return number


def _given(trial: FrozenTrial) -> dict[str, Any]:
    return {name: trial.user_attrs[name] for name in trial.system_attrs.get(_GIVEN, [])}
