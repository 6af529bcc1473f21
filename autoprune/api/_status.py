"""How far a study is: what is done and when the rest will be, who runs what, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optuna.trial import TrialState

from autoprune.api._reading import Study, open_study, storage_url
from autoprune.config import AS_MANY_AS_FIT
from autoprune.search.front import Candidates
from autoprune.search.storage import Counts, Database, DriverRow, StudyHandle
from autoprune.search.trials import StoredTrial, failures, last_end, retries, work_of

__all__ = ["DriverStatus", "FrontTrial", "RunningStatus", "Status", "status", "stop"]

_FEWEST = 2  # Trials that a pace is told from.
_UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class DriverStatus:
    """One driver that has not left: where it is, when it was last seen, and the trials it runs."""

    host: str
    pid: int
    state: str
    seen_s_ago: float
    trials: tuple[int, ...]


@dataclass(frozen=True)
class RunningStatus:
    """A trial under way.

    Args:
        number: Its number.
        what: What is tried, for people.
        since_s: Seconds since it was claimed; None where nobody booked it.
        rung: The rung reached last, None before the first.
        score: At that rung.
        phase: The phase it is in; None, like all that follows, before its driver has told.
        progress: Share of that done, in [0, 1].
        images_per_s: Training images a second in this phase.
        seconds_left: Of this phase, from now.
    """

    number: int
    what: str
    since_s: float | None
    rung: int | None = None
    score: float | None = None
    phase: str | None = None
    progress: float | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class FrontTrial:
    """A trial of the front.

    Args:
        number: Its number.
        score: The study's metric on the validation split.
        cost: The study's first cost.
    """

    number: int
    score: float
    cost: float


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Args:
        n_trials: Trials asked for.
        revision: Number of the newest configuration.
        counts: Trials by state.
        drivers: Those that have not left.
        failures: Number and reason of every failed trial.
        running: The trials under way.
        waiting: Number of each trial that waits for another try, and of the one that it tries again.
        retried: Failed trials that were given another try.
        per_hour: Finished trials an hour, by the drivers at work since the first trial they claimed; None: unknown.
        seconds_left: Until ``n_trials`` have finished at that pace; None: unknown, or the study has no such end.
        last_result_s_ago: Seconds since a trial finished; None: none has.
        n_front: Trials on the front.
        best: The one of the best score; None: there is none.
        cheapest: The one of the lowest cost.
        hypervolume: What the front dominates up to the reference point, as a share of the whole box; None with more
            than three objectives.
    """

    n_trials: int
    revision: int
    counts: Counts
    drivers: tuple[DriverStatus, ...]
    failures: tuple[tuple[int, str], ...]
    running: tuple[RunningStatus, ...] = ()
    waiting: tuple[tuple[int, int | None], ...] = ()
    retried: frozenset[int] = field(default_factory=frozenset)
    per_hour: float | None = None
    seconds_left: float | None = None
    last_result_s_ago: float | None = None
    n_front: int = 0
    best: FrontTrial | None = None
    cheapest: FrontTrial | None = None
    hypervolume: float | None = 0.0


def status(name: str, storage: str | None = None) -> Status:
    """How far a study is, who runs what, and what failed."""
    study = open_study(name, storage)
    handle, search = study.handle, study.config.study
    # Of trials that have ended the database tells what is asked; there may be tens of thousands.
    trials = [StoredTrial(trial) for trial in handle.some_trials(states=_UNDER_WAY)]
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    now = handle.db.now()
    there = [row for row in handle.drivers() if row.left_at is None]
    at_work = [row for row in there if now - row.seen_at <= search.lease_s]
    drivers = [_driver(row, running, now, is_at_work=row in at_work) for row in there]
    counts, per_hour = study.counts(), _pace(handle, {row.owner for row in at_work}, now)
    n_left = None if search.n_trials == AS_MANY_AS_FIT else max(0, search.n_trials - counts.finished)
    return Status(
        n_trials=search.n_trials,
        revision=handle.revision,
        counts=counts,
        drivers=tuple(driver for driver in drivers if driver.state == "at work" or driver.trials),
        failures=tuple((number, str(reason)) for number, reason in failures(handle)),
        running=tuple(_running(trial, now) for trial in running),
        waiting=tuple((trial.number, trial.retry_of) for trial in trials if trial.state is TrialState.WAITING),
        retried=frozenset(retries(handle)),
        per_hour=per_hour,
        seconds_left=None if n_left is None or per_hour is None else n_left / per_hour * 3600,
        last_result_s_ago=_last_result(handle),
        **(_front(study) if counts.complete else {}),
    )


def _driver(row: DriverRow, running: Sequence[StoredTrial], now: float, *, is_at_work: bool) -> DriverStatus:
    own = tuple(trial.number for trial in running if trial.owner == row.owner)
    state = "at work" if is_at_work else "lost"
    return DriverStatus(row.host, row.pid, state, max(0.0, now - row.seen_at), own)


def _running(trial: StoredTrial, now: float) -> RunningStatus:
    claimed_at, rungs = trial.claimed_at, trial.rungs
    rung = max(rungs, default=None)
    what = "of another tool"
    if trial.key is not None:
        point = trial.point
        what = f"{point.method}, {point.width_rule}, macs_target {point.macs_target:.2f}"
    since_s = None if claimed_at is None else max(0.0, now - claimed_at)
    score, told = None if rung is None else rungs[rung], trial.progress
    if told is None:
        return RunningStatus(trial.number, what, since_s, rung, score)
    left_s = None if told.seconds_left is None else max(0.0, told.seconds_left - max(0.0, now - told.at))
    known = (told.phase, told.progress, told.images_per_s, left_s)
    return RunningStatus(trial.number, what, since_s, rung, score, *known)


def _pace(study: StudyHandle, owners: set[str], now: float) -> float | None:
    """Finished trials an hour of these drivers, which must be at work: what others did says nothing of them."""
    if not owners:
        return None
    work = work_of(study, owners)
    seconds = 0.0 if work.since is None else now - work.since
    return work.n_finished / seconds * 3600 if work.n_finished >= _FEWEST and seconds > 0 else None


def _last_result(study: StudyHandle) -> float | None:
    at = last_end(study)
    return None if at is None else max(0.0, (datetime.now(UTC) - at).total_seconds())


def _front(study: Study) -> dict[str, Any]:
    search, metric, cost = study.config.study, study.metric, study.cost
    candidates = Candidates([study.source], search)
    front = candidates.front().narrow
    if front.empty:
        return {}

    def trial(index: Any) -> FrontTrial:
        row = front.loc[index]
        return FrontTrial(int(row["number"]), float(row[metric.name]), float(row[cost]))

    best = front[metric.name].idxmax() if metric.is_maximised else front[metric.name].idxmin()
    cheapest = front[cost].idxmin()
    ends = {"best": trial(best), "cheapest": trial(cheapest)}
    return {**ends, "n_front": len(front), "hypervolume": candidates.hypervolume() if search.has_hypervolume else None}


def stop(name: str, storage: str | None = None) -> list[str]:
    """Ask every driver of a study to wind down.

    Returns:
        Host and process of each driver that was at work, in words.
    """
    db = Database.open(storage_url(storage), create=False)
    handle = StudyHandle.open(db, name)
    handle.request_stop()
    return [f"{driver.host}, process {driver.pid}" for driver in handle.drivers() if driver.left_at is None]
