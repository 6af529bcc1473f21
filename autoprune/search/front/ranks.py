"""Where trials stand among each other: rank, crowding, what they contribute to the hypervolume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoprune.config import SearchConfig
from autoprune.search import pareto
from autoprune.search.front.query import corner_of, losses_of

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["with_ranks"]


def with_ranks(frame: pd.DataFrame, search: SearchConfig, *, among: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """A table of trials with where each stands.

    New columns: ``is_pareto``; ``rank``, 0 on the front, 1 on the front of what remains without it, ...; ``crowding``,
    how far its neighbours of the same rank are (`pareto.crowding_distance`); ``hv_contribution``, the share of the box
    up to the reference point that the front would lose without it, missing with more than three objectives.

    Args:
        frame: Has the objectives as columns.
        search: Says which they are.
        among: The trials that are compared, shape (T,); the others, and those without a value, have no rank.
    """
    objectives, directions = search.objectives, search.directions
    among = among & frame[list(objectives)].notna().all(axis=1).to_numpy()
    points = frame.loc[among, list(objectives)].to_numpy(dtype=np.float64)
    points = points * np.where([way == "maximize" for way in directions], -1.0, 1.0)
    ranks = pareto.non_domination_rank(points)
    crowding = np.zeros(len(points))
    order = np.argsort(ranks, kind="stable")
    for peers in np.split(order, np.flatnonzero(np.diff(ranks[order])) + 1):
        crowding[peers] = pareto.crowding_distance(points[peers])
    columns = {"rank": ranks.astype(np.float64), "crowding": crowding}
    columns["hv_contribution"] = _shares(frame[among], search)
    result = frame.copy()
    result["is_pareto"] = among
    result.loc[among, "is_pareto"] = ranks == 0
    for name, values in columns.items():
        result[name] = np.nan
        result.loc[among, name] = values
    return result


def _shares(frame: pd.DataFrame, search: SearchConfig) -> npt.NDArray[np.float64]:
    objectives, directions = search.objectives, search.directions
    if not search.has_hypervolume:
        return np.full(len(frame), np.nan)
    corner = corner_of(objectives, directions, reference_point=search.reference_point)
    return pareto.contributions(losses_of(frame, objectives, directions), corner) / float(np.prod(corner))
