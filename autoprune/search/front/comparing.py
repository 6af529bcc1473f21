"""Two fronts held against each other along a cost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoprune.config import Metric, SearchConfig
from autoprune.search.front.query import losses_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Stretch", "n_beaten", "stretches"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stretch:
    """An interval of a cost on which one of two fronts is ahead all the way.

    Args:
        low: Where it begins.
        high: Where it ends; None: nowhere.
        ahead: 0 or 1, whose best score among networks of at most that cost is better; None: they are equal.
        scores: The best score of each at the widest gap; None of one that has no network as cheap as that.
        at: The cost where the gap is widest; of equally wide ones the lowest.
    """

    low: float
    high: float | None
    ahead: int | None
    scores: tuple[float | None, float | None]
    at: float


def stretches(one: pd.DataFrame, other: pd.DataFrame, *, cost: str, metric: Metric) -> list[Stretch]:
    """Where each of two fronts is ahead: what it scores at best with networks of at most a cost, from cost to cost.

    Args:
        one: A front; has the cost and the metric as columns.
        other: The other one.
        cost: The column to go along.
        metric: Says which score is better.
    """
    costs, scores = ([each[name].to_numpy(dtype=np.float64) for each in (one, other)] for name in (cost, metric.name))
    steps = np.unique(np.concatenate(costs))
    best = [_best_within(steps, cost, score, metric) for cost, score in zip(costs, scores, strict=True)]
    lead = np.nan_to_num(best[0] - best[1]) * (1 if metric.is_maximised else -1)
    lead = np.where(np.isnan(best[1]), np.inf, np.where(np.isnan(best[0]), -np.inf, lead))
    signs = np.sign(lead)
    starts = [i for i in range(len(steps)) if i == 0 or signs[i] != signs[i - 1]]
    found = []
    for start, end in pairwise([*starts, len(steps)]):
        finite = np.where(np.isinf(lead[start:end]), -1.0, np.abs(lead[start:end]))  # a gap that has a width
        widest = start + int(np.argmax(finite))
        ahead = None if signs[start] == 0 else 0 if signs[start] > 0 else 1
        there = tuple(None if np.isnan(each[widest]) else float(each[widest]) for each in best)
        high = float(steps[end]) if end < len(steps) else None
        found.append(Stretch(float(steps[start]), high, ahead, (there[0], there[1]), float(steps[widest])))
    return found


def _best_within(steps: Floats, costs: Floats, scores: Floats, metric: Metric) -> Floats:
    """The best score of members that cost at most each step; NaN where there are none."""
    order = np.argsort(costs, kind="stable")
    accumulate = np.maximum.accumulate if metric.is_maximised else np.minimum.accumulate
    best = np.append(np.nan, accumulate(scores[order]) if len(order) else [])
    found: Floats = best[np.searchsorted(costs[order], steps, side="right")]
    return found


def n_beaten(front: pd.DataFrame, other: pd.DataFrame, search: SearchConfig) -> int:
    """How many members of a front another one beats: one of its members is nowhere worse and somewhere better."""
    points, others = (losses_of(each, search.objectives, search.directions) for each in (front, other))
    return sum(bool((np.all(others <= point, axis=1) & np.any(others < point, axis=1)).any()) for point in points)
