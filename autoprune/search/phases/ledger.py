"""The ledger of shared phases: who computes which result, and where a finished one lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import Database, schema
from autoprune.search.trials import Attr

__all__ = ["PhasePlace", "PhaseRows"]

_TABLE = schema.phases


@dataclass(frozen=True)
class PhasePlace:
    """A finished result: which, where, and how to tell that it is whole."""

    key: str
    kind: str
    place: str
    sha256: str
    size_bytes: int
    used_at: float


class PhaseRows:
    """Rows of results that several trials share, such as dense training.

    Each method is one transaction. Two workers that compute the same result by mistake waste work, no more: the
    files are immutable, and of two that are published at one place the first one stays.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def claim(self, key: str, kind: str, *, owner: str, grace_s: float) -> Literal["ready", "mine", "busy"]:
        """Ask for a result: use it, compute it, or come back later.

        Args:
            key: Hash of everything that the result depends on.
            kind: What it is, such as ``"dense"``.
            owner: Who would compute it.
            grace_s: Seconds without a beat after which ``owner`` may be replaced.

        Returns:
            ``"ready"``: it lies in the cache; ``"mine"``: compute it and ``publish`` it; ``"busy"``: another
            owner is at it.
        """
        now = self._db.now()
        row = {"kind": kind, "owner": owner, "expires_at": now + grace_s, "used_at": now}
        with self._db.writing() as connection:
            # Insert, or else take what nobody works at; the row decides, so two claims at once get one answer each.
            if self._db.insert_new(connection, _TABLE, {"key": key, "created_at": now, **row}):
                return "mine"
            free = sa.or_(_TABLE.c.owner == owner, _TABLE.c.expires_at <= now)
            mine = sa.update(_TABLE).where(_TABLE.c.key == key, _TABLE.c.place.is_(None), free)
            if connection.execute(mine.values(**row)).rowcount:
                return "mine"
            ready = sa.update(_TABLE).where(_TABLE.c.key == key, _TABLE.c.place.is_not(None))
            return "ready" if connection.execute(ready.values(used_at=now)).rowcount else "busy"

    def beat(self, key: str, owner: str, *, grace_s: float) -> bool:
        """Say that ``owner`` is still computing; False when it has been replaced or somebody published."""
        mine = sa.and_(_TABLE.c.key == key, _TABLE.c.owner == owner, _TABLE.c.place.is_(None))
        expires_at = self._db.now() + grace_s
        with self._db.writing() as connection:
            return connection.execute(sa.update(_TABLE).where(mine).values(expires_at=expires_at)).rowcount == 1

    def publish(self, key: str, *, kind: str, owner: str, place: str, sha256: str, size_bytes: int) -> bool:
        """Say where a result lies, whole and unchanging.

        Whoever says so has just read the file, so the last word counts: a damaged result is computed anew under the
        same key, and one that nobody had claimed is entered all the same.

        Returns:
            Whether this is news: the ledger knew no such result.
        """
        now = self._db.now()
        result = {"place": place, "sha256": sha256, "size_bytes": size_bytes}
        row = {"kind": kind, "owner": owner, "expires_at": now, "used_at": now, **result}
        with self._db.writing() as connection:
            if self._db.insert_new(connection, _TABLE, {"key": key, "created_at": now, **row}):
                return True
            columns = [_TABLE.c[name] for name in result]
            known = connection.execute(sa.select(*columns).where(_TABLE.c.key == key)).mappings().one()
            connection.execute(sa.update(_TABLE).where(_TABLE.c.key == key).values(**row))
        return dict(known) != result

    def give_up(self, key: str, owner: str) -> None:
        """Let another one compute what ``owner`` has not published; nothing happens where it holds no lease."""
        mine = sa.and_(_TABLE.c.key == key, _TABLE.c.owner == owner, _TABLE.c.place.is_(None))
        with self._db.writing() as connection:
            connection.execute(sa.delete(_TABLE).where(mine))

    def forget(self, key: str) -> None:
        """Delete a row, because its file is gone or damaged; the next ``claim`` computes it anew."""
        with self._db.writing() as connection:
            connection.execute(sa.delete(_TABLE).where(_TABLE.c.key == key))

    def in_use(self) -> set[str]:
        """Keys of the results that trials which run or wait, of any study of this database, start from."""
        trials, attributes = schema.optuna_trials, schema.optuna_trial_attributes
        query = (
            sa.select(attributes.c.value_json)
            .join(trials, attributes.c.trial_id == trials.c.trial_id)
            .where(attributes.c.key == Attr.PHASE, trials.c.state.in_([TrialState.RUNNING, TrialState.WAITING]))
        )
        with self._db.reading() as connection:
            return {json.loads(text) for text in connection.execute(query.distinct()).scalars()}

    def by_last_use(self) -> list[PhasePlace]:
        """Every finished result, the one longest unused first."""
        with self._db.reading() as connection:
            query = sa.select(_TABLE).where(_TABLE.c.place.is_not(None)).order_by(_TABLE.c.used_at, _TABLE.c.key)
            return [_place(row) for row in connection.execute(query)]


def _place(row: Any) -> PhasePlace:
    return PhasePlace(**{name: getattr(row, name) for name in PhasePlace.__dataclass_fields__})
