"""What is asked of a study: all its trials as a table, and the Pareto front of those that satisfy a condition."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, IntDistribution, json_to_distribution
from optuna.trial import TrialState

from autoprune.config import COSTS, Metric
from autoprune.errors import ConfigError, unknown_name
from autoprune.search import pareto
from autoprune.search.front.where import rows_where
from autoprune.search.storage import Database, StudyHandle, raw_rows, schema

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["feasible", "front", "hypervolume_of", "thinned", "trials_frame"]

_TRIALS, _VALUES = schema.optuna_trials, schema.optuna_trial_values
_PARAMS, _ATTRIBUTES = schema.optuna_trial_params, schema.optuna_trial_attributes
_RENAMED = re.compile(r" #\d+$")  # how `propose` names a parameter whose list of choices has changed
_NO_LIMITS: Mapping[str, float] = {}
_WHOLE = "autoprune:whole"  # which float columns hold integers, some of them missing


def trials_frame(db: Database, study: StudyHandle) -> pd.DataFrame:
    """Every trial of a study, one row each, in the order of their numbers; read by SQL, not through Optuna.

    Columns: ``number``; ``state``; the objectives (missing unless COMPLETE); the parameters, where ``name #2`` is the
    same column as ``name``; the user attributes that are numbers, strings or truth values. A parameter whose name is
    taken is called ``param.<name>``, an attribute ``attr.<name>``; an attribute named like an objective is left out.
    A column of whole numbers becomes one of floats where cells are missing.

    Args:
        db: An open database.
        study: One of its studies.
    """
    import pandas as pd

    of_study = _TRIALS.c.study_id == study.study_id
    with db.reading() as connection:
        trials = raw_rows(
            connection, sa.select(_TRIALS.c.trial_id, _TRIALS.c.number, sa.cast(_TRIALS.c.state, sa.String)), of_study
        )
        values = raw_rows(connection, sa.select(_VALUES.c.trial_id, _VALUES.c.objective, _VALUES.c.value), of_study)
        params = raw_rows(
            connection, sa.select(_PARAMS.c.trial_id, _PARAMS.c.param_name, _PARAMS.c.param_value), of_study
        )
        choices = _choices(connection, params)
        scalar = sa.func.substr(_ATTRIBUTES.c.value_json, 1, 1).not_in(["{", "["])
        attributes = raw_rows(
            connection,
            sa.select(_ATTRIBUTES.c.trial_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json),
            sa.and_(of_study, scalar),
        )
    trials.sort(key=lambda row: row[1])
    place = {row[0]: i for i, row in enumerate(trials)}
    states = [row[2] for row in trials]
    columns: dict[str, Any] = {
        "number": np.array([row[1] for row in trials], dtype=np.int64),
        "state": np.array(states, dtype=object),
    }
    complete = np.array([state == TrialState.COMPLETE.name for state in states], dtype=np.bool_)
    for i, name in enumerate(study.objectives):
        column = np.full(len(trials), np.nan)
        cells = [(place[row[0]], row[2]) for row in values if row[1] == i and row[0] in place]
        if cells:
            column[[at for at, _ in cells]] = [np.nan if value is None else value for _, value in cells]
        columns[name] = np.where(complete, column, np.nan)
    taken = set(columns)
    for stored, (where, numbers) in _by_name(params, place).items():
        name = _free(_RENAMED.sub("", stored), taken, prefix="param.")
        cells = _decoded(numbers, choices[stored])
        columns[name] = _merged(columns.get(name), where, cells, n_trials=len(trials))
    taken = set(columns)
    for key, (where, texts) in _by_name(attributes, place).items():
        if key not in study.objectives:
            cells = json.loads(f"[{','.join(texts)}]")  # one call for the whole column
            columns[_free(key, taken, prefix="attr.")] = _merged(None, where, cells, n_trials=len(trials))
    frame = pd.DataFrame({name: _typed(column) for name, column in columns.items()})
    frame.attrs[_WHOLE] = [name for name, column in columns.items() if _kinds(column) == {int, type(None)}]
    return frame


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
    whole = [name for name in frame.attrs.get(_WHOLE, []) if found[name].notna().all()]
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
    worst = np.array([reference_point[name] for name in objectives], dtype=np.float64)
    points = frame[list(objectives)].to_numpy(dtype=np.float64)
    maximised = np.array([way == "maximize" for way in directions])
    worst, points = np.where(maximised, 1 - worst, worst), np.where(maximised, 1 - points, points)
    if not (worst > 0).all():
        raise ConfigError(
            "`reference_point` must be worse than 1 for maximised and than 0 for minimised objectives, but got "
            f"{ {name: reference_point[name] for name in objectives} }."
        )
    return pareto.hypervolume(points, worst) / float(np.prod(worst))


def _choices(connection: sa.Connection, params: list[Any]) -> dict[str, Any]:
    """The distribution of each parameter; Optuna sees to it that within a study a name keeps its kind and choices."""
    one_of = {name: trial_id for trial_id, name, _ in params}
    found = {}
    for name, trial_id in one_of.items():
        query = sa.select(_PARAMS.c.distribution_json).where(
            _PARAMS.c.trial_id == trial_id, _PARAMS.c.param_name == name
        )
        found[name] = json_to_distribution(connection.execute(query).scalar_one())
    return found


def _by_name(rows: list[Any], place: Mapping[int, int]) -> dict[str, tuple[list[int], list[Any]]]:
    """Rows (trial_id, name, cell) by name, in the order of the names: the trials' places, and the cells."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for trial_id, name, cell in rows:
        at = place.get(trial_id)
        if at is None:  # a trial that was claimed while we read
            continue
        if name not in found:
            found[name] = ([], [])
        where, cells = found[name]
        where.append(at)
        cells.append(cell)
    return dict(sorted(found.items()))


def _free(name: str, taken: Iterable[str], *, prefix: str) -> str:
    return f"{prefix}{name}" if name in taken else name


def _decoded(numbers: list[float], distribution: Any) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return [distribution.choices[int(number)] for number in numbers]
    return [int(number) for number in numbers] if isinstance(distribution, IntDistribution) else numbers


def _merged(column: npt.NDArray[Any] | None, where: list[int], cells: list[Any], *, n_trials: int) -> npt.NDArray[Any]:
    if column is None:
        column = np.full(n_trials, None, dtype=object)
    for at, cell in zip(where, cells, strict=True):
        column[at] = cell
    return column


def _typed(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of numbers as numbers, a column of anything else as it is."""
    kinds = _kinds(column)
    if kinds == {int}:
        return column.astype(np.int64)
    if kinds == {bool}:
        return column.astype(np.bool_)
    if kinds & {int, float} and kinds <= {int, float, type(None)}:
        return column.astype(np.float64)  # None becomes NaN
    return column


def _kinds(column: npt.NDArray[Any]) -> set[type]:
    return {type(cell) for cell in column} if column.dtype == object else set()
