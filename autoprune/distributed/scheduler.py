"""What Tune calls between its steps: trials end when the dispatcher says so, progress is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler

from autoprune.config import Progressed
from autoprune.distributed.reports import unpack
from autoprune.search.dispatch import Dispatcher, Stopping

__all__ = ["ObedientScheduler", "OverdueCallback", "PatienceStopper", "ProgressCallback"]

_TELL_EVERY_S = 1.0


class ObedientScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
    """First in, first out; a trial ends at its next report once the dispatcher wants it to."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        report = unpack(result)
        if not isinstance(report, Progressed):
            return str(self.CONTINUE)  # It has ended by itself; its result counts.
        try:
            stop = self._dispatcher.should_stop(trial.trial_id, report)
        except Exception as error:  # Such as a database that is gone; Tune would end with an error of its own.
            self._dispatcher.broke(error)
            stop = True
        return str(self.STOP if stop else self.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PatienceStopper(Stopper):  # type: ignore[misc]  # ray is untyped
    """Ends the whole run when trials that were told to stop have not reported for too long.

    Args:
        dispatcher: Says whether the driver winds down.
        patience_s: How long the trials get for their next report.
        interrupted_s: The same where the driver was interrupted.
    """

    def __init__(self, dispatcher: Dispatcher, *, patience_s: float, interrupted_s: float) -> None:
        self._dispatcher, self._patience_s, self._interrupted_s = dispatcher, patience_s, interrupted_s
        self._since: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are the scheduler's business."""
        return False

    def stop_all(self) -> bool:
        """Whether patience is at an end."""
        if self._dispatcher.stopping is None:
            return False
        self._since = self._since or time.monotonic()
        is_interrupted = self._dispatcher.stopping is Stopping.INTERRUPT
        return time.monotonic() - self._since > (self._interrupted_s if is_interrupted else self._patience_s)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class OverdueCallback(Callback):  # type: ignore[misc]  # ray is untyped
    """Ends the workers of trials that take too long; Tune then finds their trials failed.

    Args:
        dispatcher: Says which.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher, self._looked_at = dispatcher, 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker is there and begins."""
        self._dispatcher.begun(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """One turn of Tune's loop."""
        if time.monotonic() - self._looked_at < _TELL_EVERY_S:
            return
        self._looked_at = time.monotonic()
        overdue = self._dispatcher.overdue()
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if trial.trial_id in overdue and actor is not None:
                ray.kill(actor)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class ProgressCallback(Callback):  # type: ignore[misc]  # ray is untyped
    """Calls ``on_progress`` about once a second."""

    def __init__(self, on_progress: Callable[[], None]) -> None:
        self._on_progress, self._told_at = on_progress, 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """One turn of Tune's loop."""
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            self._on_progress()

    def __getstate__(self) -> dict[str, Any]:
        return {}
