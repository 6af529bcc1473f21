"""The history as a sampler sees it: in memory, in the words of the space as it is now."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import OBJECTIVES
from autoprune.search._quiet import quiet
from autoprune.search.pareto import crowding_distance, front_mask
from autoprune.search.space import Point, Space

__all__ = ["Sight", "View", "Viewer"]


@dataclass(frozen=True, eq=False)
class Sight:
    """What a sampler sees of one trial.

    Args:
        number: The trial's place among first tries: one that is tried again keeps its place.
        params: Its parameters by name.
        values: Its objectives; None while it runs.
        violations: By broken constraint, how far the network is above the limit, as a share of the limit.
        ended_at: When it ended, by the clock of its driver.
    """

    number: int
    params: Mapping[str, Any]
    values: tuple[float, ...] | None = None
    violations: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ended_at: datetime | None = None


@dataclass(frozen=True)
class View:
    """Trials with a result, and running ones; what does not fit the space is not here.

    Args:
        space: The space.
        objectives: Their names.
        sights: One for each trial, by rising number.
    """

    space: Space
    objectives: tuple[str, ...]
    sights: tuple[Sight, ...]

    @cached_property
    def finished(self) -> tuple[Sight, ...]:
        """Those with a result."""
        return tuple(sight for sight in self.sights if sight.values is not None)

    def best(self, n: int, among: Sequence[Sight] | None = None) -> list[Sight]:
        """The ``n`` best trials with a result, best first: front by front, each by falling crowding distance.

        Trials that break a constraint come after all others, by rising sum of their violations.

        Args:
            n: How many.
            among: Trials with a result; all of them if None.
        """
        candidates = self.finished if among is None else among
        kept = [sight for sight in candidates if not sight.violations]
        losses, left, best = self._losses(kept), np.arange(len(kept)), list[Sight]()
        while len(left) and len(best) < n:
            on_front = front_mask(losses[left])
            front = left[on_front]
            order = np.argsort(-crowding_distance(losses[front]), kind="stable")
            best += [kept[index] for index in front[order].tolist()]
            left = left[~on_front]
        broken = sorted((s for s in candidates if s.violations), key=lambda s: (sum(s.violations.values()), s.number))
        return [*best, *broken][:n]

    def thinned(self, most: int) -> View:
        """At most ``most`` trials with a result: the front, which gets half of the places, then the newest."""
        if len(self.finished) <= most:
            return self
        feasible = [sight for sight in self.finished if not sight.violations]
        mask = front_mask(self._losses(feasible)) if feasible else np.zeros(0, dtype=np.bool_)
        front = [sight for sight, is_on_front in zip(feasible, mask.tolist(), strict=True) if is_on_front]
        kept = {sight.number for sight in self.best(most // 2, front)}
        newest = [sight.number for sight in self.finished if sight.number not in kept]
        kept.update(newest[len(kept) - most :])
        sights = tuple(sight for sight in self.sights if sight.values is None or sight.number in kept)
        return dataclasses.replace(self, sights=sights)

    def with_running(self, params: Mapping[str, Any]) -> View:
        """The view with one more running trial."""
        number = self.sights[-1].number + 1 if self.sights else 0
        return dataclasses.replace(self, sights=(*self.sights, Sight(number, dict(params))))

    def study(
        self, *, flat: bool = False, marks: Mapping[int, Mapping[str, Any]] | None = None
    ) -> tuple[optuna.Study, FrozenTrial]:
        """The view as a study in memory, and its next trial, which has no parameters yet.

        Args:
            flat: Whether every trial has all parameters of the space, with defaults for those that it does not use.
            marks: System attributes by the number of the trial.
        """
        storage = InMemoryStorage()
        directions = [StudyDirection[OBJECTIVES[objective].upper()] for objective in self.objectives]
        with quiet("optuna.storages._in_memory"):
            study_id = storage.create_new_study(directions, "view")
        broken = sorted({name for sight in self.sights for name in sight.violations})
        distributions = _Distributions(self.space, flat=flat)
        defaults = self.space.defaults if flat else {}
        for sight in self.sights:
            is_finished = sight.values is not None
            trial = _Shared(
                number=sight.number,
                trial_id=sight.number,
                state=TrialState.COMPLETE if is_finished else TrialState.RUNNING,
                value=None,
                values=sight.values,
                datetime_start=_NEVER,
                datetime_complete=_NEVER if is_finished else None,
                params={**defaults, **sight.params},
                distributions=distributions.of(sight.params),
                user_attrs={},
                system_attrs=dict((marks or {}).get(sight.number, {})),
                intermediate_values={},
            )
            for name in broken if is_finished else ():
                trial.set_constraint(name, sight.violations.get(name, 0.0))
            storage.create_new_trial(study_id, template_trial=trial)
        study = optuna.Study("view", storage, _NO_SAMPLER)
        return study, storage.get_trial(storage.create_new_trial(study_id))

    def _losses(self, sights: Sequence[Sight]) -> npt.NDArray[np.float64]:
        """Objectives to be minimised, shape (T, M); what is maximised lies in [0, 1]."""
        values = np.array([sight.values for sight in sights], dtype=np.float64).reshape(-1, len(self.objectives))
        is_maximised = [OBJECTIVES[objective] == "maximize" for objective in self.objectives]
        losses: npt.NDArray[np.float64] = np.where(is_maximised, 1 - values, values)
        return losses


_NO_SAMPLER = RandomSampler(seed=0)  # A study must have one; ours are asked directly.
_NEVER = datetime(1970, 1, 1)  # Optuna wants a date of each trial, but no sampler looks at it.


class _Shared(FrozenTrial):
    """A trial that a storage need not copy through and through, since nobody changes what it refers to."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return copy.copy(self)


class _Distributions:
    """The distributions of trials, one mapping shared by all trials with the same parameters."""

    def __init__(self, space: Space, *, flat: bool) -> None:
        self._space = space
        self._made: dict[tuple[str, str], dict[str, BaseDistribution]] = {}
        self._all = {name: p.distribution for name, p in space.parameters.items()} if flat else None

    def of(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        if self._all is not None:
            return self._all
        branch = str(params["method"]), str(params["width_rule"])
        if branch not in self._made:
            own = {**self._space.root, **self._space.hyper(branch[0]), **self._space.shape(branch[1])}
            self._made[branch] = {name: parameter.distribution for name, parameter in own.items()}
        return self._made[branch]


@dataclass(frozen=True, eq=False)
class _Known:
    """What is worked out once about a trial.

    Args:
        trial: The trial as it was.
        state: Its state then.
        sight: What a sampler sees of it, if anything; a trial that was stopped early has its rung's accuracy there.
        rungs: Accuracy by rung.
        choices: Its categorical parameters by the names in the database.
    """

    trial: FrozenTrial
    state: TrialState
    sight: Sight | None
    rungs: Mapping[int, float]
    choices: Mapping[str, CategoricalDistribution]


class Viewer:
    """Makes views of a growing history; what it has worked out about an ended trial it keeps.

    A view is a function of the history alone, to the last bit: it does not matter whether the viewer has seen an
    earlier part of it. A trial that was stopped early counts as finished, with the accuracy of its last rung plus the
    median of what the complete trials gained after that rung (nothing where none is known).

    Args:
        space: The space as it is now.
        objectives: Names of the objectives, in order.
    """

    def __init__(self, space: Space, objectives: Sequence[str]) -> None:
        self._space, self._objectives = space, tuple(objectives)
        self._accuracy = self._objectives.index("accuracy")
        self._known: list[_Known] = []

    def look(self, history: Sequence[FrozenTrial]) -> View:
        """The view of all trials of a study, by number."""
        self._update(history)
        later = self._later_gains()
        sights = [sight for known in self._known if (sight := self._seen(known, later)) is not None]
        return View(self._space, self._objectives, tuple(sorted(sights, key=lambda sight: sight.number)))

    def choices(self, history: Sequence[FrozenTrial]) -> dict[str, CategoricalDistribution]:
        """The categorical parameters of all trials by the names that the database knows them by."""
        self._update(history)
        return {name: distribution for known in self._known for name, distribution in known.choices.items()}

    def _update(self, history: Sequence[FrozenTrial]) -> None:
        before = self._known
        self._known = [
            before[i]
            if i < len(before) and before[i].trial is trial and before[i].state is trial.state
            else self._learn(i, trial)
            for i, trial in enumerate(history)
        ]

    def _learn(self, number: int, trial: FrozenTrial) -> _Known:
        rungs = {int(rung): float(accuracy) for rung, accuracy in (trial.user_attrs.get("rungs") or {}).items()}
        choices = {n: d for n, d in trial.distributions.items() if isinstance(d, CategoricalDistribution)}
        return _Known(trial, trial.state, self._sight(number, trial, rungs), rungs, choices)

    def _sight(self, number: int, trial: FrozenTrial, rungs: Mapping[int, float]) -> Sight | None:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            return None
        point = Point(**trial.user_attrs["point"])
        if not self._space.admits(point):
            return None
        number = trial.user_attrs.get("seed_number", number)
        if trial.state is TrialState.RUNNING:
            return Sight(number, point.params)
        facts = {key: value for key, value in trial.user_attrs.items() if value is not None}
        values = trial.values if trial.state is TrialState.COMPLETE else self._partial_values(point, facts, rungs)
        if values is None:
            return None
        facts.setdefault("macs_ratio", facts.get("partial_macs_ratio"))
        limits = self._space.constraints.limits
        # The difference of close numbers is exact, so the least excess counts.
        excess = {k: (facts[k] - limit) / limit for k, limit in limits.items() if facts.get(k) is not None}
        violations = {name: share for name, share in excess.items() if share > 0}
        return Sight(number, point.params, tuple(values), violations, trial.datetime_complete)

    def _partial_values(
        self, point: Point, facts: Mapping[str, Any], rungs: Mapping[int, float]
    ) -> tuple[float, ...] | None:
        """The objectives of a trial that was stopped early, as far as it came; None where one is not known."""
        found = {name: facts.get(f"partial_{name}", facts.get(name)) for name in self._objectives}
        found["accuracy"] = rungs[max(rungs)] if rungs else None
        if "params_ratio" in found and found["params_ratio"] is None:
            found["params_ratio"] = self._space.params_ratio(point)
        values = tuple(found.values())
        return None if None in values else values

    def _later_gains(self) -> dict[int, float]:
        gains: defaultdict[int, list[float]] = defaultdict(list)
        if any(known.state is TrialState.PRUNED for known in self._known):
            for known in self._known:
                if known.state is TrialState.COMPLETE and known.sight is not None and known.sight.values is not None:
                    for rung, accuracy in known.rungs.items():
                        gains[rung].append(known.sight.values[self._accuracy] - accuracy)
        return {rung: median(found) for rung, found in gains.items()}

    def _seen(self, known: _Known, later: Mapping[int, float]) -> Sight | None:
        sight = known.sight
        if sight is None or sight.values is None or known.state is not TrialState.PRUNED:
            return sight
        values = list(sight.values)
        reached = values[self._accuracy] + later.get(max(known.rungs), 0.0)
        values[self._accuracy] = min(max(reached, 0.0), 1.0)
        return dataclasses.replace(sight, values=tuple(values))
