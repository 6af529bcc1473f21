"""Width rules: from scores and a MACs target to the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel
from autoprune.errors import InfeasibleError
from autoprune.inverse import fit

__all__ = ["RULES", "Kept", "Limits", "Rule", "Scores", "Shape", "global_ranking", "keep_best", "shaped", "uniform"]

Scores = Mapping[str, NDArray[np.float64]]
Kept = dict[str, NDArray[np.int64]]
Shape = Mapping[str, float]


def _ranks(scores: NDArray[np.float64], step: int) -> NDArray[np.int64]:
    """Rank of each channel within its segment, 0 the best; ties fall to the lower index.

    A group of step S consists of S equal segments (one per convolution group) which keep equally many.
    """
    segments = scores.reshape(step, -1)
    order = np.argsort(-segments, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(segments.shape[1])[None, :].repeat(step, 0), axis=1)
    return ranks.reshape(-1)


def keep_best(cost: CostModel, scores: Scores, widths: Mapping[str, int]) -> Kept:
    """The ``widths[group]`` best channels of each group, as sorted indices.

    Args:
        cost: Names the groups and their steps.
        scores: By group, shape (C,); higher stays.
        widths: By group, each a multiple of the group's step.
    """
    kept = {}
    for name, step in zip(cost.groups, cost.steps, strict=True):
        kept[name] = np.flatnonzero(_ranks(scores[name], step) < widths[name] // step).astype(np.int64)
    return kept


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the widths of one trial must keep.

    Args:
        macs: Upper bound of the pruned network's MACs.
        params: Upper bound of its parameters, or None.
        min_widths: Smallest width by group.
        multiple: Widths are multiples of it; see `inverse.fit`.
    """

    macs: float
    params: int | None = None
    min_widths: Mapping[str, int]
    multiple: int = 1


def uniform(cost: CostModel, scores: Scores, limits: Limits, shape: Shape) -> dict[str, int]:
    """One keep ratio for all groups, as large as the limits allow.

    Args:
        cost: The network's cost model.
        scores: Not looked at; every rule has the same arguments.
        limits: What the widths must keep.
        shape: Not looked at.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    return shaped(cost, scores, limits, {})


def shaped(cost: CostModel, scores: Scores, limits: Limits, shape: Shape) -> dict[str, int]:
    """Keep ratios in the proportions of ``shape``, as large as the limits allow.

    Args:
        cost: The network's cost model.
        scores: Not looked at.
        limits: What the widths must keep.
        shape: Multiplier of the keep ratio by group, > 0; an absent group has 1.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    return fit(
        cost,
        macs=limits.macs,
        params=limits.params,
        shape=shape,
        min_widths=limits.min_widths,
        multiple=limits.multiple,
    )


def global_ranking(cost: CostModel, scores: Scores, limits: Limits, shape: Shape) -> dict[str, int]:
    """Rank the channels of all groups together and remove the least important until the limits are met.

    The last removal can save more than was needed; then the best of the removed channels that still fit come back. The
    channels that `min_widths` protects are each group's best; order is total: (score, group, rank). With a multiple,
    the widths that the ranking leaves are the shape of a `inverse.fit`: rounding each alone could exceed a limit.

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,), comparable between groups; higher stays.
        limits: What the widths must keep.
        shape: Not looked at.

    Returns:
        Width by group. Where ``multiple`` is 1, no removed channel could stay without exceeding a limit.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    unit_scores, unit_groups = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for index, (name, width, step) in enumerate(zip(cost.groups, cost.dense, cost.steps, strict=True)):
        ranked = -np.sort(-scores[name].reshape(step, -1), axis=1)
        units = ranked.mean(0)  # One unit is the r-th best channel of every segment; they go together.
        protected = -(-limits.min_widths.get(name, step) // step)
        removable = units[protected:][::-1]
        unit_scores.append(removable)
        unit_groups.append(np.full(len(removable), index))
        assert len(units) == width // step
    flat, groups = np.concatenate(unit_scores), np.concatenate(unit_groups)
    order = np.argsort(flat, kind="stable")
    steps, dense = np.asarray(cost.steps), np.asarray(cost.dense)

    def after(n_removed: int) -> NDArray[np.int64]:
        removed = np.bincount(groups[order[:n_removed]], minlength=len(dense))
        return np.asarray(dense - removed * steps, dtype=np.int64)

    def meets(widths: NDArray[np.int64]) -> bool:
        return bool(
            cost.macs(widths[None])[0] <= limits.macs
            and (limits.params is None or cost.params(widths[None])[0] <= limits.params)
        )

    low, high = 0, len(order)  # Costs fall with every removal, so the shortest prefix is found by bisection.
    if not meets(after(high)):
        raise InfeasibleError(_infeasible(cost, after(high), limits))
    while low < high:
        middle = (low + high) // 2
        if meets(after(middle)):
            high = middle
        else:
            low = middle + 1
    left = after(low)
    closed: set[int] = set()  # A group that can't grow now never can, since the others only grow.
    for group in groups[order[:low]][::-1].tolist():
        if group not in closed:
            left[group] += steps[group]
            if not meets(left):
                left[group] -= steps[group]
                closed.add(group)
                if len(closed) == len(dense):
                    break
    if limits.multiple == 1:
        return cost.as_mapping(left)
    return shaped(cost, scores, limits, dict(zip(cost.groups, (left / dense).tolist(), strict=True)))


def _infeasible(cost: CostModel, least: NDArray[np.int64], limits: Limits) -> str:
    macs, params = int(cost.macs(least[None])[0]), int(cost.params(least[None])[0])
    if macs > limits.macs:
        ratio = math.ceil(1e4 * macs / cost.dense_macs) / 1e4  # Rounded up: the number told must do.
        return (
            f"`macs_target` must be at least {ratio:.4f}, the minimum widths' share of the dense MACs, "
            f"but got {limits.macs / cost.dense_macs:.4f}. Raise it or lower `min_width`."
        )
    return (
        f"the limit of parameters must be at least {params}, those of the minimum widths, but is {limits.params}. "
        "Raise it or lower `min_width`."
    )


Rule = Callable[[CostModel, Scores, Limits, Shape], dict[str, int]]

RULES: Mapping[str, Rule] = {
    "uniform": uniform,
    "global": global_ranking,
    "per_group": shaped,
    "per_stage": shaped,
}
"""By name. Of two that share a function, the search knows the difference: what it samples a multiplier for."""
