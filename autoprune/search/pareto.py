"""Pareto front, hypervolume and the orders made of them; everything here minimises."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from autoprune.errors import ConfigError

__all__ = [
    "contributions",
    "crowding_distance",
    "front_mask",
    "gains",
    "hypervolume",
    "non_domination_rank",
    "thin",
    "within",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_ROUNDING = 1e-12  # A ratio that was asked for can come out one rounding above.


def front_mask(points: npt.ArrayLike, minimise: Sequence[bool] | bool = True) -> Bools:
    """Which trials no other trial dominates.

    Equal trials don't dominate each other, so all of them stay. For two and three objectives one sort and one sweep,
    O(T log T); for more the trials are taken in lexicographic order, O(T · front).

    Args:
        points: Objectives of T trials, shape (T, M); a row with NaN is never on the front.
        minimise: Per objective, or for all of them; False for one that is maximised.

    Returns:
        Shape (T,).

    Example:
        >>> front_mask([[0.1, 0.9], [0.2, 0.5], [0.3, 0.6], [0.1, 0.9]]).tolist()
        [True, True, False, True]
    """
    values = _points(points)
    signs = np.where(np.broadcast_to(np.asarray(minimise), values.shape[1:]), 1.0, -1.0)
    values = values * signs + 0.0  # turns -0.0 into 0.0
    mask: Bools = np.logical_not(np.isnan(values).any(axis=1))
    rows, where = np.unique(values[mask], axis=0, return_inverse=True)
    # `unique` sorts by the first objective, then the second, ...: only an earlier row can dominate a later one.
    sweep = {2: _sweep_two, 3: _sweep_three}.get(values.shape[1], _sweep)
    keep = sweep(rows)
    mask[mask] = keep[where.reshape(-1)]
    return mask


def _sweep_two(rows: Floats) -> Bools:
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], rows[:, 1]]))[:-1]
    keep: Bools = rows[:, 1] < best_before
    keep[:1] = True  # the first row even at infinity
    return keep


class _Stairs:
    """The front of the pairs (y, z) seen so far: y ascends and z descends, so that one look-up asks all of them."""

    def __init__(self) -> None:
        self._ys: list[float] = []
        self._zs: list[float] = []

    def covers(self, y: float, z: float) -> bool:
        """Whether one of them is nowhere worse."""
        before = bisect_right(self._ys, y)
        return before > 0 and self._zs[before - 1] <= z

    def add(self, y: float, z: float) -> None:
        """Take up a pair that they don't cover."""
        first = last = bisect_left(self._ys, y)
        while last < len(self._zs) and self._zs[last] >= z:
            last += 1
        self._ys[first:last], self._zs[first:last] = [y], [z]


def _sweep_three(rows: Floats) -> Bools:
    stairs, keep = _Stairs(), np.zeros(len(rows), dtype=np.bool_)
    for i, (_, y, z) in enumerate(rows.tolist()):
        if not stairs.covers(y, z):
            keep[i] = True
            stairs.add(y, z)
    return keep


def _sweep(rows: Floats) -> Bools:
    keep = np.zeros(len(rows), dtype=np.bool_)
    front = np.empty((0, rows.shape[1]))
    for i, row in enumerate(rows):
        # Distinct rows: whatever is nowhere worse is somewhere better.
        if not np.any(np.all(front <= row, axis=1)):
            keep[i] = True
            front = np.vstack([front, row])
    return keep


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume that trials dominate up to a reference point, exact for up to three objectives.

    Args:
        points: Objectives of T trials, shape (T, M), minimised; rows with NaN, or not better than the reference in
            every objective, count 0.
        reference: Shape (M,), finite.

    Raises:
        ConfigError: Shapes that don't fit, more than three objectives, or a reference that is not finite.

    Example:
        >>> hypervolume([[1.0, 2.0], [2.0, 1.0]], [3.0, 3.0])
        3.0

    References:
        Beume, Fonseca et al. (2009), On the complexity of computing the hypervolume indicator,
        doi:10.1109/TEVC.2009.2015575; we slice along the third objective instead of keeping a balanced tree.
    """
    values, corner = _points(points), np.asarray(reference, dtype=np.float64)
    n_objectives = values.shape[1]
    if corner.shape != (n_objectives,) or not np.isfinite(corner).all() or not 1 <= n_objectives <= 3:
        raise ConfigError(
            "the hypervolume needs one to three objectives and a finite reference for each, but got "
            f"{n_objectives} objectives and reference={corner.tolist()}."
        )
    values = values[(values < corner).all(axis=1)]
    if not len(values):
        return 0.0
    values = values[front_mask(values)]
    if n_objectives == 1:
        return float(corner[0] - values.min())
    if n_objectives == 2:
        return _area(values, corner)
    heights = np.unique(values[:, 2])
    slices = pairwise([*heights, corner[2]])
    return float(sum((top - low) * _area(values[values[:, 2] <= low, :2], corner[:2]) for low, top in slices))


def _area(values: Floats, corner: Floats) -> float:
    rows = values[np.lexsort((values[:, 1], values[:, 0]))]
    floor = np.minimum.accumulate(np.concatenate([corner[1:], rows[:, 1]]))
    return float(np.sum((corner[0] - rows[:, 0]) * (floor[:-1] - floor[1:])))


def contributions(points: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """What the front would lose of its hypervolume without each of its trials; 0 for a trial off the front.

    Only the front counts: that a beaten trial would step in for a member is left out. Of equal trials each can be
    spared. For two objectives O(T log T); for three the rest of the front is cut down to what each member dominates,
    about O(front^2 log front).

    Args:
        points: Objectives of T trials, shape (T, M), minimised; see `hypervolume`.
        reference: Shape (M,), finite.

    Returns:
        Shape (T,), >= 0.

    Raises:
        ConfigError: As `hypervolume`.

    Example:
        >>> contributions([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]], [3.0, 3.0]).tolist()
        [1.0, 1.0, 0.0]

    References:
        While, Bradstreet and Barone (2012), A fast way of calculating exact hypervolumes,
        doi:10.1109/TEVC.2010.2077298: the exclusive hypervolume.
    """
    values, corner = _points(points), np.asarray(reference, dtype=np.float64)
    hypervolume(values[:0], corner)  # refuses what does not fit
    counted = np.flatnonzero((values < corner).all(axis=1))
    members = counted[front_mask(values[counted])]
    rows, where, n_equal = np.unique(values[members], axis=0, return_inverse=True, return_counts=True)
    lost = _steps(rows, corner) if len(corner) == 2 else _exclusive(rows, corner)
    found = np.zeros(len(values))
    found[members] = np.where(n_equal == 1, lost, 0.0)[where.reshape(-1)]
    return found


def _steps(rows: Floats, corner: Floats) -> Floats:
    right = np.append(rows[1:, 0], corner[0])
    above = np.concatenate([corner[1:], rows[:-1, 1]])
    area: Floats = (right - rows[:, 0]) * (above - rows[:, 1])
    return area


def _exclusive(rows: Floats, corner: Floats) -> Floats:
    lost: Floats = np.prod(corner - rows, axis=1)
    for i, row in enumerate(rows):
        lost[i] = max(0.0, lost[i] - hypervolume(np.maximum(np.delete(rows, i, axis=0), row), corner))
    return lost


def gains(points: npt.ArrayLike, front: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """What each of some points, taken alone, would add to the hypervolume of two objectives.

    O(T log T), and for each point O(log T) and the members that it passes.

    Args:
        points: Objectives of P points, shape (P, 2), minimised; one with NaN adds nothing.
        front: Those of T trials, shape (T, 2), of which the dominated don't matter; see `hypervolume`.
        reference: Shape (2,), finite.

    Returns:
        Shape (P,), >= 0.

    Raises:
        ConfigError: As `hypervolume`, or other than two objectives.

    Example:
        >>> gains([[1.0, 1.0], [2.0, 2.0]], [[0.0, 2.0], [2.0, 0.0]], [3.0, 3.0]).tolist()
        [1.0, 0.0]
    """
    asked, values, corner = _points(points), _points(front), np.asarray(reference, dtype=np.float64)
    hypervolume(values[:0], corner)  # refuses what does not fit
    if asked.shape[1] != 2 or values.shape[1] != 2:
        raise ConfigError(f"gains need two objectives, but got {asked.shape[1]} and {values.shape[1]}.")
    values = values[(values < corner).all(axis=1)]
    rows = np.unique(values[front_mask(values)], axis=0)
    xs, ys = rows[:, 0].tolist(), rows[:, 1].tolist()
    return np.array([_gain(x, y, xs, ys, corner.tolist()) for x, y in asked.tolist()], dtype=np.float64)


def _gain(x: float, y: float, xs: list[float], ys: list[float], corner: list[float]) -> float:
    """Area between a point and the steps of a front, of which ``xs`` ascend and ``ys`` descend."""
    if not (x < corner[0] and y < corner[1]):
        return 0.0
    after = bisect_right(xs, x)
    added, height = 0.0, corner[1] if after == 0 else ys[after - 1]
    for right, below in zip([*xs[after:], corner[0]], [*ys[after:], y], strict=True):
        if height <= y:
            break
        added += (height - y) * (right - x)
        x, height = right, below
    return added


def non_domination_rank(points: npt.ArrayLike) -> Ints:
    """Rank of each trial: 0 on the front, 1 on the front of what remains without it, and so on.

    The trials are taken in lexicographic order. Who is beaten by a trial of one rank is beaten by one of every rank
    before it, so the rank is found by bisection: O(T log T) for two objectives, O(T log^2 T) for three. For more, front
    after front is taken away.

    Args:
        points: Objectives of T trials, shape (T, M), minimised.

    Returns:
        Shape (T,); rows with NaN share the rank after the last.

    Example:
        >>> non_domination_rank([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0], [float("nan"), 0.0]]).tolist()
        [0, 1, 1, 2]
    """
    values = _points(points) + 0.0  # turns -0.0 into 0.0
    known = np.flatnonzero(~np.isnan(values).any(axis=1))
    rows, where = np.unique(values[known], axis=0, return_inverse=True)
    rank = {1: _ranks_of_one, 2: _ranks_of_two, 3: _ranks_of_three}.get(values.shape[1], _ranks_of_more)
    found = rank(rows)
    ranks = np.full(len(values), found.max(initial=-1) + 1, dtype=np.int64)
    ranks[known] = found[where.reshape(-1)]
    return ranks


def _ranks_of_one(rows: Floats) -> Ints:
    return np.arange(len(rows), dtype=np.int64)


def _ranks_of_two(rows: Floats) -> Ints:
    lowest: list[float] = []  # second objective of each rank's last trial, the lowest there; ascending
    ranks = []
    for y in rows[:, 1].tolist():
        rank = bisect_right(lowest, y)
        lowest[rank : rank + 1] = [y]
        ranks.append(rank)
    return np.array(ranks, dtype=np.int64)


def _ranks_of_three(rows: Floats) -> Ints:
    fronts: list[_Stairs] = []
    ranks = []
    for _, y, z in rows.tolist():
        rank, end = 0, len(fronts)
        while rank < end:
            middle = (rank + end) // 2
            if fronts[middle].covers(y, z):
                rank = middle + 1
            else:
                end = middle
        if rank == len(fronts):
            fronts.append(_Stairs())
        fronts[rank].add(y, z)
        ranks.append(rank)
    return np.array(ranks, dtype=np.int64)


def _ranks_of_more(rows: Floats) -> Ints:
    ranks, left, rank = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows)), 0
    while len(left):
        on_front = front_mask(rows[left])
        ranks[left[on_front]] = rank
        left, rank = left[~on_front], rank + 1
    return ranks


def crowding_distance(points: npt.ArrayLike) -> Floats:
    """How far each trial's neighbours are, summed over the objectives, each scaled to its range.

    Args:
        points: Objectives of T trials of one rank, shape (T, M), finite.

    Returns:
        Shape (T,), >= 0; infinite for the first and last of every objective that is not constant.

    Example:
        >>> crowding_distance([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]]).tolist()
        [inf, 2.0, inf]

    References:
        Deb et al. (2002), NSGA-II, doi:10.1109/4235.996017.
    """
    values = _points(points)
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        sorted_column = column[order]
        spread = sorted_column[-1] - sorted_column[0] if len(column) else 0.0
        if not spread > 0:
            continue
        distance[order[1:-1]] += (sorted_column[2:] - sorted_column[:-2]) / spread
        distance[order[[0, -1]]] = np.inf
    return distance


def thin(points: npt.ArrayLike, axis: int, gap: float) -> Ints:
    """A part of the front in which no two trials are nearer than ``gap`` along one objective.

    Both ends of the front stay: the walk starts at the high end of ``axis``, keeps each trial that is at least ``gap``
    below the last one kept, and the low end replaces a neighbour that is too near. Where the whole front is
    shorter than ``gap``, its high end stays: along ``axis`` a front's high end is the best of the other objective.

    Args:
        points: Objectives of T trials, shape (T, M), minimised.
        axis: The objective to measure along.
        gap: >= 0, in that objective's unit; 0 keeps the whole front.

    Returns:
        Indices into ``points``, ascending along ``axis``.

    Example:
        >>> thin([[0.0, 9.0], [0.1, 8.0], [0.5, 7.0], [1.0, 6.0]], axis=0, gap=0.4).tolist()
        [0, 2, 3]
    """
    if not gap >= 0:
        raise ConfigError(f"`gap` must be >= 0, but got gap={gap}.")
    values = _points(points)
    front = np.flatnonzero(front_mask(values))
    others = np.delete(values, axis, axis=1)[front]
    # Ascending along the axis; of equals the last is the best in the other objectives, so the walk meets it first.
    order = front[np.lexsort((-front, *(-others.T[::-1]), values[front, axis]))]
    if gap == 0 or not len(order):
        return order
    kept = [order[-1]]
    for index in order[-2::-1]:
        if values[kept[-1], axis] - values[index, axis] >= gap:
            kept.append(index)
    low = order[values[order, axis] == values[order[0], axis]][-1]
    if kept[-1] != low and len(kept) > 1:
        kept[-1] = low
    return np.array(kept[::-1], dtype=np.int64)


def within(values: npt.ArrayLike, limits: npt.ArrayLike) -> Bools:
    """Which trials keep all upper limits.

    Args:
        values: Limited facts of T trials, shape (T, L), >= 0; NaN keeps no limit.
        limits: Shape (L,), > 0.

    Returns:
        Shape (T,); all true where nothing is limited.

    Example:
        >>> within([[0.5, 900.0], [0.4, float("nan")], [0.4, 1000.0]], [0.45, 1000.0]).tolist()
        [False, False, True]
    """
    highest = np.asarray(limits, dtype=np.float64) * (1 + _ROUNDING)
    kept: Bools = np.all(_points(values) <= highest, axis=1)
    return kept


def _points(points: npt.ArrayLike) -> Floats:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2:
        raise ConfigError(f"points must have the shape (trials, objectives), but got the shape {values.shape}.")
    return values
