"""A network without torch, and a `run_trial` whose front is known."""

from __future__ import annotations

import math
from typing import Any

from autoprune.config import SpaceConfig
from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.search.propose import Proposer
from autoprune.search.space import Space
from autoprune.spec import Range

METHODS = {"plain": {}, "strong": {"strength": Range(low=1e-4, high=1e-2, scale="log", points=5)}}


def cost_model() -> CostModel:
    """Two prunable layers between an image of 3 channels and 10 logits."""
    layers = (
        LayerCost("a", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),))),
        LayerCost("b", 9 * 64, 9, 0, LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),))),
        LayerCost("fc", 1, 1, 1, LinearForm(0, ((1, 1),)), LinearForm(10)),
    )
    return CostModel(("a", "b"), (16, 32), (1, 1), layers)


def space(**changes: Any) -> Space:
    """A space over `cost_model` with two methods and both width rules."""
    config: dict[str, Any] = {
        "name": "fake",
        "methods": METHODS,
        "width_rules": ("uniform", "global"),
        "macs_target": Range(low=0.1, high=0.9, step=0.05),
    }
    return Space(SpaceConfig(**{**config, **changes}), cost_model(), min_widths={"a": 1, "b": 1})


def proposer(of: Space, *, n_trials: int, seed: int = 0, sampler: str = "tpe") -> Proposer:
    """A proposer for two objectives."""
    return Proposer(
        of, n_trials=n_trials, sampler=sampler, seed=seed, directions=("maximize", "minimize"), context=["recipe"]
    )


def run_trial(point: dict[str, Any]) -> dict[str, Any]:
    """The accuracy is known: concave in the target, a little better for the method with a strength near 1e-3."""
    target = point["macs_target"]
    bonus = 0.0
    if point["method"] == "strong":
        bonus = 0.02 - 0.01 * abs(math.log10(point["hyper"]["strength"]) + 3)
    return {"accuracy": 0.5 + 0.4 * target**0.5 + bonus, "macs_ratio": target, "macs": round(1e6 * target)}
