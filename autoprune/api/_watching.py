"""How far the running trials of a study are, read from its database."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from autoprune.api._reading import Study
from autoprune.search.trials import Point, StoredTrial

__all__ = ["RunningRow", "running_trials"]


@dataclass(frozen=True)
class RunningRow:
    """A trial under way; what its driver has not told yet is None.

    Args:
        number: Its number.
        owner: The driver that runs it.
        point: What is tried.
        phase: The phase it is in.
        progress: Share of that done, in [0, 1], when it was told.
        images_per_s: Training images a second in this phase.
        seconds_left: Of this phase, from now.
        told_s_ago: When its driver has last told.
    """

    number: int
    owner: str | None
    point: Point
    phase: str | None = None
    progress: float | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    told_s_ago: float | None = None


def running_trials(study: Study) -> tuple[RunningRow, ...]:
    """The running trials of all drivers, by number."""
    handle = study.handle
    trials = [StoredTrial(trial) for trial in handle.trials() if trial.state is TrialState.RUNNING]
    return tuple(_row(trial, now=handle.db.now()) for trial in trials)


def _row(trial: StoredTrial, *, now: float) -> RunningRow:
    number, owner, point, told = trial.number, trial.owner, trial.point, trial.progress
    if told is None:
        return RunningRow(number, owner, point)
    ago = max(0.0, now - told.at)
    left = None if told.seconds_left is None else max(0.0, told.seconds_left - ago)
    return RunningRow(number, owner, point, told.phase, told.progress, told.images_per_s, left, ago)
