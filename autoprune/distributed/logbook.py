"""What experiment trackers are told of trials, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback

from autoprune.config import Progressed
from autoprune.distributed.guarded_logger import GuardedLogger
from autoprune.distributed.loggers import Destination
from autoprune.distributed.reports import unpack
from autoprune.search.dispatch import Complete, Dispatcher, StopEarly, Verdict
from autoprune.search.trials import Point

__all__ = ["Logbook", "LoggedTrial", "facts_to_log", "params_to_log"]

_STEP = "training_iteration"  # By which Ray's loggers know it.


def params_to_log(point: Point) -> dict[str, Any]:
    """What was proposed, by the names that the database has for it.

    Example:
        >>> params_to_log(Point("slimming", "uniform", 0.5, {"strength": 0.01}, epochs=2.0))
        {'method': 'slimming', 'width_rule': 'uniform', 'macs_target': 0.5, 'slimming.strength': 0.01, 'epochs': 2.0}
    """
    recipe = {f"finetune.{name}": value for name, value in point.recipe.items()}
    rest = {"epochs": point.epochs, "parent": point.parent}
    return {**point.params, **recipe, **{name: value for name, value in rest.items() if value is not None}}


def facts_to_log(attrs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result by name, without the widths, of which there may be hundreds.

    Example:
        >>> facts_to_log({"accuracy": 0.9, "macs": 1000, "weights": "7.safetensors", "wall_s": {"finetune": 3.5}})
        {'accuracy': 0.9, 'macs': 1000.0, 'wall_s.finetune': 3.5}
    """
    seconds = {f"wall_s.{phase}": value for phase, value in attrs.get("wall_s", {}).items()}
    return {name: float(value) for name, value in {**attrs, **seconds}.items() if isinstance(value, int | float)}


@dataclass(eq=False)
class LoggedTrial:
    """A trial as Ray's loggers see one: the names are those of Tune's own trials.

    Args:
        trial_id: Its id in Tune, new for each start of a driver.
        number: Its number in the study.
        config: What was proposed.
        local_path: The folder for its files.
        step: The rung that it has reached.
    """

    trial_id: str
    number: int
    config: Mapping[str, Any]
    local_path: str
    step: int = 0

    @property
    def evaluated_params(self) -> Mapping[str, Any]:
        """What was proposed."""
        return self.config

    def init_local_path(self) -> None:
        """Make the folder."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return f"trial {self.number}"


class Logbook(Callback):  # type: ignore[misc]  # ray is untyped
    """Tells Ray's loggers of trials in the study's own terms: Tune itself knows only of specs and reports.

    A run of a logger is a trial: its parameters are what was proposed; its steps are the rungs, at each of which stands
    the score under the metric's name; at its end come the numbers of its result.

    Args:
        dispatcher: Knows what runs.
        to: Which loggers, and where they write; None: there are none.
        warn: Told once of each logger that fails; trials never suffer from one.
    """

    def __init__(self, dispatcher: Dispatcher, to: Destination | None, *, warn: Callable[[str], None]) -> None:
        self._dispatcher, self._to = dispatcher, to
        self._loggers = [] if to is None else [GuardedLogger(name, to, warn=warn) for name in to.config.use]
        self._trials: dict[str, LoggedTrial] = {}
        self._verdicts: dict[str, Verdict] = {}

    def note_end(self, trial_id: str, verdict: Verdict) -> None:
        """What became of a trial, before Tune tells that it has ended."""
        if trial_id in self._trials:
            self._verdicts[trial_id] = verdict

    def setup(self, **info: Any) -> None:
        """Make the loggers ready."""
        for logger in self._loggers:
            logger.setup()

    def on_trial_start(self, *, trial: Any, **info: Any) -> None:
        """A run begins."""
        live = self._dispatcher.live.get(trial.trial_id)
        if live is None or self._to is None:
            return
        number, params = live.claim.number, params_to_log(live.claim.point)
        logged = LoggedTrial(trial.trial_id, number, params, str(self._to.trial_folder(number)))
        self._trials[trial.trial_id] = logged
        for logger in self._loggers:
            logger.start(logged)

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A rung is reached."""
        report, logged = unpack(result), self._trials.get(trial.trial_id)
        if self._to is None or logged is None or not isinstance(report, Progressed) or report.rung is None:
            return
        logged.step = report.rung
        self._log(logged, {self._to.metric: report.score, "macs_ratio": report.macs_ratio})

    def on_trial_complete(self, *, trial: Any, **info: Any) -> None:
        """A run ends."""
        logged, verdict = self._trials.pop(trial.trial_id, None), self._verdicts.pop(trial.trial_id, None)
        if logged is None:
            return
        if isinstance(verdict, Complete):
            # The score after the whole phase is the last rung's, at which the worker does not report.
            logged.step = max(map(int, verdict.attrs.get("rungs") or {}), default=logged.step)
            self._log(logged, facts_to_log(verdict.attrs))
        failed = not isinstance(verdict, Complete | StopEarly)
        for logger in self._loggers:
            logger.end(logged, failed=failed)

    def on_trial_error(self, *, trial: Any, **info: Any) -> None:
        """A worker has died."""
        self.on_trial_complete(trial=trial)

    def on_experiment_end(self, **info: Any) -> None:
        """Nothing more comes."""
        for logger in self._loggers:
            logger.close()

    def _log(self, trial: LoggedTrial, facts: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in facts.items() if value is not None}
        for logger in self._loggers:
            logger.log(trial, {**known, _STEP: trial.step})

    def __getstate__(self) -> dict[str, Any]:
        return {}
