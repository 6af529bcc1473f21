"""The Pareto front of a table of trials, and what is measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from autoprune.config import Metric
from autoprune.errors import ConfigError
from autoprune.search import pareto

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["corner_of", "feasible", "front", "hypervolume_of", "losses_of", "thinned"]


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


def front(frame: pd.DataFrame, objectives: Sequence[str], directions: Sequence[str]) -> pd.DataFrame:
    """The rows of the COMPLETE trials that no other one beats, in their order; equal trials all stay.

    Args:
        frame: From ``trials_frame``.
        objectives: Columns to compare by.
        directions: ``"maximize"`` or ``"minimize"`` for each.
    """
    candidates = frame[frame["state"].to_numpy() == TrialState.COMPLETE.name]
    points = candidates[list(objectives)].to_numpy(dtype=np.float64)
    members: pd.DataFrame = candidates[pareto.front_mask(points, [way == "minimize" for way in directions])]
    return members


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
