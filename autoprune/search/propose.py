"""Proposals: first what is known to be worth trying, then what the sampler makes of the history; no lock is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import SpaceExhaustedError
from autoprune.search.claims import Proposal
from autoprune.search.parameters import Choice, Parameter
from autoprune.search.samplers import SAMPLERS
from autoprune.search.space import Point, Space
from autoprune.spec import seed_of

__all__ = ["Proposer", "opening"]

_SAMPLER_DRAWS, _RANDOM_DRAWS = 20, 500


def opening(space: Space, n_trials: int) -> list[Point]:
    """Points to start with: the dense network, then ladders of MACs targets.

    They take at most a third of ``n_trials`` (but always three), so that the sampler has the rest. A rule that samples
    multipliers does as ``uniform`` does while they are alike, so it has a ladder only where ``uniform`` is not there.

    Args:
        space: The search space.
        n_trials: Length of the study.
    """
    methods, rules = list(space.config.methods), space.config.width_rules
    plain = next((method for method in methods if not space.config.methods[method]), methods[0])
    climbing = [rule for rule in rules if not space.shape(rule)]
    if "uniform" not in climbing:
        climbing += [rule for rule in rules if space.shape(rule)][:1]

    def point(method: str, rule: str, target: float) -> Point:
        return space.repair(Point(method, rule, target, space.default_hyper(method), space.neutral_shape(rule)))

    n = max(3, n_trials // 3)
    rungs = max(2, -(-(n - 1) // len(climbing)))
    points = [point(plain, climbing[0], 1.0)]
    for rule in climbing:
        # Each rule's ladder takes the methods in turn, so that none is unknown when the sampler starts.
        for i, target in enumerate(space.target_ladder(rungs)):
            points.append(point(methods[i % len(methods)], rule, target))
    return points[:n]


class Proposer:
    """Proposes the next trial from the history, repeatably: the same history and number give the same point.

    Args:
        space: The search space.
        n_trials: Length of the study.
        sampler: Name of the sampler.
        seed: The study's seed.
        directions: ``"maximize"`` or ``"minimize"`` by objective.
        context: What a trial's result depends on beside its point, JSON-serialisable.
    """

    def __init__(
        self, space: Space, *, n_trials: int, sampler: str, seed: int, directions: Sequence[str], context: Any
    ) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        self._directions = [StudyDirection[direction.upper()] for direction in directions]
        self._context = context
        self._opening = opening(space, n_trials)

    def propose(self, history: Sequence[FrozenTrial]) -> Proposal:
        """Propose a point that no trial of the history has tried.

        Args:
            history: All trials of the study, of any state.

        Raises:
            SpaceExhaustedError: Hundreds of draws gave nothing new.
        """
        tried = {trial.user_attrs.get("key") for trial in history}
        for point in self._opening:
            if self._space.key(point, self._context) not in tried:
                return self._proposal(point, history)
        number = len(history)
        view = self._view(history)
        for draw in range(_SAMPLER_DRAWS + _RANDOM_DRAWS):
            name = self._sampler if draw < _SAMPLER_DRAWS else "random"
            view.sampler = SAMPLERS[name](seed_of("proposal", self._seed, number, draw))
            asked = view.ask()
            point = self._space.point(_drawn(self._space, asked))
            if self._space.key(point, self._context) not in tried:
                return self._proposal(point, history)
            view.tell(asked, state=TrialState.FAIL)
        raise SpaceExhaustedError(
            f"{_SAMPLER_DRAWS + _RANDOM_DRAWS} draws from space {self._space.config.name!r} gave nothing that was not "
            f"tried in {len(history)} trials. Widen a range, add a method, or lower `n_trials`."
        )

    def _proposal(self, point: Point, history: Sequence[FrozenTrial]) -> Proposal:
        params, distributions = point.params, self._space.distributions(point)
        for name in [name for name, d in distributions.items() if isinstance(d, CategoricalDistribution)]:
            stored = _stored_name(name, distributions[name], history)
            params[stored], distributions[stored] = params.pop(name), distributions.pop(name)
        key = self._space.key(point, self._context)
        attrs = {"point": point.to_dict(), "hyper": point.told_hyper}
        return Proposal(params=params, distributions=distributions, key=key, attrs=attrs)

    def _view(self, history: Sequence[FrozenTrial]) -> optuna.Study:
        """The history in memory, re-expressed in the space as it is now; what no longer fits stays out."""
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(directions=self._directions)
        finally:
            optuna.logging.set_verbosity(verbosity)
        for trial in history:
            if trial.state not in (TrialState.COMPLETE, TrialState.RUNNING):
                continue
            point = Point(**trial.user_attrs["point"])
            if not self._space.admits(point):
                continue
            values = trial.values if trial.state is TrialState.COMPLETE else None
            study.add_trial(
                optuna.trial.create_trial(
                    state=trial.state,
                    values=values,
                    params=point.params,
                    distributions=self._space.distributions(point),
                )
            )
        return study


def _drawn(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    values = {name: _suggest(trial, name, parameter) for name, parameter in space.root.items()}
    own = {**space.hyper(values["method"]), **space.shape(values["width_rule"])}
    return {**values, **{name: _suggest(trial, name, parameter) for name, parameter in own.items()}}


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, parameter.choices)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.is_log)


def _stored_name(name: str, distribution: BaseDistribution, history: Sequence[FrozenTrial]) -> str:
    """The name under which the database can hold a parameter whose choices may have changed.

    Optuna refuses other choices under a name that it knows, so a changed list gets a name of its own.
    """
    candidate, number = name, 1
    known = {n: d for trial in history for n, d in trial.distributions.items() if n.split(" #")[0] == name}
    while candidate in known and known[candidate] != distribution:
        number += 1
        candidate = f"{name} #{number}"
    return candidate
