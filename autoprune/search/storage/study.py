"""A study in the database: who it is, how it is configured now, and who drives it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import ConfigError, IdentityError, StorageError, unknown_name
from autoprune.search.storage import schema
from autoprune.search.storage.counts import Counts, count
from autoprune.search.storage.database import Database
from autoprune.search.storage.history import History
from autoprune.search.storage.quiet import quiet

__all__ = ["DriverRow", "StudyHandle", "StudyRow", "list_studies"]

_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}
# Where Optuna's `set_metric_names` writes; that method itself warns that it is experimental.
_METRIC_NAMES = "study:metric_names"
_NAME_LENGTH = 200
_ABSENT = object()


@dataclass(frozen=True)
class StudyRow:
    """One line of the list of studies."""

    name: str
    n_finished: int
    n_running: int
    n_failed: int
    created_at: float


@dataclass(frozen=True)
class DriverRow:
    """One driver of a study; times are the database's seconds."""

    owner: str
    host: str
    pid: int
    started_at: float
    seen_at: float
    left_at: float | None


class StudyHandle:
    """One study of one database, as it was when this record was opened.

    ``config`` and ``revision`` are those of that moment: a driver runs on under the revision that it started with,
    even when another driver has added a newer one.
    """

    def __init__(
        self,
        db: Database,
        *,
        study_id: int,
        name: str,
        identity: dict[str, Any],
        config: dict[str, Any],
        revision: int,
        objectives: dict[str, str],
    ) -> None:
        """Use ``StudyHandle.create_or_join`` or ``StudyHandle.open``."""
        self.db = db
        self.study_id = study_id
        self.name = name
        self.identity = identity
        self.config = config
        self.revision = revision
        self.objectives = tuple(objectives)
        self.directions = tuple(objectives.values())
        self._trials, self._history = History(db, study_id), History(db, study_id, brief=True)

    @classmethod
    def create_or_join(
        cls,
        db: Database,
        *,
        name: str,
        identity: Mapping[str, Any],
        config: Mapping[str, Any],
        directions: Sequence[str],
        objectives: Sequence[str] = ("accuracy", "macs_ratio"),
    ) -> StudyHandle:
        """Make the study ``name``, or join it when it is the same study.

        Args:
            db: An open, writable database.
            name: The study's name in this database.
            identity: What can't change in the life of a study, JSON; compared key by key with what is stored.
            config: What may change, JSON; one that differs from the newest revision becomes the next revision.
            directions: ``"maximize"`` or ``"minimize"`` per objective.
            objectives: Their names, in the same order; Optuna's dashboards show them.

        Raises:
            ConfigError: A bad name, direction or value that is not JSON.
            IdentityError: A study of this name exists and is another one.
        """
        _check_name(name)
        goals = _check_objectives(objectives, directions)
        identity, config = _as_json("identity", identity), _as_json("config", config)
        with db.lock("studies"):
            with db.reading() as connection:
                row = _find(connection, name)
            if row is None:
                _create(db, name=name, goals=goals, identity=identity, config=config)
            else:
                _compare_identity(row, goals=goals, identity=identity)
                _revise(db, study_id=row.study_id, config=config)
            return cls.open(db, name)

    @classmethod
    def find(
        cls,
        db: Database,
        *,
        name: str,
        identity: Mapping[str, Any],
        directions: Sequence[str],
        objectives: Sequence[str],
    ) -> StudyHandle | None:
        """The study that `create_or_join` would join, or None where it would make a new one.

        Raises:
            IdentityError: A study of this name exists and is another one.
        """
        with db.reading() as connection:
            row = _find(connection, name)
        if row is None:
            return None
        goals = _check_objectives(objectives, directions)
        _compare_identity(row, goals=goals, identity=_as_json("identity", identity))
        return cls.open(db, name)

    @classmethod
    def open(cls, db: Database, name: str) -> StudyHandle:
        """Open an existing study with its newest revision.

        Raises:
            StorageError: The database holds no study of this name.
        """
        with db.reading() as connection:
            row = _find(connection, name)
            if row is None:
                names = connection.execute(sa.select(schema.studies.c.name)).scalars()
                raise StorageError(f"in {db.url} {unknown_name('study', name, names)}")
            number, config = _newest_revision(connection, row.study_id)
        return cls(
            db,
            study_id=row.study_id,
            name=name,
            objectives=json.loads(row.objectives),
            identity=json.loads(row.identity),
            config=config,
            revision=number,
        )

    def differences(self, identity: Mapping[str, Any]) -> str:
        """In what this study's identity differs from another one, in words; empty where they are the same."""
        return _in_words(_differences(self.identity, _as_json("identity", identity), prefix=""))

    def lock(self) -> AbstractContextManager[None]:
        """Hold the study against all other drivers; the same thread may take it again inside.

        Raises:
            StorageError: Somebody else held it for two minutes.
        """
        return self.db.lock(f"study:{self.study_id}")

    def counts(self) -> Counts:
        """Number of trials by state."""
        with self.db.reading() as connection:
            return count(connection, self.study_id)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; those that have ended are read once and shared, so change nothing in them."""
        return self._trials.read()

    def history(self) -> list[FrozenTrial]:
        """The same as far as a search needs them.

        Without numeric parameters, which points have, and without attributes that only people ask for, such as widths,
        owner and the reason of a failure.
        """
        return self._history.read()

    def know(self, other: StudyHandle) -> None:
        """Take over the `history` that another record of this study has read, so that only what is new is read.

        Raises:
            ValueError: It is a record of another study.
        """
        if (self.db.url, self.study_id) != (other.db.url, other.study_id):
            raise ValueError(f"{other!r} must be a record of the study of {self!r}, but is one of another study.")
        self._history.take_over(other._history)

    def forget(self) -> None:
        """Read all trials again the next time: a server that was away may have lost what it had said to have."""
        self._trials.forget()
        self._history.forget()

    def some_trials(
        self, *, numbers: Collection[int] | None = None, states: Collection[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of these numbers or states, by number; the others are not read, however many there are."""
        return self._trials.some(numbers=numbers, states=states)

    def trial(self, trial_id: int) -> FrozenTrial:
        """The trial with this id, which must be there, as it is now."""
        return self._trials.one(trial_id)

    def revisions(self) -> dict[int, dict[str, Any]]:
        """Every configuration that the study has had, by the number of its revision, oldest first."""
        table = schema.revisions
        query = sa.select(table.c.number, table.c.config).where(self._is_this(table)).order_by(table.c.number)
        with self.db.reading() as connection:
            return {number: json.loads(config) for number, config in connection.execute(query)}

    def request_stop(self) -> None:
        """Ask every driver of this study to stop; it is they who look."""
        now = self.db.now()
        with self.db.writing() as connection:
            connection.execute(
                sa.update(schema.studies).where(self._is_this(schema.studies)).values(stop_requested_at=now)
            )

    def stop_requested_since(self, t: float) -> bool:
        """Whether somebody asked to stop at ``t`` or later, in the database's seconds."""
        with self.db.reading() as connection:
            query = sa.select(schema.studies.c.stop_requested_at).where(self._is_this(schema.studies))
            at = connection.execute(query).scalar_one()
        return at is not None and at >= t

    def enter(self, owner: str) -> None:
        """Write that the driver ``owner``, this process, works on the study from now on."""
        now = self.db.now()
        row = {
            "study_id": self.study_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": now,
            "seen_at": now,
            "left_at": None,
        }
        table = schema.drivers
        with self.db.writing() as connection:
            if not connection.execute(sa.update(table).where(table.c.owner == owner).values(**row)).rowcount:
                connection.execute(table.insert().values(owner=owner, **row))

    def leave(self, owner: str) -> None:
        """Write that the driver ``owner`` has ended."""
        now = self.db.now()
        table = schema.drivers
        with self.db.writing() as connection:
            connection.execute(
                sa.update(table).where(table.c.owner == owner, self._is_this(table)).values(left_at=now, seen_at=now)
            )

    def drivers(self) -> list[DriverRow]:
        """Every driver that ever entered this study, oldest first; one without ``left_at`` works or has died."""
        table = schema.drivers
        columns = [table.c[name] for name in DriverRow.__dataclass_fields__]
        with self.db.reading() as connection:
            query = sa.select(*columns).where(self._is_this(table)).order_by(table.c.started_at, table.c.owner)
            return [DriverRow(**row) for row in connection.execute(query).mappings()]

    def _is_this(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return table.c.study_id == self.study_id

    def __repr__(self) -> str:
        return f"StudyHandle({self.name!r}, revision={self.revision}, db={self.db!r})"


def list_studies(db: Database) -> list[StudyRow]:
    """Every study of the database with its number of trials by state, oldest first."""
    trials, studies = schema.optuna_trials, schema.studies
    with db.reading() as connection:
        rows = connection.execute(sa.select(studies).order_by(studies.c.created_at, studies.c.study_id)).all()
        query = sa.select(trials.c.study_id, trials.c.state, sa.func.count()).group_by(
            trials.c.study_id, trials.c.state
        )
        counts = {(study_id, state): n for study_id, state, n in connection.execute(query)}

    def number(study_id: int, *states: TrialState) -> int:
        return sum(counts.get((study_id, state), 0) for state in states)

    return [
        StudyRow(
            name=row.name,
            n_finished=number(row.study_id, TrialState.COMPLETE, TrialState.PRUNED),
            n_running=number(row.study_id, TrialState.RUNNING),
            n_failed=number(row.study_id, TrialState.FAIL),
            created_at=row.created_at,
        )
        for row in rows
    ]


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise ConfigError(f"a study's name must be 1 to {_NAME_LENGTH} printable characters, but got {name[:80]!r}.")


def _check_objectives(objectives: Sequence[str], directions: Sequence[str]) -> dict[str, str]:
    alike = len(set(objectives)) == len(objectives) == len(directions) > 0
    if not alike or not set(directions) <= set(_DIRECTIONS):
        raise ConfigError(
            "`directions` must give 'maximize' or 'minimize' for every objective, but got "
            f"directions={list(directions)} for objectives={list(objectives)}."
        )
    return dict(zip(objectives, directions, strict=True))


def _as_json(what: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as the database gives it back: tuples become lists, keys become strings."""
    try:
        result = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{what}` must hold JSON values only, but {error}. Convert them first.") from error
    assert isinstance(result, dict)
    return result


def _find(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(schema.studies).where(schema.studies.c.name == name)).one_or_none()


def _newest_revision(connection: sa.Connection, study_id: int) -> tuple[int, dict[str, Any]]:
    table = schema.revisions
    query = sa.select(table.c.number, table.c.config).where(table.c.study_id == study_id)
    number, config = connection.execute(query.order_by(table.c.number.desc()).limit(1)).one()
    return number, json.loads(config)


def _add_revision(
    connection: sa.Connection, *, study_id: int, number: int, config: dict[str, Any], note: str, now: float
) -> None:
    values = {"study_id": study_id, "number": number, "config": json.dumps(config), "note": note, "created_at": now}
    connection.execute(schema.revisions.insert().values(**values))


def _create(
    db: Database, *, name: str, goals: dict[str, str], identity: dict[str, Any], config: dict[str, Any]
) -> None:
    study_id = _optuna_study(db, name=name, goals=goals)
    now = db.now()
    row = {"study_id": study_id, "name": name, "created_at": now}
    with db.writing() as connection:
        texts = {"objectives": json.dumps(goals), "identity": json.dumps(identity)}
        connection.execute(schema.studies.insert().values(**row, **texts))
        _add_revision(connection, study_id=study_id, number=1, config=config, note="first", now=now)


def _optuna_study(db: Database, *, name: str, goals: dict[str, str]) -> int:
    """Make Optuna's part of the study, or take up one left by a process that died before writing ours."""
    directions = [_DIRECTIONS[direction] for direction in goals.values()]
    with db.translating_errors():
        try:
            study_id = db.storage.get_study_id_from_name(name)
        except KeyError:
            with quiet("optuna.storages._rdb.storage"):
                study_id = db.storage.create_new_study(directions, study_name=name)
        if db.storage.get_study_directions(study_id) != directions:
            raise IdentityError(
                f"the name {name!r} must be free, but {db.url} has an Optuna study of that name with other directions. "
                "Choose another name."
            )
        db.storage.set_study_system_attr(study_id, _METRIC_NAMES, list(goals))
    return study_id


def _revise(db: Database, *, study_id: int, config: dict[str, Any]) -> None:
    with db.reading() as connection:
        number, stored = _newest_revision(connection, study_id)
    if stored == config:
        return
    keys = sorted(key for key in stored.keys() | config.keys() if stored.get(key, _ABSENT) != config.get(key, _ABSENT))
    now = db.now()
    with db.writing() as connection:
        note = f"changed: {', '.join(keys)}"
        _add_revision(connection, study_id=study_id, number=number + 1, config=config, note=note, now=now)


def _compare_identity(row: sa.Row[Any], *, goals: dict[str, str], identity: dict[str, Any]) -> None:
    # As lists, because the order of the objectives counts.
    stored_goals = [f"{name}: {direction}" for name, direction in json.loads(row.objectives).items()]
    our_goals = [f"{name}: {direction}" for name, direction in goals.items()]
    differing = [] if stored_goals == our_goals else [("objectives", stored_goals, our_goals)]
    differing += _differences(json.loads(row.identity), identity, prefix="")
    if differing:
        raise IdentityError(
            f"the study {row.name!r} must stay the study that it was, but {_in_words(differing)}. "
            "Choose another name for the new study, or put the old values back."
        )


def _differences(stored: Mapping[str, Any], ours: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(stored.keys() | ours.keys()):
        old, new = stored.get(key, _ABSENT), ours.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def _in_words(differences: Iterable[tuple[str, Any, Any]]) -> str:
    return "; ".join(f"`{key}` is {_short(old)} there and {_short(new)} here" for key, old, new in differences)


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
