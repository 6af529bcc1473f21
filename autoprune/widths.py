"""Width rules: from scores and a MACs target to the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel
from autoprune.errors import InfeasibleError
from autoprune.inverse import allowed_widths, fit

__all__ = [
    "RULES",
    "Damages",
    "Kept",
    "Limits",
    "Rule",
    "Scores",
    "Shape",
    "aofp",
    "global_ranking",
    "joint_damages",
    "keep_best",
    "largest_damage",
    "learned",
    "shaped",
    "uniform",
]

Scores = Mapping[str, NDArray[np.float64]]
Kept = dict[str, NDArray[np.int64]]
Shape = Mapping[str, float]
Damages = Mapping[str, NDArray[np.float64]]
"""By group a matrix G of shape (C, C): to remove the channels R together does the damage ``sum(G[R][:, R])``."""


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


def _unmeasured() -> Damages:
    raise AssertionError("the damages of channels were not measured")


def uniform(
    cost: CostModel, scores: Scores, limits: Limits, shape: Shape, damages: Callable[[], Damages] = _unmeasured
) -> dict[str, int]:
    """One keep ratio for all groups, as large as the limits allow.

    Args:
        cost: The network's cost model.
        scores: Not looked at; every rule has the same arguments.
        limits: What the widths must keep.
        shape: Not looked at.
        damages: Not asked for.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    return shaped(cost, scores, limits, {})


def shaped(
    cost: CostModel, scores: Scores, limits: Limits, shape: Shape, damages: Callable[[], Damages] = _unmeasured
) -> dict[str, int]:
    """Keep ratios in the proportions of ``shape``, as large as the limits allow.

    Args:
        cost: The network's cost model.
        scores: Not looked at.
        limits: What the widths must keep.
        shape: Multiplier of the keep ratio by group, > 0; an absent group has 1.
        damages: Not asked for.

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


def global_ranking(
    cost: CostModel, scores: Scores, limits: Limits, shape: Shape, damages: Callable[[], Damages] = _unmeasured
) -> dict[str, int]:
    """Rank the channels of all groups together and remove the least important until the limits are met.

    The last removal can save more than was needed; then the best of the removed channels that still fit come back. The
    channels that `min_widths` protects are each group's best; order is total: (score, group, rank). With a multiple,
    the widths that the ranking leaves are the shape of a `inverse.fit`: rounding each alone could exceed a limit.

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,), comparable between groups; higher stays.
        limits: What the widths must keep.
        shape: Not looked at.
        damages: Not asked for.

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


def joint_damages(matrix: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """The damage of removing the first m channels of ``order`` together, for m = 1 … C; it never falls.

    Args:
        matrix: Of one group, shape (C, C); see `Damages`.
        order: Its channels, shape (C,).

    Returns:
        Shape (C,). What one channel makes up for that others did is not counted in its favour.
    """
    nested = matrix[np.ix_(order, order)]
    added = 2 * np.tril(nested).sum(1) - np.diag(nested)  # What channel m adds to those before it.
    return np.asarray(np.maximum.accumulate(np.cumsum(added)).clip(min=0))  # Less is rounding.


def largest_damage(damages: Damages, kept: Kept) -> float:
    """The largest joint damage that the removed channels of any group do; 0 where none is removed."""
    gone = {name: np.setdiff1d(np.arange(len(matrix)), kept[name]) for name, matrix in damages.items()}
    return max((float(damages[name][np.ix_(each, each)].sum()) for name, each in gone.items()), default=0.0)


def aofp(
    cost: CostModel, scores: Scores, limits: Limits, shape: Shape, damages: Callable[[], Damages] = _unmeasured
) -> dict[str, int]:
    """In every group the largest set of least important channels whose joint damage is at most θ, the same for all.

    θ follows from the limits: it is bisected to the largest one that they allow, and what room is left then goes to
    the channels that would have done the most damage. So a ladder of MACs targets is a ladder of θ.

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,); only the order within a group counts.
        limits: What the widths must keep.
        shape: Not looked at.
        damages: Measures what the channels' removal does at the next layer.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.

    References:
        After the filter-by-filter search of Ding et al. (2019), Approximated oracle filter pruning, arXiv 1905.04748.
    """
    matrices = damages()
    ranked = {}
    for name in cost.groups:
        order = np.lexsort(
            (-np.arange(len(scores[name])), scores[name])
        )  # Ties leave from the end, as `keep_best` has it.
        ranked[name] = np.empty(len(order))
        ranked[name][order] = joint_damages(matrices[name], order)
    return global_ranking(cost, ranked, limits, shape)


def learned(
    cost: CostModel, scores: Scores, limits: Limits, shape: Shape, damages: Callable[[], Damages] = _unmeasured
) -> dict[str, int]:
    """What the method decided while it trained: channels with a score of 0 or less go, and no others.

    Where that is not enough for the limits, the ranking goes on, as `global_ranking` does it; a method that decides
    nothing is ranked from the start.

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,).
        limits: What the widths must keep.
        shape: Not looked at.
        damages: Not asked for.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    widths = {}
    for name, dense, step in zip(cost.groups, cost.dense, cost.steps, strict=True):
        allowed = allowed_widths(dense, step, limits.multiple, limits.min_widths.get(name, step))
        alive = step * int((scores[name].reshape(step, -1) > 0).sum(1).max())
        widths[name] = int(allowed[min(int(np.searchsorted(allowed, alive)), len(allowed) - 1)])
    fits = cost.macs(widths) <= limits.macs and (limits.params is None or cost.params(widths) <= limits.params)
    return widths if fits else global_ranking(cost, scores, limits, shape)


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


Rule = Callable[[CostModel, Scores, Limits, Shape, Callable[[], Damages]], dict[str, int]]

RULES: Mapping[str, Rule] = {
    "uniform": uniform,
    "global": global_ranking,
    "per_group": shaped,
    "per_stage": shaped,
    "aofp": aofp,
    "learned": learned,
}
"""By name. Of two that share a function, the search knows the difference: what it samples a multiplier for."""
