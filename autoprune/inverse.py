"""The inverse of the cost model: the widest widths of a given shape within limits of MACs and parameters."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel, check_groups
from autoprune.errors import ConfigError, InfeasibleError

__all__ = ["allowed_widths", "fit"]

_TRIES = 100  # orders in which `fit` tries to fill the room that rounding down leaves


def fit(
    model: CostModel,
    *,
    macs: float | None = None,
    params: float | None = None,
    shape: Mapping[str, float] | None = None,
    min_widths: Mapping[str, int] | None = None,
    multiple: int = 1,
) -> dict[str, int]:
    """The widest widths of a given shape that cost no more than the limits.

    The proportional widths are ``scale * shape * dense``, clipped to ``[min, dense]``, at the scale where real-valued
    widths would meet the limits exactly. They are rounded down to allowed widths, and the room that is left goes to one
    more step of as many groups as fit, largest remainder first.

    What holds, where a step is the distance to the next allowed width:

    - the limits are met, and no group can grow by one step without breaking them;
    - every width is within one step of the proportional one, except where room is left that can't be filled so: if
      every order that was tried leaves room that only groups already rounded up can use, these grow further. No width
      is ever more than one step below.

    Args:
        model: Costs to invert.
        macs: Largest count of MACs (not a ratio); None for no limit.
        params: Largest count of parameters; at least one of the two limits must be given.
        shape: Relative keep ratios by group, > 0; an absent group has 1. Only their proportions matter.
        min_widths: Smallest widths by group, 1 if absent, rounded up to an allowed width.
        multiple: Allowed widths are multiples of it in groups whose dense width is larger, and the dense width itself.

    Returns:
        A width for every group.

    Raises:
        ConfigError: No limit, an unknown group, or a shape, minimum or multiple out of range.
        InfeasibleError: Even the smallest widths cost more; the message names the reachable minimum.
    """
    shape, min_widths = shape or {}, min_widths or {}
    _check_request(model, macs, params, shape, min_widths, multiple)
    ladders = [
        allowed_widths(dense, step, multiple, min_widths.get(name, 1))
        for name, dense, step in zip(model.groups, model.dense, model.steps, strict=True)
    ]
    limits = [
        (poly, limit)
        for poly, limit in ((model.macs_polynomial, macs), (model.params_polynomial, params))
        if limit is not None
    ]

    def meets(widths: NDArray[Any]) -> bool:
        return all(poly.value(widths) <= limit for poly, limit in limits)

    smallest = np.array([ladder[0] for ladder in ladders], dtype=np.float64)
    if not meets(smallest):
        raise InfeasibleError(_infeasible(model, macs, params, smallest))
    pace = np.array([shape.get(name, 1.0) * dense for name, dense in zip(model.groups, model.dense, strict=True)])
    proportional = _proportional(pace, smallest, np.array(model.dense, dtype=np.float64), meets)
    return model.as_mapping(_round(proportional, ladders, meets, lambda widths: limits[0][0].value(widths)))


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


def allowed_widths(dense: int, step: int, multiple: int, smallest: int) -> NDArray[np.int64]:
    """Allowed widths of one group, rising, ending with the dense one.

    Args:
        dense: The group's dense width.
        step: What every width must be a multiple of.
        multiple: Widths below the dense one are multiples of it, where the dense width is larger.
        smallest: None is smaller than this, in 1 .. ``dense``.

    Example:
        >>> allowed_widths(20, 1, 8, 3), allowed_widths(6, 2, 8, 1)
        (array([ 8, 16, 20]), array([2, 4, 6]))
    """
    stride = math.lcm(step, multiple) if dense > multiple else step
    widths = np.arange(stride, dense, stride, dtype=np.int64)
    return np.append(widths[widths >= smallest], dense)


def _check_request(
    model: CostModel,
    macs: float | None,
    params: float | None,
    shape: Mapping[str, float],
    min_widths: Mapping[str, int],
    multiple: int,
) -> None:
    if macs is None and params is None:
        raise ConfigError("`fit` needs a limit: give `macs`, `params` or both.")
    check_groups(model, shape)
    check_groups(model, min_widths)
    for name, value in shape.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"a shape must be a positive number, but got {value!r} for group {name!r}.")
    for name, smallest in min_widths.items():
        dense = model.dense[model.groups.index(name)]
        if not 1 <= smallest <= dense:
            raise ConfigError(f"the smallest width of {name!r} must be in 1 .. {dense}, but got {smallest}.")
    if multiple < 1:
        raise ConfigError(f"`multiple` must be at least 1, but got multiple={multiple}.")


def _infeasible(model: CostModel, macs: float | None, params: float | None, smallest: NDArray[np.float64]) -> str:
    missed = []
    for unit, limit, poly, dense in (
        ("MACs", macs, model.macs_polynomial, model.dense_macs),
        ("parameters", params, model.params_polynomial, model.dense_params),
    ):
        if limit is not None and (least := int(poly.value(smallest))) > limit:
            missed.append(f"at most {limit:,.0f} {unit}, but the least is {least:,} ({least / dense:.1%} of dense)")
    return (
        f"the widths must cost {' and '.join(missed)}. "
        "Raise the limit, lower the smallest widths, or exclude fewer layers."
    )
