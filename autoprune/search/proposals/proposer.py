"""Proposals: first what is known to be worth trying, then what the sampler makes of the history; no lock is held."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import ACCURACY, Metric
from autoprune.errors import IdentityError, SpaceExhaustedError
from autoprune.search.pareto import front_mask
from autoprune.search.proposals.observations import Observations, Observer
from autoprune.search.proposals.pace import TimeLeft
from autoprune.search.proposals.planner import Look, Planner, Step
from autoprune.search.proposals.recipe import RecipeSearch
from autoprune.search.proposals.samplers import SAMPLERS, Draw, Sampler, sampler_named
from autoprune.search.proposals.space import Space
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Growing, Point, Proposal, StoredTrial

__all__ = ["Proposer", "imported_points", "opening"]

_First = tuple[str, Point, Step | None]

_MOST_RUNGS = 20  # More would tell little that the sampler could not find better.


def opening(
    space: Space, n_trials: int, imported: Sequence[Point] = (), *, planner: Planner | None = None
) -> list[Point]:
    """Points to start with: the dense network, imported points that the space admits, then ladders of MACs targets.

    Network and ladders take at most a third of ``n_trials`` (but always three), so that the sampler has the rest. A
    ladder has at most 20 rungs. A rule that samples multipliers does as ``uniform`` does while they are alike, so it
    has one only where ``uniform`` is not there. Where trials inherit, the planner's ladder stands for all of them.

    Args:
        space: The search space.
        n_trials: Length of the study.
        imported: Points of other studies.
        planner: Lets trials start from each other's networks.
    """
    methods, rules = list(space.config.methods), space.config.width_rules
    climbing = [rule for rule in rules if not space.multipliers(rule)]
    if "uniform" not in climbing:
        climbing += [rule for rule in rules if space.multipliers(rule)][:1]
    first = [
        _at(space, _plain_method(space), climbing[0], 1.0),
        *(point for point in imported if space.admits(point)),
    ]
    if planner is not None:
        ranked_by = itertools.chain(planner.methods, itertools.repeat(planner.methods[0]))
        points = (_plain(space, method) for method in ranked_by)
        return [*first, *(dataclasses.replace(p, macs_target=t) for p, t in zip(points, planner.ladder, strict=False))]
    n = max(3, n_trials // 3)
    rungs = min(max(2, -(-(n - 1) // len(climbing))), _MOST_RUNGS)
    # Each rule's ladder takes the methods in turn, so that none is unknown when the sampler starts.
    ladders = [
        _at(space, methods[i % len(methods)], rule, target)
        for rule in climbing
        for i, target in enumerate(space.target_ladder(rungs))
    ]
    return [*first, *ladders[: n - 1]]


def _at(space: Space, method: str, rule: str, target: float) -> Point:
    return space.repair(Point(method, rule, target, space.default_hyper(method), space.neutral_multipliers(rule)))


def _plain_method(space: Space) -> str:
    names = list(space.config.methods)
    return next((name for name in names if not space.config.methods[name]), names[0])


def _plain(space: Space, method: str) -> Point:
    """What is known to be good of all but the method, for trials by which the range of targets is covered first."""
    rules = space.config.width_rules
    rule = next((rule for rule in ("global", "uniform") if rule in rules), rules[0])
    return _at(space, method, rule, 1.0)


def imported_points(db: Database, names: Sequence[str], identity: Mapping[str, Any]) -> list[Point]:
    """The points of the Pareto fronts of other studies in a database, study by study, each by number.

    Each starts from the dense network here, whatever it started from there.

    Args:
        db: An open database.
        names: Names of the studies.
        identity: What they must be the same in as this study; see `StudyHandle.create_or_join`.

    Raises:
        IdentityError: One of them is of another identity, so that its front says nothing here.
        StorageError: One of them is not there.
    """
    points = []
    for name in names:
        study = StudyHandle.open(db, name)
        if differing := study.differences(identity):
            raise IdentityError(
                f"`start_from` must name studies with the identity of this one, but in {name!r} {differing}. "
                "Take it out of `start_from`."
            )
        complete = [trial for trial in study.history() if trial.state is TrialState.COMPLETE]
        minimise = [direction == "minimize" for direction in study.directions]
        values = np.array([trial.values for trial in complete]).reshape(-1, len(minimise))
        front = front_mask(values, minimise=minimise).tolist()
        best = (StoredTrial(trial).point for trial, is_best in zip(complete, front, strict=True) if is_best)
        # Parents are trials of the other study, and a seed of its own has a probe of recipes there.
        points += [dataclasses.replace(point, parent=None, finetune_seed=None) for point in best]
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
        metric: The one of them that is no cost.
        context: What a trial's result depends on beside its point, JSON-serialisable.
        imported: Points of other studies, to be proposed first.
        planner: Lets trials start from each other's networks; None: each starts from the dense network or a phase.
        has_phase: Whether a point's method trains before channels are ranked, so that it can't start from a trial.
        recipe: Searches the fine-tune recipe before everything but the dense network; None: it is the study's own.
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
        metric: Metric = ACCURACY,
        imported: Sequence[Point] = (),
        planner: Planner | None = None,
        has_phase: Callable[[Point], bool] = lambda point: False,
        recipe: RecipeSearch | None = None,
    ) -> None:
        self._space, self._seed, self._context = space, seed, context
        self._samplers = [sampler_named(sampler), SAMPLERS["random"]]
        self._observer, self._so_far = Observer(space, objectives, metric), _SoFar()
        self._planner, self._has_phase, self._recipe = planner, has_phase, recipe
        dense, *others = opening(space, n_trials, imported, planner=planner)
        # A rung of the planner's ladder is proposed by the planner, which knows whom it starts from.
        others = others[: len(others) - len(planner.ladder)] if planner is not None else others
        self._dense, self._opening = {self._key(dense): dense}, dict[str, Point]()
        for point in others:
            self._opening.setdefault(self._key(point), point)

    def propose(self, history: Sequence[FrozenTrial], time: TimeLeft | None = None) -> Proposal | None:
        """Propose a point that no trial of the history has tried.

        Args:
            history: All trials of the study, of any state, by number.
            time: What is left of a launch that ends at a time.

        Returns:
            The proposal; None where the time is too short for another trial.

        Raises:
            SpaceExhaustedError: Hundreds of draws gave nothing new.
        """
        so_far = self._so_far
        so_far.read(history)
        tried = so_far.keys
        look = None if self._planner is None else self._planner.look(history, time)
        first = _untried(self._dense, tried) or self._probe(history, look)
        recipe = {} if self._recipe is None else self._recipe.chosen(history)
        first = first or self._opened(history, tried, recipe)
        if first is not None:
            return self._proposal(*first, history)
        steps: Sequence[Step] = ()
        if self._planner is not None and look is not None:
            planned = self._planner.steps(look)
            if planned is None:
                return None
            steps = planned
        observations, draw, n_attempts = self._observer.look(history), Draw(self._seed, so_far.n_first_tries), 0
        for sampler in self._samplers:
            for drawn in self._drawn(sampler, observations, draw, by=steps[0].method if steps else None):
                for point, step in self._planned(drawn, steps, look):
                    point = dataclasses.replace(point, recipe=recipe)
                    key = self._key(point, step)
                    if key not in tried:
                        return self._proposal(key, point, step, history)
                n_attempts += 1
        raise SpaceExhaustedError(
            f"{n_attempts} draws from space {self._space.config.name!r} gave nothing that was not "
            f"tried in {len(history)} trials. Widen a range, add a method, or lower `n_trials`."
        )

    def _probe(self, history: Sequence[FrozenTrial], look: Look | None) -> _First | None:
        """The next trial that tries a recipe, if one is to come and the time is long enough."""
        recipe = None if self._recipe is None else self._recipe.next(history)
        if self._recipe is None or recipe is None:
            return None
        target, step = self._recipe.target, None
        if self._planner is not None and look is not None:
            step = self._planner.probe(target, look, n_probes=len(self._recipe.probes))
            if step is None:
                return None
        method = _plain_method(self._space) if self._planner is None else self._planner.methods[0]
        plain = _plain(self._space, method)
        point = self._recipe.probe(plain, recipe, epochs=None if step is None else step.epochs)
        return self._key(point, step), point, step

    def _opened(
        self, history: Sequence[FrozenTrial], tried: set[str | None], recipe: Mapping[str, float]
    ) -> _First | None:
        """The next point of the opening, with the recipe of the moment."""
        if not recipe or not self._opening:
            return _untried(self._opening, tried)
        # One that was tried by another recipe is not tried again.
        known = [dataclasses.replace(StoredTrial(trial).point, recipe={}) for trial in history]
        waiting = (point for key, point in self._opening.items() if key not in tried and point not in known)
        point = next(waiting, None)
        if point is None:
            return None
        point = dataclasses.replace(point, recipe=recipe)
        return self._key(point), point, None

    def _drawn(self, sampler: Sampler, observations: Observations, draw: Draw, *, by: str | None) -> Iterator[Point]:
        """The sampler's points, after a plain one by a method where one is named."""
        if by is not None:
            yield _plain(self._space, by)
        for values in sampler.attempts(observations, draw):
            yield self._space.point(values)

    def _planned(self, drawn: Point, steps: Sequence[Step], look: Look | None) -> Iterator[tuple[Point, Step | None]]:
        """The drawn point at each of the planned steps, or at its own target where it starts from a phase."""
        if not steps or self._planner is None or look is None:
            yield drawn, None
            return
        if self._has_phase(drawn):
            after = self._planner.after_phase(drawn.macs_target, look)
            steps = [] if after is None else [after]
        for step in steps:
            number = None if step.parent is None else step.parent.number
            point = drawn if step.again is None else self._trained_on(step.again)
            yield dataclasses.replace(point, macs_target=step.macs_target, parent=number, epochs=step.epochs), step

    def _trained_on(self, point: Point) -> Point:
        """The point of more training for a network: its own, since no other would change what is trained.

        A method that trains before it ranks would start from the dense network again.
        """
        if self._planner is not None and (self._has_phase(point) or not self._space.admits(point)):
            return _plain(self._space, self._planner.methods[0])
        return dataclasses.replace(point, finetune_seed=None)

    def _key(self, point: Point, step: Step | None = None) -> str:
        more: list[Any] = [] if not point.recipe else [{"recipe": dict(point.recipe), "seed": point.finetune_seed}]
        if step is not None:
            parent = None if step.parent is None else step.parent.sha256
            more.append({"parent": parent, "epochs": step.epochs})
        return self._space.key(point, self._context, *more)

    def _proposal(self, key: str, point: Point, step: Step | None, history: Sequence[FrozenTrial]) -> Proposal:
        params: dict[str, Any] = dict(point.params)
        distributions = self._space.distributions(point)
        if self._recipe is not None and point.recipe:
            params |= self._recipe.params(point.recipe)
            distributions |= self._recipe.distributions
        known = self._observer.choices(history)
        for name in [name for name, d in distributions.items() if isinstance(d, CategoricalDistribution)]:
            stored = _stored_name(name, distributions[name], known)
            params[stored], distributions[stored] = params.pop(name), distributions.pop(name)
        attrs: dict[str, Any] = {Attr.POINT: point.to_dict(), Attr.HYPER: point.hyper_text}
        if step is not None:
            attrs[Attr.WHY] = step.why
            if step.parent is not None:
                attrs |= {
                    Attr.PARENT: step.parent.number,
                    Attr.PARENT_SHA256: step.parent.sha256,
                    Attr.DEPTH: step.parent.depth + 1,
                }
        n_finished = self._so_far.n_finished
        return Proposal(params=params, distributions=distributions, key=key, attrs=attrs, n_finished=n_finished)


class _SoFar:
    """What a study has tried so far, kept up as its history grows."""

    def __init__(self) -> None:
        self._growing = Growing()
        self._forget()

    def _forget(self) -> None:
        self.keys = set[str | None]()
        """Of all trials, whatever became of them."""
        self._first_tries = set[int]()
        self.n_finished = 0
        """Trials with a result."""

    @property
    def n_first_tries(self) -> int:
        """Trials that retry no other one: an interrupted study makes the proposals of one that was not."""
        return len(self._first_tries)

    def read(self, history: Sequence[FrozenTrial]) -> None:
        """Go on to a history."""

        def take_in(places: list[int]) -> None:
            for place in places:
                trial = StoredTrial(history[place])
                self.keys.add(trial.key)
                if trial.retry_of is None:
                    self._first_tries.add(place)
                self.n_finished += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)

        self._growing.read(history, forget=self._forget, take_in=take_in)


def _untried(points: Mapping[str, Point], tried: set[str | None]) -> _First | None:
    return next(((key, point, None) for key, point in points.items() if key not in tried), None)


def _stored_name(name: str, distribution: BaseDistribution, known: Mapping[str, BaseDistribution]) -> str:
    """The name under which the database can hold a parameter whose choices may have changed.

    Optuna refuses other choices under a name that it knows, so a changed list gets a name of its own.
    """
    candidate, number = name, 1
    while known.get(candidate, distribution) != distribution:
        number += 1
        candidate = f"{name} #{number}"
    return candidate
