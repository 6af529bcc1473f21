"""The trials of a study as a table, read by SQL: all of it, or the columns and rows that are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, IntDistribution, json_to_distribution
from optuna.trial import TrialState

from autoprune.search.storage import Database, StudyHandle, raw_rows, schema

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["column_names", "trials_frame"]

_TRIALS, _VALUES = schema.optuna_trials, schema.optuna_trial_values
_PARAMS, _ATTRIBUTES = schema.optuna_trial_params, schema.optuna_trial_attributes
_RENAMED = re.compile(r" #\d+$")  # how `propose` names a parameter whose list of choices has changed
_RUN = 2  # names that are looked up at a time
_MOST_IN_QUERY = 10_000  # numbers named one by one; databases take no more than some ten thousand
_IS_SCALAR = sa.func.substr(_ATTRIBUTES.c.value_json, 1, 1).not_in(["{", "["])


def trials_frame(
    db: Database,
    study: StudyHandle,
    *,
    columns: Collection[str] | None = None,
    numbers: Collection[int] | None = None,
) -> pd.DataFrame:
    """The trials of a study, one row each, in the order of their numbers; read by SQL, not through Optuna.

    Columns: ``number``; ``state``; the objectives (missing unless COMPLETE); the parameters, where ``name #2`` is the
    same column as ``name``; the user attributes that are numbers, strings or truth values. A parameter whose name is
    taken is called ``param.<name>``, an attribute ``attr.<name>``; an attribute named like an objective is left out.
    A column of whole numbers becomes one of floats where cells are missing.

    Args:
        db: An open database.
        study: One of its studies.
        columns: Of parameters and attributes, read these alone, as far as the study has them, and what is named like
            them; None: all. A study of 50,000 trials has millions of cells.
        numbers: The trials that are read; None: all. A parameter or attribute that none of them has is no column.
    """
    import pandas as pd

    of_trials = _TRIALS.c.study_id == study.study_id
    if numbers is not None and len(numbers) <= _MOST_IN_QUERY:
        of_trials = sa.and_(of_trials, _TRIALS.c.number.in_(sorted(numbers)))
    if columns is not None:
        columns = set(columns) - {"number", "state", *study.objectives}
    with db.reading() as connection:
        trials = raw_rows(
            connection, sa.select(_TRIALS.c.trial_id, _TRIALS.c.number, sa.cast(_TRIALS.c.state, sa.String)), of_trials
        )
        values = raw_rows(connection, sa.select(_VALUES.c.trial_id, _VALUES.c.objective, _VALUES.c.value), of_trials)
        params = _params(connection, of_trials, columns)
        choices = _choices(connection, params)
        attributes = _attributes(connection, of_trials, columns)
    if numbers is not None and len(numbers) > _MOST_IN_QUERY:
        trials = [row for row in trials if row[1] in numbers]
    trials.sort(key=lambda row: row[1])
    found = _base_columns(study, trials, values)
    place = {row[0]: i for i, row in enumerate(trials)} if params or attributes else {}
    taken = set(found)
    for stored, (where, cells) in _by_name(params, place).items():
        name = _free(_RENAMED.sub("", stored), taken, prefix="param.")
        found[name] = _merged(found.get(name), where, _decoded(cells, choices[stored]), n_trials=len(trials))
    taken = set(found)
    for key, (where, texts) in _by_name(attributes, place).items():
        if key not in study.objectives:
            cells = json.loads(f"[{','.join(texts)}]")  # one call for the whole column
            found[_free(key, taken, prefix="attr.")] = _merged(None, where, cells, n_trials=len(trials))
    return pd.DataFrame({name: _typed(column) for name, column in found.items()})


def column_names(db: Database, study: StudyHandle) -> list[str]:
    """The columns that the table of all trials has, without reading it."""
    of_study = _TRIALS.c.study_id == study.study_id
    with db.reading() as connection:
        params = raw_rows(connection, sa.select(_PARAMS.c.param_name).distinct(), of_study)
        keys = raw_rows(connection, sa.select(_ATTRIBUTES.c.key).distinct(), sa.and_(of_study, _IS_SCALAR))
    base = ["number", "state", *study.objectives]
    names = [_free(_RENAMED.sub("", name), base, prefix="param.") for name in sorted(name for (name,) in params)]
    taken = [*base, *dict.fromkeys(names)]
    return taken + [_free(key, taken, prefix="attr.") for (key,) in sorted(keys) if key not in study.objectives]


def _base_columns(study: StudyHandle, trials: list[Any], values: list[Any]) -> dict[str, Any]:
    """Number, state and objectives, by array: these are read of all trials however many there are."""
    states = [row[2] for row in trials]
    columns: dict[str, Any] = {
        "number": np.array([row[1] for row in trials], dtype=np.int64),
        "state": np.array(states, dtype=object),
    }
    complete = columns["state"] == TrialState.COMPLETE.name
    ids = np.array([row[0] for row in trials], dtype=np.int64)
    order = np.argsort(ids)
    cells = np.array(values, dtype=np.float64).reshape(-1, 3)  # None becomes NaN
    at = np.searchsorted(ids[order], cells[:, 0])
    at[at == len(ids)] = 0
    known = ids[order][at] == cells[:, 0] if len(ids) else np.zeros(len(cells), dtype=np.bool_)
    for i, name in enumerate(study.objectives):
        column = np.full(len(trials), np.nan)
        here = known & (cells[:, 1] == i)  # not of a trial that was claimed while we read
        column[order[at[here]]] = cells[here, 2]
        columns[name] = np.where(complete, column, np.nan)
    return columns


def _params(connection: sa.Connection, where: sa.ColumnElement[bool], columns: Collection[str] | None) -> list[Any]:
    query = sa.select(_PARAMS.c.trial_id, _PARAMS.c.param_name, _PARAMS.c.param_value)
    if columns is None:
        return raw_rows(connection, query, where)
    rows: list[Any] = []
    names, first = _bare(columns), 1
    # Whole names are looked up by an index, which beginnings are not. `name`, `name #2`, ... leave no number out.
    while names:
        last = first + _RUN - 1
        asked = [_numbered(name, number) for name in names for number in range(first, last + 1)]
        found = raw_rows(connection, query, sa.and_(where, _PARAMS.c.param_name.in_(asked)))
        met = {row[1] for row in found}
        rows, first = rows + found, last + 1
        names = [name for name in names if _numbered(name, last) in met]
    return rows


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} #{number}"


def _attributes(connection: sa.Connection, where: sa.ColumnElement[bool], columns: Collection[str] | None) -> list[Any]:
    where = sa.and_(where, _IS_SCALAR)
    if columns is not None:
        if not columns:
            return []
        where = sa.and_(where, _ATTRIBUTES.c.key.in_(_bare(columns)))
    return raw_rows(connection, sa.select(_ATTRIBUTES.c.trial_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json), where)


def _bare(columns: Collection[str]) -> list[str]:
    """Names under which what makes these columns may be stored."""
    prefixes = ("", "param.", "attr.")
    return sorted({name.removeprefix(prefix) for name in columns for prefix in prefixes})


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
