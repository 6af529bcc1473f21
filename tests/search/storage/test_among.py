"""Any number of ids as one parameter, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from autoprune.search.storage import Database, among, ids_text, schema


@pytest.mark.parametrize("ids", [[], [3], [1, 3, 5], list(range(2, 100_000))])
def test_what_is_named_is_found(db: Database, ids: list[int]) -> None:
    table = sa.Table("among_ids", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    with db.writing() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{"id": each} for each in range(1, 7)])
        query = sa.select(table.c.id).where(sa.or_(table.c.id < 0, among(table.c.id, "ids"))).order_by(table.c.id)
        found = list(connection.execute(query, {"ids": ids_text(ids)}).scalars())
        table.drop(connection)
    assert found == [each for each in range(1, 7) if each in set(ids)]


def test_rows_are_looked_up_by_their_key(db: Database) -> None:
    trials = schema.optuna_trials
    query = sa.select(trials.c.state).where(sa.or_(trials.c.trial_id > 100_000, among(trials.c.trial_id, "ids")))
    explain = "EXPLAIN QUERY PLAN" if db.is_sqlite else "EXPLAIN"
    with db.writing() as connection:
        if not db.is_sqlite:  # It would read a small table as a whole.
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        compiled = query.compile(dialect=connection.dialect)
        values = compiled.construct_params({"ids": ids_text([1, 2])})
        asked = tuple(values[name] for name in compiled.positiontup or ()) or values
        plan = "\n".join(map(str, connection.exec_driver_sql(f"{explain} {compiled}", asked)))
    assert ("INTEGER PRIMARY KEY" in plan) if db.is_sqlite else ("trials_pkey" in plan and "Seq Scan" not in plan), plan
