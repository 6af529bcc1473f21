"""Proposals: first what is known to be worth trying, then what the sampler makes of the history; no lock is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import IdentityError, SpaceExhaustedError
from autoprune.search.claims import Proposal
from autoprune.search.database import Database
from autoprune.search.pareto import front_mask
from autoprune.search.samplers import SAMPLERS, Draw
from autoprune.search.space import Point, Space
from autoprune.search.study import StudyRecord
from autoprune.search.view import Viewer

__all__ = ["Proposer", "imported_points", "opening"]

_MOST_RUNGS = 20  # More would tell little that the sampler could not find better.


def opening(space: Space, n_trials: int, imported: Sequence[Point] = ()) -> list[Point]:
    """Points to start with: the dense network, imported points that the space admits, then ladders of MACs targets.

    Network and ladders take at most a third of ``n_trials`` (but always three), so that the sampler has the rest. A
    ladder has at most 20 rungs. A rule that samples multipliers does as ``uniform`` does while they are alike, so it
    has one only where ``uniform`` is not there.

    Args:
        space: The search space.
        n_trials: Length of the study.
        imported: Points of other studies.
    """
    methods, rules = list(space.config.methods), space.config.width_rules
    plain = next((method for method in methods if not space.config.methods[method]), methods[0])
    climbing = [rule for rule in rules if not space.shape(rule)]
    if "uniform" not in climbing:
        climbing += [rule for rule in rules if space.shape(rule)][:1]

    def point(method: str, rule: str, target: float) -> Point:
        return space.repair(Point(method, rule, target, space.default_hyper(method), space.neutral_shape(rule)))

    n = max(3, n_trials // 3)
    rungs = min(max(2, -(-(n - 1) // len(climbing))), _MOST_RUNGS)
    points = [point(plain, climbing[0], 1.0)]
    for rule in climbing:
        # Each rule's ladder takes the methods in turn, so that none is unknown when the sampler starts.
        for i, target in enumerate(space.target_ladder(rungs)):
            points.append(point(methods[i % len(methods)], rule, target))
    return [points[0], *(point for point in imported if space.admits(point)), *points[1:n]]


def imported_points(db: Database, names: Sequence[str], identity: Mapping[str, Any]) -> list[Point]:
    """The points of the Pareto fronts of other studies in a database, study by study, each by number.

    Args:
        db: An open database.
        names: Names of the studies.
        identity: What they must be the same in as this study; see `StudyRecord.create_or_join`.

    Raises:
        IdentityError: One of them is of another identity, so that its front says nothing here.
        StorageError: One of them is not there.
    """
    points = []
    for name in names:
        study = StudyRecord.open(db, name)
        if differing := study.differences(identity):
            raise IdentityError(
                f"`start_from` must name studies with the identity of this one, but in {name!r} {differing}. "
                "Take it out of `start_from`."
            )
        complete = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
        minimise = [direction == "minimize" for direction in study.directions]
        values = np.array([trial.values for trial in complete]).reshape(-1, len(minimise))
        front = front_mask(values, minimise=minimise).tolist()
        points += [Point(**t.user_attrs["point"]) for t, is_best in zip(complete, front, strict=True) if is_best]
    return points


class Proposer:
    """Proposes the next trial from the history, repeatably: the same history and seed give the same point.

    What it keeps between two proposals saves time only. A driver that resumes proposes what the one before it would
    have proposed.

    Args:
        space: The search space.
        n_trials: Length of the study.
        sampler: Name of the sampler.
        seed: The study's seed.
        objectives: Their names, in order.
        context: What a trial's result depends on beside its point, JSON-serialisable.
        imported: Points of other studies, to be proposed first.
    """

    def __init__(
        self,
        space: Space,
        *,
        n_trials: int,
        sampler: str,
        seed: int,
        objectives: Sequence[str],
        context: Any,
        imported: Sequence[Point] = (),
    ) -> None:
        self._space, self._seed, self._context = space, seed, context
        self._samplers = [SAMPLERS[sampler], SAMPLERS["random"]]
        self._viewer = Viewer(space, objectives)
        self._opening: dict[str, Point] = {}
        for point in opening(space, n_trials, imported):
            self._opening.setdefault(self._key(point), point)

    def propose(self, history: Sequence[FrozenTrial]) -> Proposal:
        """Propose a point that no trial of the history has tried.

        Args:
            history: All trials of the study, of any state, by number.

        Raises:
            SpaceExhaustedError: Hundreds of draws gave nothing new.
        """
        tried = {trial.user_attrs.get("key") for trial in history}
        for key, point in self._opening.items():
            if key not in tried:
                return self._proposal(key, point, history)
        # A trial that is tried again adds no number: an interrupted study makes the proposals of one that was not.
        number = sum("retry_of" not in trial.user_attrs for trial in history)
        view, draw, n_attempts = self._viewer.look(history), Draw(self._seed, number), 0
        for sampler in self._samplers:
            for values in sampler.attempts(view, draw):
                point = self._space.point(values)
                key = self._key(point)
                if key not in tried:
                    return self._proposal(key, point, history)
                n_attempts += 1
        raise SpaceExhaustedError(
            f"{n_attempts} draws from space {self._space.config.name!r} gave nothing that was not "
            f"tried in {len(history)} trials. Widen a range, add a method, or lower `n_trials`."
        )

    def _key(self, point: Point) -> str:
        return self._space.key(point, self._context)

    def _proposal(self, key: str, point: Point, history: Sequence[FrozenTrial]) -> Proposal:
        params, distributions = point.params, self._space.distributions(point)
        known = self._viewer.choices(history)
        for name in [name for name, d in distributions.items() if isinstance(d, CategoricalDistribution)]:
            stored = _stored_name(name, distributions[name], known)
            params[stored], distributions[stored] = params.pop(name), distributions.pop(name)
        attrs = {"point": point.to_dict(), "hyper": point.told_hyper}
        return Proposal(params=params, distributions=distributions, key=key, attrs=attrs)


def _stored_name(name: str, distribution: BaseDistribution, known: Mapping[str, BaseDistribution]) -> str:
    """The name under which the database can hold a parameter whose choices may have changed.

    Optuna refuses other choices under a name that it knows, so a changed list gets a name of its own.
    """
    candidate, number = name, 1
    while known.get(candidate, distribution) != distribution:
        number += 1
        candidate = f"{name} #{number}"
    return candidate
