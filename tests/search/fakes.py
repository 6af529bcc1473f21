"""A network without torch, and a `run_trial` whose front is known."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.config import ACCURACY, ConstraintsConfig, Metric, Range, SpaceConfig
from autoprune.cost import CostModel, LayerCost, Limits, LinearForm
from autoprune.search.proposals import Proposer, Space
from autoprune.search.proposals.samplers._contract import uniform
from autoprune.search.trials import Point

METHODS = {"plain": {}, "strong": {"strength": Range(low=1e-4, high=1e-2, scale="log", points=5)}}


def cost_model() -> CostModel:
    """Two prunable layers between an image of 3 channels and 10 logits."""
    layers = (
        LayerCost("a", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),))),
        LayerCost("b", 9 * 64, 9, 0, LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),))),
        LayerCost("fc", 1, 1, 1, LinearForm(0, ((1, 1),)), LinearForm(10)),
    )
    return CostModel(("a", "b"), (16, 32), layers)


def staged_model(n_stages: int = 3, depth: int = 2) -> CostModel:
    """A chain of 3×3 convolutions: ``depth`` groups in each stage, which has a quarter of the positions before it."""
    layers, names, dense, fan_in = [], [], [], LinearForm(3)
    for stage in range(n_stages):
        for _ in range(depth):
            names.append(f"conv{len(names)}")
            dense.append(8 * 2**stage)
            fan_out = LinearForm(0, ((len(names) - 1, 1),))
            layers.append(LayerCost(names[-1], 9 * 4 ** (n_stages + 2 - stage), 9, 0, fan_in, fan_out))
            layers.append(LayerCost(f"bn{len(names) - 1}", 0, 0, 2, LinearForm(1), fan_out))
            fan_in = fan_out
    layers.append(LayerCost("fc", 1, 1, 1, fan_in, LinearForm(10)))
    return CostModel(tuple(names), tuple(dense), tuple(layers))


def space(
    *, cost: CostModel | None = None, constraints: ConstraintsConfig | None = None, multiple: int = 1, **changes: Any
) -> Space:
    """A space over `cost_model` with two methods and the width rules ``uniform`` and ``global``."""
    model = cost or cost_model()
    config: dict[str, Any] = {
        "name": "fake",
        "methods": METHODS,
        "width_rules": ("uniform", "global"),
        "macs_target": Range(low=0.1, high=0.9, step=0.05),
    }
    return Space(SpaceConfig(**{**config, **changes}), model, widths=Limits(multiple=multiple), constraints=constraints)


OBJECTIVES = ("accuracy", "macs_ratio")
RMSE = Metric("rmse", "minimize", 4.0)


def proposer(
    of: Space, *, n_trials: int, seed: int = 0, sampler: str = "tpe", metric: Metric = ACCURACY, **more: Any
) -> Proposer:
    """A proposer for two objectives."""
    objectives, context = (metric.name, "macs_ratio"), ["recipe"]
    return Proposer(
        of, n_trials=n_trials, sampler=sampler, seed=seed, objectives=objectives, metric=metric, context=context, **more
    )


def trial(
    space: Space, point: Point, state: TrialState = TrialState.COMPLETE, *, ended: int = 0, **attrs: Any
) -> FrozenTrial:
    """The trial of a point as the database gives it back, with `run_trial`'s result where it is complete."""
    result = run_trial(point.to_dict()) if state is TrialState.COMPLETE else {}
    made = create_trial(
        state=state,
        values=[result[name] for name in OBJECTIVES] if result else None,
        params=point.params,
        distributions=space.distributions(point),
        user_attrs={"point": point.to_dict(), "key": space.key(point, ["recipe"]), **result, **attrs},
    )
    if made.state.is_finished():
        made.datetime_complete = moment(ended)
    return made


def by_rmse(of: FrozenTrial) -> FrozenTrial:
    """The same trial in a study that minimises rmse, which is four times what the accuracy lacks of 1.

    Its error, with 4 as the reference, is that of the accuracy to the last bit.
    """

    def rmse(accuracy: float) -> float:
        return 4 * (1 - accuracy)

    attrs = dict(of.user_attrs)
    for name in ("accuracy", "partial_accuracy"):
        if name in attrs:
            attrs[name.replace("accuracy", "rmse")] = rmse(attrs.pop(name))
    if attrs.get("rungs"):
        attrs["rungs"] = {rung: rmse(accuracy) for rung, accuracy in attrs["rungs"].items()}
    values = None if of.values is None else [rmse(of.values[0]), *of.values[1:]]
    made = create_trial(
        state=of.state, values=values, params=of.params, distributions=of.distributions, user_attrs=attrs
    )
    made.number, made.datetime_complete = of.number, of.datetime_complete
    return made


def moment(seconds: float) -> datetime:
    """So long after the start of a study."""
    return datetime(2026, 1, 1) + timedelta(seconds=seconds)


def draw(space: Space, seed: int) -> Point:
    """A point at random."""
    return space.point(uniform(space.parameters, seed))


def run_trial(point: dict[str, Any]) -> dict[str, Any]:
    """The accuracy is known: concave in the target, a little better with a strength near 1e-3 and a fitting shape."""
    target, hyper, shape = point["macs_target"], point["hyper"], point.get("shape", {}).values()
    bonus = 0.0
    if point["method"] == "strong":
        bonus = 0.02 - 0.01 * abs(math.log10(hyper["strength"]) + 3)
    # The more there is to know, the more there is to gain: the best of each number depends on the target.
    numbers = [value for name, value in hyper.items() if name != "strength" and isinstance(value, float)]
    bonus -= 0.15 * sum((value - target) ** 2 for value in numbers)
    bonus -= 0.1 * sum((value - 1.5 * target) ** 2 for value in shape)
    return {"accuracy": 0.5 + 0.4 * target**0.5 + bonus, "macs_ratio": target, "macs": round(1e6 * target)}
