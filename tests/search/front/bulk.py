"""Thousands of trials written straight into Optuna's tables: claimed one by one they would take minutes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState

from autoprune.search.storage import Database, StudyHandle, schema


@dataclass(frozen=True)
class Row:
    """One trial; a value of None is stored as SQL's NULL."""

    state: TrialState = TrialState.COMPLETE
    values: Sequence[float | None] = ()
    params: Mapping[str, tuple[Any, BaseDistribution]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def write(db: Database, study: StudyHandle, rows: Sequence[Row]) -> None:
    """Add trials to a study."""
    with db.reading() as connection:
        tables = sa.MetaData()
        tables.reflect(connection, only=["trials", "trial_values", "trial_params", "trial_user_attributes"])
        before = connection.execute(sa.select(sa.func.max(schema.optuna_trials.c.trial_id))).scalar_one() or 0
    told = functools.cache(distribution_to_json)
    ids = range(before + 1, before + 1 + len(rows))
    tables_rows: dict[str, list[dict[str, Any]]] = {
        "trial_values": [
            {"trial_id": i, "objective": m, "value": value, "value_type": "FINITE" if value is not None else "INF_POS"}
            for i, row in zip(ids, rows, strict=True) for m, value in enumerate(row.values)
        ],
        "trial_params": [
            {"trial_id": i, "param_name": name, "distribution_json": told(distribution),
             "param_value": distribution.to_internal_repr(value)}
            for i, row in zip(ids, rows, strict=True) for name, (value, distribution) in row.params.items()
        ],
        "trial_user_attributes": [
            {"trial_id": i, "key": key, "value_json": json.dumps(value)}
            for i, row in zip(ids, rows, strict=True) for key, value in row.attrs.items()
        ],
    }  # fmt: skip
    made = [
        {"trial_id": i, "number": number, "study_id": study.study_id, "state": row.state}
        for number, (i, row) in enumerate(zip(ids, rows, strict=True))
    ]
    with db.writing() as connection:
        connection.execute(sa.insert(schema.optuna_trials), made)
        for name, some in tables_rows.items():
            if some:
                connection.execute(tables.tables[name].insert(), some)
