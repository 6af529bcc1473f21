"""The Pareto front of a table of trials, and what is measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from autoprune.config import COSTS, Metric
from autoprune.errors import ConfigError, unknown_name
from autoprune.search import pareto
from autoprune.search.front.table import WHOLE
from autoprune.search.front.where import rows_where

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["corner_of", "feasible", "front", "hypervolume_of", "losses_of", "thinned"]

_NO_LIMITS: Mapping[str, float] = {}


def feasible(frame: pd.DataFrame, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Which trials keep all limits; one that lacks a limited value, as each does before it is complete, does not.

    Args:
        frame: From ``trials_frame``.
        limits: Largest value allowed, by column.

    Returns:
        Shape (T,).
    """
    facts = frame.reindex(columns=list(limits)).to_numpy(dtype=np.float64)
    return pareto.within(facts, list(limits.values()))


def front(
    frame: pd.DataFrame,
    objectives: Sequence[str],
    directions: Sequence[str],
    *,
    limits: Mapping[str, float] = _NO_LIMITS,
    where: str | None = None,
    sort: str | None = None,
) -> pd.DataFrame:
    """The Pareto front of the COMPLETE trials that keep the limits and satisfy a condition; equal trials all stay.

    Args:
        frame: From ``trials_frame``.
        objectives: Columns to compare by.
        directions: ``"maximize"`` or ``"minimize"`` for each.
        limits: What every trial must keep (``feasible``).
        where: A condition on the columns (``rows_where``). It picks the trials before they are compared, as the limits
            do.
        sort: A column, best first: a maximised objective descends, all else ascends. By default the first cost.

    Raises:
        ConfigError: ``where`` or ``sort`` can't be understood.
    """
    maximised = {name for name, way in zip(objectives, directions, strict=True) if way == "maximize"}
    if sort is None:
        sort = next((name for name in objectives if name in COSTS), objectives[0])
    for name in (*objectives, sort):
        if name not in frame.columns:
            raise ConfigError(f"in `sort`, {unknown_name('column', name, frame.columns)}")
    rows = (frame["state"].to_numpy() == TrialState.COMPLETE.name) & feasible(frame, limits)
    if where is not None:
        rows &= rows_where(frame, where)
    candidates = frame[rows]
    minimise = [name not in maximised for name in objectives]
    points = candidates[list(objectives)].to_numpy(dtype=np.float64)
    found = candidates[pareto.front_mask(points, minimise)]
    found = found.sort_values([sort, "number"], ascending=[sort not in maximised, True]).reset_index(drop=True)
    whole = [name for name in frame.attrs.get(WHOLE, []) if found[name].notna().all()]
    result: pd.DataFrame = found.astype(dict.fromkeys(whole, np.int64))
    return result


def thinned(frame: pd.DataFrame, axis: str, metric: Metric, *, gap: float) -> pd.DataFrame:
    """Rows of which no two are nearer than ``gap`` along one column, both ends kept.

    Args:
        frame: A front.
        axis: The minimised column to measure along.
        metric: Its column decides which of two near rows stays.
        gap: >= 0, in the unit of ``axis``.
    """
    scores = frame[metric.name].to_numpy(dtype=np.float64)
    losses = -scores if metric.is_maximised else scores
    points = np.column_stack([frame[axis].to_numpy(dtype=np.float64), losses])
    return frame.iloc[np.sort(pareto.thin(points, axis=0, gap=gap))].reset_index(drop=True)


def hypervolume_of(
    frame: pd.DataFrame, objectives: Sequence[str], directions: Sequence[str], *, reference_point: Mapping[str, float]
) -> float:
    """What trials dominate up to the reference point, as a share of the box between it and the ideal.

    The ideal is 1 for a maximised objective and 0 for a minimised one.

    Args:
        frame: Trials or a front.
        objectives: Columns.
        directions: ``"maximize"`` or ``"minimize"`` for each.
        reference_point: By objective, worse than the ideal.

    Raises:
        ConfigError: A reference that is not worse than the ideal.
    """
    corner = corner_of(objectives, directions, reference_point=reference_point)
    return pareto.hypervolume(losses_of(frame, objectives, directions), corner) / float(np.prod(corner))


def losses_of(frame: pd.DataFrame, objectives: Sequence[str], directions: Sequence[str]) -> npt.NDArray[np.float64]:
    """The objectives of trials as losses, 0 for the ideal, shape (T, M)."""
    points = frame[list(objectives)].to_numpy(dtype=np.float64)
    return np.where([way == "maximize" for way in directions], 1 - points, points)


def corner_of(
    objectives: Sequence[str], directions: Sequence[str], *, reference_point: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """The reference point as losses, shape (M,).

    Raises:
        ConfigError: It is not worse than the ideal.
    """
    worst = np.array([reference_point[name] for name in objectives], dtype=np.float64)
    corner = np.where([way == "maximize" for way in directions], 1 - worst, worst)
    if not (corner > 0).all():
        raise ConfigError(
            "`reference_point` must be worse than 1 for maximised and than 0 for minimised objectives, but got "
            f"{ {name: reference_point[name] for name in objectives} }."
        )
    return corner
