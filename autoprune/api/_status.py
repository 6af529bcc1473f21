"""How far a study is: what is done, who runs what, what failed."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from autoprune.api._reading import open_study, storage_url
from autoprune.search.storage import Counts, Database, StudyHandle
from autoprune.search.trials import StoredTrial

__all__ = ["DriverStatus", "Status", "status", "stop"]


@dataclass(frozen=True)
class DriverStatus:
    """One driver that has not left: where it is, when it was last seen, and the trials it runs."""

    host: str
    pid: int
    state: str
    seen_s_ago: float
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Args:
        n_trials: Trials asked for.
        revision: Number of the newest configuration.
        counts: Trials by state.
        drivers: Those that have not left.
        failures: Number and reason of every failed trial.
    """

    n_trials: int
    revision: int
    counts: Counts
    drivers: tuple[DriverStatus, ...]
    failures: tuple[tuple[int, str], ...]


def status(name: str, storage: str | None = None) -> Status:
    """How far a study is, who runs what, and what failed."""
    study = open_study(name, storage)
    handle, search = study.handle, study.config.study
    trials, now = handle.trials(), handle.db.now()
    drivers = []
    for row in handle.drivers():
        if row.left_at is None:
            state = "at work" if now - row.seen_at <= search.lease_s else "lost"
            running = [t.number for t in trials if t.state is TrialState.RUNNING and StoredTrial(t).owner == row.owner]
            if state == "at work" or running:
                drivers.append(DriverStatus(row.host, row.pid, state, max(0.0, now - row.seen_at), tuple(running)))
    failures = [(t.number, str(StoredTrial(t).reason)) for t in trials if t.state is TrialState.FAIL]
    return Status(search.n_trials, handle.revision, handle.counts(), tuple(drivers), tuple(failures))


def stop(name: str, storage: str | None = None) -> list[str]:
    """Ask every driver of a study to wind down.

    Returns:
        Host and process of each driver that was at work, in words.
    """
    db = Database.open(storage_url(storage), create=False)
    handle = StudyHandle.open(db, name)
    handle.request_stop()
    return [f"{driver.host}, process {driver.pid}" for driver in handle.drivers() if driver.left_at is None]
