"""The contract of samplers, tried on a small space with trials of a known accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from autoprune.config import Range, SpaceConfig
from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.search.proposals import Draw, Observation, Observations, Random, Sampler, Space
from autoprune.testing._holding import hold

__all__ = ["check_sampler"]

_N_ATTEMPTS = 20
_OBJECTIVES = ("accuracy", "macs_ratio")


def check_sampler(sampler: Sampler, *, seed: int = 0) -> None:
    """Hold a sampler against its contract, with no history and with one of a few trials.

    Args:
        sampler: The sampler.
        seed: Of the study.

    Raises:
        AssertionError: Something does not hold.
    """
    space = _space()
    for n_trials in (0, 5, 40):
        history = _history(space, n_trials)
        draw = Draw(study_seed=seed, number=n_trials)
        first, again = (list(itertools.islice(sampler.attempts(history, draw), _N_ATTEMPTS)) for _ in range(2))
        where = f"with {n_trials} trials of history"
        hold(first, f"{where} there must be an attempt")
        hold(first == again, f"{where} the same draw must give the same attempts")
        for values in first:
            _check_values(space, values, where)


def _check_values(space: Space, values: Mapping[str, Any], where: str) -> None:
    parameters = space.parameters
    hold(values.keys() <= parameters.keys(), f"{where} only parameters of the space may have a value")
    for name, value in values.items():
        hold(parameters[name].holds(value), f"{where} {name} = {value!r} must lie in its range")
    point = space.point(values)
    hold(point.method == values["method"], f"{where} the point must be of the method that was drawn")


def _space() -> Space:
    forms = LinearForm(3), LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),)), LinearForm(10)
    layers = tuple(
        LayerCost(name, positions, 9, 0, forms[index], forms[index + 1])
        for index, (name, positions) in enumerate((("a", 9 * 64), ("b", 9 * 16), ("fc", 1)))
    )
    strength = Range(low=1e-4, high=1e-2, scale="log", points=5)
    config = SpaceConfig(
        name="example",
        methods={"plain": {}, "strong": {"strength": strength, "form": Range(values=("prox", "subgradient"))}},
        width_rules=("uniform", "global", "per_group"),
    )
    return Space(config, CostModel(("a", "b"), (16, 32), layers))


def _history(space: Space, n_trials: int) -> Observations:
    """Trials drawn at chance, of an accuracy that rises with the MACs and with the strong method."""
    trials = []
    attempts = Random().attempts(Observations(space, _OBJECTIVES, ()), Draw(study_seed=1, number=0))
    for number, values in enumerate(itertools.islice(attempts, n_trials)):
        point = space.point(values)
        accuracy = 0.5 + 0.4 * point.macs_target + (0.05 if point.method == "strong" else 0.0)
        trials.append(Observation(number, point.params, (accuracy, point.macs_target)))
    return Observations(space, _OBJECTIVES, tuple(trials))
