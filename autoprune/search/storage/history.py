"""The trials of a study as Optuna's records, read by SQL: Optuna's own reading takes ten times as long."""

from __future__ import annotations

import gc
import json
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import StorageError
from autoprune.search.storage import schema
from autoprune.search.storage.among import among, ids_text, in_memory
from autoprune.search.storage.database import Database
from autoprune.search.storage.position import Position

__all__ = ["History", "raw_rows"]

_TRIALS, _VALUES, _PARAMS = schema.optuna_trials, schema.optuna_trial_values, schema.optuna_trial_params
# Attributes that no search asks for. A study of 50,000 trials has half a million of them.
_FOR_PEOPLE = (
    "widths", "hyper", "why", "method", "host", "node", "owner", "revision", "claimed_at", "result_key", "reason",
    "stop_reason",
)  # fmt: skip
_SOME = among(_TRIALS.c.trial_id, "ids")
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf}


class History:
    """Reads the trials of one study again and again; those that have ended are read once.

    Args:
        db: An open database.
        study_id: Optuna's id of the study.
        brief: Whether what no search asks for is left out, which is most of it: numeric parameters, which are in the
            trial's point as well, widths, who ran the trial where, and how far it is while it runs.
    """

    def __init__(self, db: Database, study_id: int, *, brief: bool = False) -> None:
        self._db, self._brief = db, brief
        self._study_id = study_id
        self._guard = threading.Lock()
        self._trials: dict[int, FrozenTrial] = {}
        self._position = Position(study_id)
        self._distribution = _memo(json_to_distribution)

    @cached_property
    def _news(self) -> _Queries:
        return _Queries(Position.CHANGED if self._brief else Position.UNFINISHED, self._db, brief=self._brief)

    @cached_property
    def _some(self) -> _Queries:
        return _Queries(_SOME, self._db, brief=self._brief)

    def read(self) -> list[FrozenTrial]:
        """All trials by number; change nothing in them, they are shared with the next call."""
        with self._guard, _uncollected():
            for trial in self._read(self._news, self._position.asked):
                self._trials[trial._trial_id] = trial
                self._position.saw(trial._trial_id, trial.state)
            # Within a study Optuna gives ids and numbers in the same order.
            return [self._trials[trial_id] for trial_id in sorted(self._trials)]

    def forget(self) -> None:
        """Read everything again: a server that was away may have lost what it had said to have."""
        with self._guard:
            self._trials, self._position = {}, Position(self._study_id)

    def take_over(self, other: History) -> None:
        """Know what another history of the same study and kind has read; it is not to be read from again."""
        with self._guard, other._guard:
            self._trials, self._position = other._trials, other._position

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
            found = self._read(self._some, {"ids": ids_text(ids)}) if ids else []
        return sorted(found, key=lambda trial: trial.number)

    def one(self, trial_id: int) -> FrozenTrial:
        """The trial with this id, which must be there, as it is now; nothing is kept of it."""
        [trial] = self._read(self._some, {"ids": ids_text([trial_id])})
        return trial

    def _read(self, queries: _Queries, asked: Mapping[str, Any]) -> list[FrozenTrial]:
        with self._db.reading() as connection:
            # The trials first: one that has ended had all the rest written before.
            trials = connection.execute(queries.trials, asked).all()
            if not trials:
                return []
            values = _by_trial(_raw(connection, queries.values, asked))
            params = _by_trial(_raw(connection, queries.params, asked))
            attrs = [_attributes(_raw(connection, query, asked)) for query in (queries.user, queries.system)]
        return [
            self._trial(row, values[row.trial_id], params[row.trial_id], *(own.get(row.trial_id, {}) for own in attrs))
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


class _Queries:
    """All that is read of some trials; built once, since to build it takes longer than to read a few trials.

    Args:
        wanted: Which trials.
        db: The database.
        brief: As for `History`.
    """

    def __init__(self, wanted: sa.ColumnElement[bool], db: Database, *, brief: bool) -> None:
        kind = sa.cast(_VALUES.c.value_type, sa.String)
        values = sa.select(_VALUES.c.trial_id, _VALUES.c.objective, _VALUES.c.value, kind)
        columns = _PARAMS.c.trial_id, _PARAMS.c.param_name, _PARAMS.c.param_value, _PARAMS.c.distribution_json
        params = sa.select(*columns).order_by(in_memory(_PARAMS.c.param_id))
        user = _attributes_by_trial(schema.optuna_trial_attributes, is_sqlite=db.is_sqlite)
        if brief:
            params = params.where(_PARAMS.c.distribution_json.contains(CategoricalDistribution.__name__))
            user = user.where(schema.optuna_trial_attributes.c.key.not_in(_FOR_PEOPLE))
        system = _attributes_by_trial(schema.optuna_trial_system_attributes, is_sqlite=db.is_sqlite)
        self.trials = sa.select(_TRIALS).where(wanted).order_by(in_memory(_TRIALS.c.trial_id))
        self.values, self.params, self.user, self.system = (
            _of_found(query, wanted) for query in (values, params, user, system)
        )


def _attributes_by_trial(table: sa.TableClause, *, is_sqlite: bool) -> sa.Select[Any]:
    """Trials with their attributes as one JSON object, which the database puts together: rows are what costs."""
    quoted = sa.func.json_quote(table.c.key) if is_sqlite else sa.cast(sa.func.to_json(table.c.key), sa.Text)
    text = sa.func.aggregate_strings(quoted + ":" + table.c.value_json, ",")
    return sa.select(table.c.trial_id, "{" + text + "}").group_by(table.c.trial_id)


def raw_rows(connection: sa.Connection, query: sa.Select[Any], where: sa.ColumnElement[bool]) -> list[Any]:
    """All rows of a query, restricted by a condition on their trials, as the database's driver gives them.

    There are hundreds of thousands of them, for which SQLAlchemy's own rows cost too much.
    """
    table = query.get_final_froms()[0]
    if table is not _TRIALS:
        query = query.select_from(_TRIALS.join(table, table.c.trial_id == _TRIALS.c.trial_id))
    return _raw(connection, query.where(where), {})


def _of_found(query: sa.Select[Any], wanted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """A query of what belongs to the few trials that a condition finds: in a join, a database may go through all."""
    table = query.get_final_froms()[0]
    return query.where(table.c.trial_id.in_(sa.select(_TRIALS.c.trial_id).where(wanted)))


def _raw(connection: sa.Connection, query: sa.Select[Any], asked: Mapping[str, Any]) -> list[Any]:
    cursor = connection.execute(query, asked).cursor
    assert cursor is not None
    return list(cursor.fetchall())


def _by_trial(rows: list[Any]) -> defaultdict[int, list[Any]]:
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def _attributes(rows: list[Any]) -> dict[int, dict[str, Any]]:
    """Attributes by trial."""
    # One call for all of them: a million calls take longer than what is read by them.
    try:
        objects = json.loads(f"[{','.join([text for _, text in rows])}]")
    except ValueError:
        objects = [_object(trial_id, text) for trial_id, text in rows]
    return {trial_id: attributes for (trial_id, _), attributes in zip(rows, objects, strict=True)}


def _object(trial_id: int, text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise StorageError(
            f"the attributes of trials must be JSON, but those of the trial with id {trial_id} are not: {error}. "
            "Somebody has changed the database; go back to a copy of it."
        ) from error
    return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector, which would go through hundreds of thousands of new objects again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
