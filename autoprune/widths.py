"""Width rules: from scores and a MACs target to the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel
from autoprune.errors import InfeasibleError
from autoprune.inverse import fit

__all__ = ["RULES", "Kept", "Scores", "global_ranking", "keep_best", "uniform"]

Scores = Mapping[str, NDArray[np.float64]]
Kept = dict[str, NDArray[np.int64]]


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


def uniform(
    cost: CostModel, scores: Scores, *, macs: float, min_widths: Mapping[str, int], multiple: int = 1
) -> dict[str, int]:
    """One keep ratio for all groups, as large as the target allows.

    Args:
        cost: The network's cost model.
        scores: Not looked at; every rule has the same arguments.
        macs: Upper bound of the pruned network's MACs.
        min_widths: Smallest width by group.
        multiple: Widths are multiples of it; see `inverse.fit`.

    Returns:
        Width by group.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    return fit(cost, macs=macs, min_widths=min_widths, multiple=multiple)


def global_ranking(
    cost: CostModel, scores: Scores, *, macs: float, min_widths: Mapping[str, int], multiple: int = 1
) -> dict[str, int]:
    """Rank the channels of all groups together and remove the least important until the target is met.

    The last removal can save more than was needed; then the best of the removed channels that still fit come back. The
    channels that `min_widths` protects are each group's best; order is total: (score, group, rank). With a multiple,
    the widths that the ranking leaves are the shape of a `inverse.fit`: rounding each alone could exceed the target.

    Args:
        cost: The network's cost model.
        scores: By group, shape (C,), comparable between groups; higher stays.
        macs: Upper bound of the pruned network's MACs.
        min_widths: Smallest width by group.
        multiple: Widths are multiples of it; see `inverse.fit`.

    Returns:
        Width by group. Where ``multiple`` is 1, no removed channel could stay without exceeding the target.

    Raises:
        InfeasibleError: Even the minimum widths cost more.
    """
    unit_scores, unit_groups = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for index, (name, width, step) in enumerate(zip(cost.groups, cost.dense, cost.steps, strict=True)):
        ranked = -np.sort(-scores[name].reshape(step, -1), axis=1)
        units = ranked.mean(0)  # One unit is the r-th best channel of every segment; they go together.
        protected = -(-min_widths.get(name, step) // step)
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

    low, high = 0, len(order)  # MACs fall with every removal, so the shortest prefix is found by bisection.
    if cost.macs(after(high)[None])[0] > macs:
        reachable = cost.macs(after(high)[None])[0] / cost.dense_macs
        least = math.ceil(1e4 * reachable) / 1e4  # Rounded up: the number told must do.
        raise InfeasibleError(
            f"`macs_target` must be at least {least:.4f}, the minimum widths' share of the dense MACs, "
            f"but got {macs / cost.dense_macs:.4f}. Raise it or lower `min_width`."
        )
    while low < high:
        middle = (low + high) // 2
        if cost.macs(after(middle)[None])[0] <= macs:
            high = middle
        else:
            low = middle + 1
    left = after(low)
    closed: set[int] = set()  # A group that can't grow now never can, since the others only grow.
    for group in groups[order[:low]][::-1].tolist():
        if group not in closed:
            left[group] += steps[group]
            if cost.macs(left[None])[0] > macs:
                left[group] -= steps[group]
                closed.add(group)
                if len(closed) == len(dense):
                    break
    if multiple == 1:
        return cost.as_mapping(left)
    shape = dict(zip(cost.groups, (left / dense).tolist(), strict=True))
    return fit(cost, macs=macs, shape=shape, min_widths=min_widths, multiple=multiple)


RULES: Mapping[str, Callable[..., dict[str, int]]] = {"uniform": uniform, "global": global_ranking}
