"""The history as a sampler sees it: in memory, in the words of the space as it is now."""

from __future__ import annotations

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

from autoprune.config import ACCURACY, Metric
from autoprune.errors import ConfigError
from autoprune.search.pareto import crowding_distance, front_mask
from autoprune.search.proposals.space import Space
from autoprune.search.storage import quiet
from autoprune.search.trials import Attr, Growing, Point, StoredTrial

__all__ = ["Observation", "Observations", "Observer"]


@dataclass(frozen=True, eq=False)
class Observation:
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
class Observations:
    """Trials with a result, and running ones; what does not fit the space is not here.

    Args:
        space: The space.
        objectives: Their names.
        trials: One for each trial, by rising number.
        metric: The one of the objectives that is no cost.
    """

    space: Space
    objectives: tuple[str, ...]
    trials: tuple[Observation, ...]
    metric: Metric = ACCURACY

    def __post_init__(self) -> None:
        if self.metric.name not in self.objectives:
            raise ConfigError(
                f"`metric` must be one of the objectives {', '.join(self.objectives)}, but is {self.metric.name}. "
                "Make observations of others by `dataclasses.replace`."
            )

    @cached_property
    def finished(self) -> tuple[Observation, ...]:
        """Those with a result."""
        return tuple(observation for observation in self.trials if observation.values is not None)

    def best(self, n: int, among: Sequence[Observation] | None = None) -> list[Observation]:
        """The ``n`` best trials with a result, best first: front by front, each by falling crowding distance.

        Trials that break a constraint come after all others, by rising sum of their violations.

        Args:
            n: How many.
            among: Trials with a result; all of them if None.
        """
        candidates = self.finished if among is None else among
        kept = [observation for observation in candidates if not observation.violations]
        losses, left, best = self._losses(kept), np.arange(len(kept)), list[Observation]()
        while len(left) and len(best) < n:
            on_front = front_mask(losses[left])
            front = left[on_front]
            order = np.argsort(-crowding_distance(losses[front]), kind="stable")
            best += [kept[index] for index in front[order].tolist()]
            left = left[~on_front]
        broken = sorted((s for s in candidates if s.violations), key=lambda s: (sum(s.violations.values()), s.number))
        return [*best, *broken][:n]

    def thinned(self, most: int) -> Observations:
        """At most ``most`` trials with a result: the front, which gets half of the places, then the newest."""
        if len(self.finished) <= most:
            return self
        feasible = [observation for observation in self.finished if not observation.violations]
        mask = front_mask(self._losses(feasible)) if feasible else np.zeros(0, dtype=np.bool_)
        front = [observation for observation, is_on_front in zip(feasible, mask.tolist(), strict=True) if is_on_front]
        kept = {observation.number for observation in self.best(most // 2, front)}
        newest = [observation.number for observation in self.finished if observation.number not in kept]
        kept.update(newest[len(kept) - most :])
        trials = tuple(
            observation for observation in self.trials if observation.values is None or observation.number in kept
        )
        return dataclasses.replace(self, trials=trials)

    def with_running(self, params: Mapping[str, Any]) -> Observations:
        """The observations with one more running trial."""
        number = self.trials[-1].number + 1 if self.trials else 0
        return dataclasses.replace(self, trials=(*self.trials, Observation(number, dict(params))))

    def study(
        self, *, flat: bool = False, marks: Mapping[int, Mapping[str, Any]] | None = None
    ) -> tuple[optuna.Study, FrozenTrial]:
        """The observations as a study in memory, and its next trial, which has no parameters yet.

        Args:
            flat: Whether every trial has all parameters of the space, with defaults for those that it does not use.
            marks: System attributes by the number of the trial.
        """
        storage = InMemoryStorage()
        directions = [
            StudyDirection[self.metric.direction.upper()] if objective == self.metric.name else StudyDirection.MINIMIZE
            for objective in self.objectives
        ]
        with quiet("optuna.storages._in_memory"):
            study_id = storage.create_new_study(directions, "view")
        broken = sorted({name for observation in self.trials for name in observation.violations})
        distributions = _Distributions(self.space, flat=flat)
        defaults = self.space.defaults if flat else {}
        for observation in self.trials:
            is_finished = observation.values is not None
            trial = _Shared(
                number=observation.number,
                trial_id=observation.number,
                state=TrialState.COMPLETE if is_finished else TrialState.RUNNING,
                value=None,
                values=observation.values,
                datetime_start=_NEVER,
                datetime_complete=_NEVER if is_finished else None,
                params={**defaults, **observation.params},
                distributions=distributions.of(observation.params),
                user_attrs={},
                system_attrs=dict((marks or {}).get(observation.number, {})),
                intermediate_values={},
            )
            for name in broken if is_finished else ():
                trial.set_constraint(name, observation.violations.get(name, 0.0))
            storage.create_new_trial(study_id, template_trial=trial)
        study = optuna.Study("view", storage, _NO_SAMPLER)
        return study, storage.get_trial(storage.create_new_trial(study_id))

    def _losses(self, trials: Sequence[Observation]) -> npt.NDArray[np.float64]:
        """Error and costs, to be minimised, shape (T, M)."""
        losses = np.array([observation.values for observation in trials], dtype=np.float64).reshape(
            -1, len(self.objectives)
        )
        place = self.objectives.index(self.metric.name)
        losses[:, place] = [self.metric.error(value) for value in losses[:, place].tolist()]
        return losses


_NO_SAMPLER = RandomSampler(seed=0)  # A study must have one; ours are asked directly.
_NEVER = datetime(1970, 1, 1)  # Optuna wants a date of each trial, but no sampler looks at it.


class _Shared(FrozenTrial):
    """A trial that a storage need not copy, since nobody else has it and nobody changes what it refers to."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


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
            own = {**self._space.root, **self._space.hyper(branch[0]), **self._space.multipliers(branch[1])}
            self._made[branch] = {name: parameter.distribution for name, parameter in own.items()}
        return self._made[branch]


@dataclass(frozen=True, eq=False)
class _Known:
    """What is worked out once about a trial.

    Args:
        state: Its state.
        observation: What a sampler sees of it, if anything; of a trial that was stopped early with its rung's score.
        rungs: Score by rung.
    """

    state: TrialState
    observation: Observation | None
    rungs: Mapping[int, float]


class Observer:
    """Turns a growing history into observations; what it has worked out about an ended trial it keeps.

    They are a function of the history alone, to the last bit: it does not matter whether the observer has seen an
    earlier part of it. A trial that was stopped early counts as finished, with the score of its last rung plus the
    median of what the complete trials gained after that rung (nothing where none is known).

    Args:
        space: The space as it is now.
        objectives: Names of the objectives, in order.
        metric: The one of them that is no cost.
    """

    def __init__(self, space: Space, objectives: Sequence[str], metric: Metric = ACCURACY) -> None:
        self._space, self._objectives, self._metric = space, tuple(objectives), metric
        self._place = self._objectives.index(metric.name)
        self._growing = Growing()
        self._forget()

    def _forget(self) -> None:
        self._known: list[_Known] = []
        self._choices: dict[str, CategoricalDistribution] = {}
        self._gains = defaultdict[int, list[float]](list)  # By rung: what complete trials gained after it.

    def look(self, history: Sequence[FrozenTrial]) -> Observations:
        """The observations of all trials of a study, by number."""
        self._update(history)
        later = self._later_gains()
        seen = (
            self._as_finished(known, later) if known.state is TrialState.PRUNED else known.observation
            for known in self._known
        )
        trials = [observation for observation in seen if observation is not None]
        in_order = tuple(sorted(trials, key=lambda observation: observation.number))
        return Observations(self._space, self._objectives, in_order, self._metric)

    def choices(self, history: Sequence[FrozenTrial]) -> dict[str, CategoricalDistribution]:
        """The categorical parameters of all trials by the names that the database knows them by."""
        self._update(history)
        return dict(self._choices)

    def _update(self, history: Sequence[FrozenTrial]) -> None:
        def take_in(places: list[int]) -> None:
            for place in places:
                self._known[place : place + 1] = [self._learn(place, history[place])]

        self._growing.read(history, forget=self._forget, take_in=take_in)

    def _learn(self, number: int, trial: FrozenTrial) -> _Known:
        rungs = StoredTrial(trial).rungs
        self._choices |= {n: d for n, d in trial.distributions.items() if isinstance(d, CategoricalDistribution)}
        observation = self._observation(number, trial, rungs)
        if trial.state is TrialState.COMPLETE and observation is not None and observation.values is not None:
            for rung, score in rungs.items():
                self._gains[rung].append(observation.values[self._place] - score)
        return _Known(trial.state, observation, rungs)

    def _observation(self, number: int, trial: FrozenTrial, rungs: Mapping[int, float]) -> Observation | None:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            return None
        point = StoredTrial(trial).point
        if not self._space.admits(point):
            return None
        number = trial.user_attrs.get(Attr.SEED_NUMBER, number)
        if trial.state is TrialState.RUNNING:
            return Observation(number, point.params)
        facts = {key: value for key, value in trial.user_attrs.items() if value is not None}
        values = trial.values if trial.state is TrialState.COMPLETE else self._partial_values(point, facts, rungs)
        if values is None:
            return None
        facts.setdefault("macs_ratio", facts.get(f"{Attr.PARTIAL}macs_ratio"))
        limits = self._space.constraints.limits
        # The difference of close numbers is exact, so the least excess counts.
        excess = {k: (facts[k] - limit) / limit for k, limit in limits.items() if facts.get(k) is not None}
        violations = {name: share for name, share in excess.items() if share > 0}
        return Observation(number, point.params, tuple(values), violations, trial.datetime_complete)

    def _partial_values(
        self, point: Point, facts: Mapping[str, Any], rungs: Mapping[int, float]
    ) -> tuple[float, ...] | None:
        """The objectives of a trial that was stopped early, as far as it came; None where one is not known."""
        found = {name: facts.get(f"{Attr.PARTIAL}{name}", facts.get(name)) for name in self._objectives}
        found[self._metric.name] = rungs[max(rungs)] if rungs else None
        if "params_ratio" in found and found["params_ratio"] is None:
            found["params_ratio"] = self._space.params_ratio(point)
        values = tuple(found.values())
        return None if None in values else values

    def _later_gains(self) -> dict[int, float]:
        if not any(known.state is TrialState.PRUNED for known in self._known):
            return {}
        return {rung: median(found) for rung, found in self._gains.items()}

    def _as_finished(self, known: _Known, later: Mapping[int, float]) -> Observation | None:
        """What is seen of a trial that was stopped early, with what it would have gained."""
        observation = known.observation
        if observation is None or observation.values is None:
            return observation
        values = list(observation.values)
        reached = values[self._place] + later.get(max(known.rungs), 0.0)
        values[self._place] = self._metric.bounded(reached)
        return dataclasses.replace(observation, values=tuple(values))
