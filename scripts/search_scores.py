"""How good a front is, the same for every row of the bench: points are (test error, MACs ratio), both minimised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.search import pareto

REFERENCE = (0.30, 1.0)  # test error, MACs ratio: worse points count nothing
LEVELS = (0.70, 0.50, 0.35, 0.25, 0.15)  # of the MACs ratio
WORK = ("dense", "sparsify", "teacher", "recalibrate", "latency", "finetune", "scoring")  # phases that train or score

Point = tuple[float, float]


def hypervolume(points: Iterable[Point]) -> float:
    """Share of the box from 0 to `REFERENCE` that the points dominate."""
    given = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    return pareto.hypervolume(given, REFERENCE) / math.prod(REFERENCE)


def best_at(points: Iterable[Point]) -> dict[float, float | None]:
    """Best accuracy at or under each of `LEVELS`, None where there is no point."""
    given = list(points)
    under = {level: [error for error, ratio in given if ratio <= level + 1e-9] for level in LEVELS}
    return {level: 1 - min(errors) if errors else None for level, errors in under.items()}


def mean(values: Iterable[float | None]) -> float | None:
    """Their mean; None where one is missing, or all."""
    given = list(values)
    known = [value for value in given if value is not None]
    return sum(known) / len(known) if known and len(known) == len(given) else None


def over_time(ended: Iterable[tuple[float, Point]]) -> list[tuple[float, float]]:
    """The hypervolume so far, each time a trial ends.

    Args:
        ended: For each trial its end in seconds, and its point; in any order.
    """
    order = sorted(ended)
    return [(at_s, hypervolume(point for _, point in order[: i + 1])) for i, (at_s, _) in enumerate(order)]


def reached(history: Iterable[Sequence[float]], target: float) -> float | None:
    """The first moment at which `over_time` has come to a target, None if never."""
    return next((at_s for at_s, volume in history if volume >= target), None)


def busy_share(walls: Iterable[Mapping[str, Any]], *, concurrency: int, wall_s: float) -> float:
    """Share of the workers' time that went into training and scoring.

    Args:
        walls: For each trial its seconds by phase; those of `WORK` count.
        concurrency: Workers.
        wall_s: Seconds that each of them was there.
    """
    return sum(float(wall.get(phase, 0.0)) for wall in walls for phase in WORK) / (concurrency * wall_s)
