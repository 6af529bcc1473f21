"""The trials of a study as Optuna's records, read by SQL: Optuna's own reading takes ten times as long."""

from __future__ import annotations

import json
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.storage import schema
from autoprune.search.storage.database import Database

__all__ = ["History", "raw_rows"]

_TRIALS, _VALUES, _PARAMS = schema.optuna_trials, schema.optuna_trial_values, schema.optuna_trial_params
_WIDTHS = "widths"
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf}


class History:
    """Reads the trials of one study again and again; those that have ended are read once.

    Args:
        db: An open database.
        study_id: Optuna's id of the study.
        brief: Whether what only people ask for is left out, which is most of it: numeric parameters, which are in the
            trial's point as well, and widths.
    """

    def __init__(self, db: Database, study_id: int, *, brief: bool = False) -> None:
        self._db, self._brief = db, brief
        self._study_id = study_id
        self._guard = threading.Lock()
        self._trials: dict[int, FrozenTrial] = {}
        self._open: set[int] = set()
        self._distribution = _memo(json_to_distribution)

    def read(self) -> list[FrozenTrial]:
        """All trials by number; change nothing in them, they are shared with the next call."""
        with self._guard:
            for trial in self._read(self._news()):
                trial_id = trial._trial_id
                self._trials[trial_id] = trial
                (self._open.discard if trial.state.is_finished() else self._open.add)(trial_id)
            # Within a study Optuna gives ids and numbers in the same order.
            return [self._trials[trial_id] for trial_id in sorted(self._trials)]

    def some(
        self, *, numbers: Collection[int] | None = None, states: Collection[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of these numbers or states, by number; they alone are read, and nothing is kept of them."""
        asked = [_TRIALS.c.study_id == self._study_id]
        if numbers is not None:
            asked.append(_TRIALS.c.number.in_(sorted(numbers)))
        if states is not None:
            asked.append(_TRIALS.c.state.in_(list(states)))
        with self._guard:
            # By their ids, so that parameters and attributes are looked up rather than gone through.
            with self._db.reading() as connection:
                ids = connection.execute(sa.select(_TRIALS.c.trial_id).where(*asked)).scalars().all()
            found = self._read(_TRIALS.c.trial_id.in_(ids)) if ids else []
        return sorted(found, key=lambda trial: trial.number)

    def _news(self) -> sa.ColumnElement[bool]:
        known = max(self._trials, default=0)
        is_new = sa.or_(_TRIALS.c.trial_id > known, _TRIALS.c.trial_id.in_(sorted(self._open)))
        return sa.and_(_TRIALS.c.study_id == self._study_id, is_new)

    def _read(self, wanted: sa.ColumnElement[bool]) -> list[FrozenTrial]:
        kind = sa.cast(_VALUES.c.value_type, sa.String)
        value = sa.select(_VALUES.c.trial_id, _VALUES.c.objective, _VALUES.c.value, kind)
        columns = _PARAMS.c.trial_id, _PARAMS.c.param_name, _PARAMS.c.param_value, _PARAMS.c.distribution_json
        param = sa.select(*columns).order_by(_PARAMS.c.param_id)
        user, system = (
            sa.select(table.c.trial_id, table.c.key, table.c.value_json)
            for table in (schema.optuna_trial_attributes, schema.optuna_trial_system_attributes)
        )
        if self._brief:
            param = param.where(_PARAMS.c.distribution_json.contains(CategoricalDistribution.__name__))
            user = user.where(schema.optuna_trial_attributes.c.key != _WIDTHS)
        with self._db.reading() as connection:
            # The trials first: one that has ended had all the rest written before.
            trials = connection.execute(sa.select(_TRIALS).where(wanted)).all()
            values = _by_trial(raw_rows(connection, value, wanted))
            params = _by_trial(raw_rows(connection, param, wanted))
            attrs = [_attributes(raw_rows(connection, query, wanted)) for query in (user, system)]
        return [
            self._trial(row, values[row.trial_id], params[row.trial_id], *(found[row.trial_id] for found in attrs))
            for row in trials
        ]

    def _trial(
        self, row: Any, values: list[Any], params: list[Any], user: dict[str, Any], system: dict[str, Any]
    ) -> FrozenTrial:
        distributions: dict[str, BaseDistribution] = {}
        external: dict[str, Any] = {}
        for _, name, value, text in params:
            distributions[name] = distribution = self._distribution(text)
            external[name] = distribution.to_external_repr(value)
        goals = {objective: _INFINITE.get(kind, value) for _, objective, value, kind in values}
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[goals[i] for i in sorted(goals)] if goals and row.state.is_finished() else None,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=external,
            distributions=distributions,
            user_attrs=user,
            system_attrs=system,
            intermediate_values={},  # Optuna has none for more than one objective
            trial_id=row.trial_id,
        )


def raw_rows(connection: sa.Connection, query: sa.Select[Any], where: sa.ColumnElement[bool]) -> list[Any]:
    """All rows of a query, restricted by a condition on their trials, as the database's driver gives them.

    There are hundreds of thousands of them, for which SQLAlchemy's own rows cost too much.
    """
    table = query.get_final_froms()[0]
    if table is not _TRIALS:
        query = query.select_from(_TRIALS.join(table, table.c.trial_id == _TRIALS.c.trial_id))
    cursor = connection.execute(query.where(where)).cursor
    assert cursor is not None
    return list(cursor.fetchall())


def _by_trial(rows: list[Any]) -> defaultdict[int, list[Any]]:
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def _attributes(rows: list[Any]) -> defaultdict[int, dict[str, Any]]:
    """Attributes by trial."""
    found: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    # One call for all of them: a million calls take longer than what is read by them.
    cells = json.loads(f"[{','.join([text for _, _, text in rows])}]")
    for (trial_id, key, _), cell in zip(rows, cells, strict=True):
        found[trial_id][key] = cell
    return found


def _memo(make: Callable[[str], BaseDistribution]) -> Callable[[str], BaseDistribution]:
    made: dict[str, BaseDistribution] = {}

    def get(text: str) -> BaseDistribution:
        if text not in made:
            made[text] = make(text)
        return made[text]

    return get


def _local(stored: datetime | None) -> datetime | None:
    """Optuna stores naive UTC and shows naive local time."""
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
