"""The inverse of the cost model: the widest widths in given proportions within limits of what they cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.limits import Limits
from autoprune.cost.model import CostModel, check_groups
from autoprune.errors import ConfigError

__all__ = ["fit"]

_TRIES = 100  # orders in which `fit` tries to fill the room that rounding down leaves


def fit(model: CostModel, limits: Limits, *, multipliers: Mapping[str, float] | None = None) -> dict[str, int]:
    """The widest widths in given proportions that cost no more than the limits.

    The proportional widths are ``scale * multiplier * dense``, clipped to ``[min, dense]``, at the scale where
    real-valued widths would meet the limits exactly. They are rounded down to allowed widths, and the room that is left
    goes to one more step of as many groups as fit, largest remainder first.

    What holds, where a step is the distance to the next allowed width:

    - the limits are met, and no group can grow by one step without breaking them;
    - every width is within one step of the proportional one, except where room is left that can't be filled so: if
      every order that was tried leaves room that only groups already rounded up can use, these grow further. No width
      is ever more than one step below.

    Args:
        model: Costs to invert.
        limits: Of MACs, of parameters, of peak activation memory, or of several of them.
        multipliers: Relative keep ratios by group, > 0; an absent group has 1. Only their proportions matter.

    Returns:
        A width for every group.

    Raises:
        ConfigError: No limit, an unknown group, or a multiplier, minimum or multiple out of range.
        InfeasibleError: Even the smallest widths cost more; the message names the reachable minimum.
    """
    multipliers = multipliers or {}
    _check_request(model, limits, multipliers)
    ladders = limits.allowed(model)
    costs = [(model.macs_polynomial.value, limits.macs), (model.params_polynomial.value, limits.params)]
    if limits.peak_activation_bytes is not None:  # Else it may not be known.
        costs.append((model.activation_peak.value, limits.peak_activation_bytes))
    bounds = [(cost, limit) for cost, limit in costs if limit is not None]

    def meets(widths: NDArray[Any]) -> bool:
        return all(cost(widths) <= limit for cost, limit in bounds)

    least = np.array([ladder[0] for ladder in ladders], dtype=np.int64)
    limits.check_reachable(model, model.as_mapping(least))
    dense = np.array(model.dense, dtype=np.float64)
    pace = np.array([multipliers.get(name, 1.0) * width for name, width in zip(model.groups, model.dense, strict=True)])
    proportional = _proportional(pace, least.astype(np.float64), dense, meets)
    return model.as_mapping(_round(proportional, ladders, meets, bounds[0][0]))


def _proportional(
    pace: NDArray[np.float64],
    smallest: NDArray[np.float64],
    dense: NDArray[np.float64],
    meets: Callable[[NDArray[Any]], bool],
) -> NDArray[np.float64]:
    """The widest real-valued ``clip(scale * pace)`` that meets the limits, shape (G,)."""
    low, high = 0.0, float(np.max(dense / pace, initial=0.0))
    widths = np.clip(high * pace, smallest, dense)
    if meets(widths):
        return widths
    while low < (middle := (low + high) / 2) < high:  # until the two are neighbours in float64
        low, high = (middle, high) if meets(np.clip(middle * pace, smallest, dense)) else (low, middle)
    return np.clip(low * pace, smallest, dense)


def _round(
    proportional: NDArray[np.float64],
    ladders: Sequence[NDArray[np.int64]],
    meets: Callable[[NDArray[Any]], bool],
    cost: Callable[[NDArray[Any]], float],
) -> NDArray[np.int64]:
    """Allowed widths near the proportional ones that meet the limits and can't grow, shape (G,)."""
    n_groups = len(ladders)
    floors = np.array(
        [np.searchsorted(ladder, width, side="right") - 1 for ladder, width in zip(ladders, proportional, strict=True)],
        dtype=np.int64,
    )

    def widths_at(rungs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)], dtype=np.float64)

    def grows(rungs: NDArray[np.int64], group: int) -> bool:
        """Take one step with ``group`` if it fits."""
        if rungs[group] + 1 >= len(ladders[group]):
            return False
        rungs[group] += 1
        if meets(widths_at(rungs)):
            return True
        rungs[group] -= 1
        return False

    base = widths_at(floors)
    gaps = widths_at(np.minimum(floors + 1, [len(ladder) - 1 for ladder in ladders])) - base
    remainder = (proportional - base) / np.maximum(gaps, 1.0)
    step_cost = np.array([cost(base + gaps * (np.arange(n_groups) == group)) for group in range(n_groups)])
    generator = np.random.default_rng(0)  # the same tries every time, so equal requests get equal widths
    orders = [np.argsort(-remainder, kind="stable"), np.argsort(-step_cost, kind="stable")]
    exact = np.flatnonzero((remainder == 0) & (floors > 0))  # one step down is also within one step
    first: NDArray[np.int64] | None = None
    for attempt in range(_TRIES):
        rungs = floors.copy()
        order = orders[attempt] if attempt < len(orders) else generator.permutation(n_groups)
        if attempt >= len(orders):
            rungs[exact[generator.random(len(exact)) < generator.random()]] -= 1
        for group in order:
            while rungs[group] <= floors[group] and grows(rungs, int(group)):
                pass
        first = rungs.copy() if first is None else first
        if not any(grows(rungs, group) for group in range(n_groups)):
            return widths_at(rungs).astype(np.int64)
    assert first is not None
    # Costs only grow, so a group that does not fit now never will: one queue reaches the end.
    queue = [(float(ladders[g][first[g]] / proportional[g]), g) for g in range(n_groups)]
    heapq.heapify(queue)
    while queue:
        _, group = heapq.heappop(queue)
        if grows(first, group):
            heapq.heappush(queue, (float(ladders[group][first[group]] / proportional[group]), group))
    return widths_at(first).astype(np.int64)


def _check_request(model: CostModel, limits: Limits, multipliers: Mapping[str, float]) -> None:
    if limits.macs is None and limits.params is None and limits.peak_activation_bytes is None:
        raise ConfigError("`fit` needs a limit: give `macs`, `params` or both, or `peak_activation_bytes`.")
    check_groups(model, multipliers)
    for name, value in multipliers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"a multiplier must be a positive number, but got {value!r} for group {name!r}.")
