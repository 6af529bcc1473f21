"""A few members out of a front: its knee, and those that say most of it."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from autoprune.search import pareto

__all__ = ["knee", "spread"]

Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-12


def knee(points: Floats) -> int | None:
    """The member from which a step along the front costs most: the farthest below the chord between the ends.

    Every objective is scaled to its range on the front, so that the chord runs from (0, 1) to (1, 0) and the distance
    is ``(1 - sum(x)) / sqrt(2)``. With more objectives the plane through the unit points takes the place of the chord.

    Args:
        points: Objectives of the members, shape (T, M), minimised.

    Returns:
        Index of the member; None where no member lies below the chord.

    Example:
        >>> knee(np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 0.0]]))
        1

    References:
        Das (1999), On characterizing the "knee" of the Pareto curve based on normal-boundary intersection,
        doi:10.1007/BF01195985; for three objectives and more his plane goes through the best point of each objective,
        ours through the unit points, which never coincide.
    """
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    below = 1.0 - scaled.sum(axis=1)
    best = int(np.argmax(below))
    return best if below[best] > _ROUNDING else None


def spread(points: Floats, corner: Floats, n: int) -> list[int]:
    """The members that together keep most of the hypervolume, found one by one: each adds most to those before it.

    What is found keeps at least 1 - 1/e of what the best ``n`` members would keep, since a member adds the less the
    more there are.

    Args:
        points: Objectives of the members, shape (T, M), minimised.
        corner: The reference point, shape (M,).
        n: How many, >= 1; fewer are found where no other member adds anything.

    Returns:
        Their indices, ascending.

    References:
        Guerreiro, Fonseca and Paquete (2016), Greedy hypervolume subset selection in low dimensions,
        doi:10.1162/EVCO_a_00188; Minoux (1978) for asking again only who may still be the best.
    """
    inside = (points < corner).all(axis=1)
    boxes = np.where(inside, np.prod(np.maximum(corner - points, 0.0), axis=1), 0.0)
    waiting = [(-box, index, 0) for index, box in enumerate(boxes.tolist()) if box > 0]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while waiting and len(chosen) < n:
        _, index, n_known = heapq.heappop(waiting)
        if n_known == len(chosen):
            chosen.append(index)
            continue
        kept = np.maximum(points[chosen], points[index])  # What of its box the chosen ones have already.
        adds = boxes[index] - pareto.hypervolume(kept, corner)
        if adds > _ROUNDING * boxes[index]:
            heapq.heappush(waiting, (-adds, index, len(chosen)))
    return sorted(chosen)
