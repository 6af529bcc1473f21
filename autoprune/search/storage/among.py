"""A condition that names any number of rows by their ids, which go to the database as one value.

A list of parameters takes longer to be put together than the database takes to answer, and no database takes any
number of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["among", "ids_text", "in_memory"]


class _Among(FunctionElement[bool]):
    name = "among"
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> _Among:
        # Else it is compared with 1 where a database has no truth values, and no index is looked into.
        return self


def among(column: sa.ColumnElement[int], ids: str) -> sa.ColumnElement[bool]:
    """Whether a column is one of some ids.

    Args:
        column: Of whole numbers.
        ids: Name of the parameter that is to be their `ids_text`.
    """
    return _Among(column, sa.bindparam(ids, type_=sa.Text()))


def ids_text(ids: Iterable[int]) -> str:
    """Ids as the parameter that `among` asks for."""
    return json.dumps(list(ids))


def in_memory(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """A column to order or choose by among what was found; an index on it would lead a database through all rows.

    Args:
        column: Of whole numbers.
    """
    return column + 0


def _parts(element: _Among, compiler: SQLCompiler, **more: Any) -> list[str]:
    return [compiler.process(each, **more) for each in element.clauses]


@compiles(_Among, "sqlite")
def _for_sqlite(element: _Among, compiler: SQLCompiler, **more: Any) -> str:
    column, ids = _parts(element, compiler, **more)
    return f"({column} IN (SELECT value FROM json_each({ids})))"


@compiles(_Among, "postgresql")
def _for_postgresql(element: _Among, compiler: SQLCompiler, **more: Any) -> str:
    column, ids = _parts(element, compiler, **more)
    # A subquery that refers to no row is answered once; a cast would be made again for each row that is looked at.
    listed = f"SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST({ids} AS JSON))"
    return f"({column} = ANY (ARRAY({listed})))"
