"""The best channels of each group, and the shortest removal of the least important ones that meets the limits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel, Limits, fit
from autoprune.widths._contract import Kept, Scores

__all__ = ["keep_best", "least_important_first", "remove_least", "settled"]


def least_important_first(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The channels of one group in the order in which they leave, shape (C,); of equal ones the last leaves first.

    Args:
        scores: Shape (C,).
    """
    return np.lexsort((-np.arange(len(scores)), scores))


def keep_best(cost: CostModel, scores: Scores, widths: Mapping[str, int]) -> Kept:
    """The ``widths[group]`` best channels of each group, as sorted indices.

    Args:
        cost: Names the groups.
        scores: By group, shape (C,); higher stays.
        widths: By group.
    """
    return {
        name: np.sort(least_important_first(scores[name])[len(scores[name]) - widths[name] :]) for name in cost.groups
    }


def remove_least(cost: CostModel, scores: Scores, limits: Limits) -> dict[str, int]:
    """Rank the channels of all groups together and remove the least important until the limits are met.

    The last removal can save more than was needed: see `settled`. The channels that the smallest widths protect are
    each group's best; order is total: (score, group, rank).

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,), comparable between groups; higher stays.
        limits: Of MACs, of parameters, or of both.

    Returns:
        Width by group. Where ``multiple`` is 1, no removed channel could stay without exceeding a limit.

    Raises:
        InfeasibleError: Even the smallest widths cost more.
    """
    order = _removals(cost, scores, limits)
    dense = np.asarray(cost.dense)

    def after(n_removed: int) -> NDArray[np.int64]:
        return np.asarray(dense - np.bincount(order[:n_removed], minlength=len(dense)), dtype=np.int64)

    low, high = 0, len(order)  # Costs fall with every removal, so the shortest prefix is found by bisection.
    limits.check_reachable(cost, cost.as_mapping(after(high)))
    while low < high:
        middle = (low + high) // 2
        if limits.keeps(cost, after(middle)):
            high = middle
        else:
            low = middle + 1
    return settled(cost, after(low), removed=order[:low], limits=limits)


def settled(cost: CostModel, left: NDArray[np.int64], *, removed: NDArray[np.int64], limits: Limits) -> dict[str, int]:
    """The widths after a removal, channel by channel: the best of the removed channels that still fit come back.

    With a multiple, what is left are the proportions of a `cost.fit`: rounding each alone could exceed a limit.

    Args:
        cost: The network's cost model.
        left: Widths after the removal, within the limits, shape (G,).
        removed: The group that each removal took a channel from, as places in the model's order.
        limits: What the widths must keep.
    """
    left = _given_back(cost, left, removed, limits)
    if limits.multiple == 1:
        return cost.as_mapping(left)
    proportions = (left / np.asarray(cost.dense)).tolist()
    return fit(cost, limits, multipliers=dict(zip(cost.groups, proportions, strict=True)))


def _removals(cost: CostModel, scores: Scores, limits: Limits) -> NDArray[np.int64]:
    """The group that each removal takes a channel from, the least important first, as places in the model's order."""
    removable, groups = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for place, name in enumerate(cost.groups):
        best_first = -np.sort(-scores[name])
        removable.append(best_first[limits.min_widths.get(name, 1) :][::-1])
        groups.append(np.full(len(removable[-1]), place))
    return np.concatenate(groups)[np.argsort(np.concatenate(removable), kind="stable")]


def _given_back(
    cost: CostModel, left: NDArray[np.int64], removed: NDArray[np.int64], limits: Limits
) -> NDArray[np.int64]:
    """Widths with what still fits, the last removed channel first."""
    closed: set[int] = set()  # A group that can't grow now never can, since the others only grow.
    for group in removed[::-1].tolist():
        if group not in closed:
            left[group] += 1
            if not limits.keeps(cost, left):
                left[group] -= 1
                closed.add(group)
                if len(closed) == len(left):
                    break
    return left
