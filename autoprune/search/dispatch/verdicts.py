"""What becomes of a trial that has ended: worked out from what was heard of it, before anything is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from autoprune.config import ACCURACY, Completed, Failed, Metric, Report, Stopped
from autoprune.search.dispatch.records import Live, Stopping
from autoprune.search.trials import Attr

__all__ = ["Complete", "Fail", "Goals", "Release", "StopEarly", "Verdict", "verdict_on"]

_OF_THE_RUN = ("wall_s", "host", "node")  # What an earlier trial of the same result can't tell of a later one.
_DIED = "the worker died: out of memory, killed, or its machine was lost"


@dataclass(frozen=True)
class Goals:
    """What a study wants of its trials.

    Args:
        objectives: The names under which a result holds the values to tell.
        limits: Upper limits of facts that a result holds; each becomes a constraint.
        metric: The one of the objectives that is no cost.
    """

    objectives: tuple[str, ...]
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    metric: Metric = ACCURACY

    def values(self, facts: Mapping[str, Any]) -> list[Any]:
        """The objectives' values, None for those that are missing."""
        return [facts.get(objective) for objective in self.objectives]

    def excess(self, facts: Mapping[str, Any]) -> dict[str, float]:
        """Value minus limit by constraint, NaN where the value is no number."""
        return {name: _excess(facts.get(name), limit) for name, limit in self.limits.items()}

    def known_excess(self, facts: Mapping[str, Any]) -> dict[str, float]:
        """The same for the constraints whose values are known."""
        return {name: excess for name, excess in self.excess(facts).items() if facts.get(name) is not None}


@dataclass(frozen=True)
class Complete:
    """It has a result: see `Lifecycle.complete`."""

    values: list[Any]
    attrs: Mapping[str, Any]
    constraints: Mapping[str, float]


@dataclass(frozen=True)
class StopEarly:
    """It ended early with what it had: see `Lifecycle.stopped`."""

    attrs: Mapping[str, Any]
    constraints: Mapping[str, float]


@dataclass(frozen=True)
class Fail:
    """It failed: see `Lifecycle.failed`."""

    reason: str
    retry: bool = False


@dataclass(frozen=True)
class Release:
    """It was interrupted and is given back: see `Lifecycle.release`."""

    reason: str


Verdict: TypeAlias = Complete | StopEarly | Fail | Release


def verdict_on(live: Live, last: Report | None, *, goals: Goals, crashed: bool, stopping: Stopping | None) -> Verdict:
    """What becomes of a trial.

    Args:
        live: What was heard of it.
        last: Its last report, or None where it said nothing.
        goals: What the study wants.
        crashed: Whether its worker died.
        stopping: Why the driver winds down, or None while it does not.
    """
    if live.earlier is not None:
        known = {name: value for name, value in live.earlier.attrs.items() if name not in _OF_THE_RUN}
        return _complete(live, {**known, Attr.TAKEN_OVER_FROM: live.earlier.number}, goals)
    match last:
        case Completed():
            return _complete(live, last.result, goals)
        case Stopped():
            return _stop(live, last.reason, last.found, goals)
        case Failed():
            return Fail(last.reason)
    if live.overdue is not None:
        return Fail(live.overdue, retry=True)
    if crashed:
        return Fail(_DIED, retry=True) if stopping is None else Release(f"{stopping.value}; {_DIED}")
    if live.behind is not None:
        return _stop(live, live.behind, {}, goals)
    if stopping is None:
        return Fail("the trial ended without reporting a result")
    if stopping is Stopping.TIME and live.rungs:
        return _stop(live, stopping.value, {}, goals)
    return Release(stopping.value)


def _complete(live: Live, attrs: Mapping[str, Any], goals: Goals) -> Complete:
    key = {} if live.result_key is None else {Attr.RESULT_KEY: live.result_key}
    return Complete(goals.values(attrs), {**attrs, **key, **live.runs_on}, goals.excess(attrs))


def _stop(live: Live, reason: str, found: Mapping[str, Any], goals: Goals) -> StopEarly:
    """``found`` is what the trial knows beyond its rungs."""
    best = goals.metric.best(live.rungs.values()) if live.rungs else None
    attrs = {
        Attr.RUNGS: live.rungs,
        f"{Attr.PARTIAL}{goals.metric.name}": best,
        f"{Attr.PARTIAL}macs_ratio": live.macs_ratio,
        Attr.STOP_REASON: reason,
    }
    constraints = goals.known_excess({"macs_ratio": live.macs_ratio, **found})
    return StopEarly({**attrs, **found, **live.runs_on}, constraints)


def _excess(value: Any, limit: float) -> float:
    return float(value) - limit if isinstance(value, int | float) else math.nan
