"""One database, SQLite file or PostgreSQL, that Optuna and autoprune share."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import optuna
import sqlalchemy as sa
import sqlalchemy.orm  # Optuna imports it late, in one thread, while another thread stumbles over the half-made module
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.dialects import postgresql, sqlite

from autoprune.errors import OutageError, StorageError, first_line
from autoprune.search.storage import schema
from autoprune.search.storage.address import Address
from autoprune.search.storage.locks import Locks

__all__ = ["Database"]

BUSY_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10
_VERSION = sa.select(sa.func.max(schema.schema.c.version))


class Database:
    """The open database: connections, the lock between processes, the clock, and Optuna's storage on top.

    Made by ``Database.open`` or ``Database.open_readonly``. Threads may share one; processes may not: it can't be
    pickled. On SQLite every writing transaction takes the write lock when it begins, because a transaction that reads
    first and writes later lets two processes claim the same trial.
    """

    def __init__(self, address: Address, *, readonly: bool, clock: Callable[[], float] | None) -> None:
        """Use ``open`` or ``open_readonly``: they also check what lies there."""
        self._address = address
        self._readonly = readonly
        self._clock = clock
        self._deferred = threading.local()
        self._durable = threading.local()
        self._guard = threading.RLock()
        self._storage: BaseStorage | None = None
        self._is_open = False
        self._url = address.readonly_url() if readonly else address.url
        try:
            self._engine = sa.create_engine(self._url, **self._engine_options())
        except ImportError as error:
            raise StorageError(
                "PostgreSQL needs the driver psycopg, which is not installed: pip install 'autoprune[postgres]'."
            ) from error
        self._listen(self._engine)
        self._locks = Locks(address, self._engine)

    @classmethod
    def open(cls, url: str, *, create: bool, clock: Callable[[], float] | None = None) -> Database:
        """Open a database for reading and writing; tables of an older version are brought to this one.

        Args:
            url: ``sqlite:///file`` or ``postgresql://user@host/name``.
            create: Whether to make the file and the tables when there are none. False never makes anything.
            clock: Replaces the database's clock, in seconds; for tests.

        Raises:
            ConfigError: The URL is neither of the two kinds.
            StorageError: The database can't be opened, is not autoprune's, or is of a newer version.
        """
        address = Address.parse(url)
        address.check_file(create=create)
        database = cls(address, readonly=False, clock=clock)
        database._opening(create=create)
        return database

    @classmethod
    def open_readonly(cls, url: str, *, clock: Callable[[], float] | None = None) -> Database:
        """Open a database that is only read, also while others write to it; makes nothing, changes nothing.

        Raises:
            ConfigError: The URL is neither of the two kinds.
            StorageError: The database can't be opened, is not autoprune's, or is of a newer version.
        """
        address = Address.parse(url)
        address.check_file(create=False)
        database = cls(address, readonly=True, clock=clock)
        database._opening(create=False)
        return database

    @classmethod
    def is_there(cls, url: str) -> bool:
        """Whether there is anything to open at a URL: a SQLite file or a server's database that holds a table.

        Raises:
            ConfigError: The URL is neither of the two kinds.
            StorageError: The file is something else, or the server does not answer.
        """
        address = Address.parse(url)
        address.check_file(create=True)
        if address.path is not None and not address.path.exists():
            return False
        database = cls(address, readonly=True, clock=None)
        try:
            with database.translating_errors():
                return bool(database._tables())
        finally:
            database._engine.dispose()

    @property
    def url(self) -> str:
        """The URL for people: the password is hidden."""
        return self._address.shown

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a SQLite file; else it is PostgreSQL."""
        return self._address.path is not None

    @property
    def storage(self) -> BaseStorage:
        """Optuna's storage on this database, with Optuna's cache of finished trials.

        Wrap a call that only reads in ``reading_only``, or it waits for the write lock on SQLite.
        """
        with self._guard:
            if self._storage is None:
                with self.translating_errors():
                    self._storage = get_storage(self._new_storage(create=False))
            return self._storage

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: on SQLite it neither waits for a writer nor holds one up."""
        with self.translating_errors(), self.reading_only(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write, committed at the end, undone by an exception."""
        if self._readonly:
            raise StorageError(f"the database {self.url} was opened to read only, so nothing can be written to it.")
        with self.translating_errors(), self._beginning(deferred=False), self._engine.begin() as connection:
            yield connection

    def insert_new(self, connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert a row within a transaction unless its key is there; False if it is."""
        make = sqlite.insert if self.is_sqlite else postgresql.insert
        query = make(table).values(**row).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        return connection.execute(query).rowcount == 1

    @contextmanager
    def durably(self) -> Iterator[None]:
        """What this thread commits inside, and all that was committed before, survives a power loss.

        A SQLite file is flushed to the disk for it; a server does so with each commit, unless it is set up otherwise.
        """
        before = getattr(self._durable, "on", False)
        self._durable.on = True
        try:
            yield
        finally:
            self._durable.on = before

    @contextmanager
    def reading_only(self) -> Iterator[None]:
        """Let the SQLite transactions that this thread begins inside, Optuna's too, read without the write lock."""
        with self._beginning(deferred=True):
            yield

    @contextmanager
    def translating_errors(self) -> Iterator[None]:
        """Turn what SQLAlchemy and Optuna raise about the connection into a ``StorageError`` of one sentence."""
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            raise self._broken(error.__cause__ or error) from error
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            raise self._broken(error) from error

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock against all threads and processes on this database; it dies with its holder.

        The same thread may take the same lock again inside. On SQLite all names are one lock.

        Raises:
            StorageError: Somebody else held it for two minutes.
        """
        if self._readonly:
            raise StorageError(f"the database {self.url} was opened to read only, so it can't be locked.")
        with self.translating_errors(), self._locks.held(name):
            yield

    def now(self) -> float:
        """Seconds since 1970 by the database's clock, so that drivers on several machines agree on a lease."""
        if self._clock is not None:
            return self._clock()
        if self.is_sqlite:
            # SQLite has no server: julianday('now') is this machine's clock too, only slower to ask.
            return time.time()
        with self.reading() as connection:
            return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def close(self) -> None:
        """Close the connections; a later use opens them again."""
        with self._guard:
            self._engine.dispose()
            if self._storage is not None:
                _engine_of(self._storage).dispose()
                self._storage = None

    def __repr__(self) -> str:
        return f"Database({self.url!r})"

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a Database can't be pickled: its connections and locks belong to one process. "
            "Send the URL and open it there."
        )

    def _opening(self, *, create: bool) -> None:
        try:
            with self.translating_errors():
                # Our tables come first and all at once, so a database that has others but not ours is somebody else's:
                # it is left alone, without even a lock beside it.
                if create and not (self._tables() and (self._is_whole() or not self._is_ours())):
                    with self.lock("schema"):
                        if not self._tables():
                            self._create()
                        elif self._is_ours() and not self._is_whole():
                            self._new_storage(create=True)
                if self._check() < schema.SCHEMA_VERSION and not self._readonly:
                    self._migrate()
                if self.is_sqlite and not self._readonly:
                    self._write_ahead()
        except BaseException:
            self._engine.dispose()
            raise
        self._address.remember()
        self._is_open = True

    def _tables(self) -> set[str]:
        with self.reading_only(), self._engine.begin() as connection:
            return set(sa.inspect(connection).get_table_names())

    def _is_ours(self) -> bool:
        return schema.schema.name in self._tables()

    def _is_whole(self) -> bool:
        return "alembic_version" in self._tables()

    def _create(self) -> None:
        if self.is_sqlite:
            self._write_ahead()
        # Ours first, in one transaction: a process killed from here on leaves a database that is known to be ours.
        with self._engine.begin() as connection:
            schema.metadata.create_all(connection)
            now = time.time() if self._clock is None else self._clock()
            connection.execute(schema.schema.insert().values(version=schema.SCHEMA_VERSION, created_at=now))
        self._new_storage(create=True)

    def _write_ahead(self) -> None:
        # A lasting property of the file, so it is set only once the file is known to be ours. It can't be changed
        # inside a transaction, hence the bare connection.
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.close()
        finally:
            connection.close()

    def _check(self) -> int:
        """Version of the tables, or an error where they are not ours, not whole or too new."""
        if not self._is_ours():
            raise StorageError(
                f"the database must be autoprune's, but {self.url} has no autoprune tables. "
                "Name another one with `--storage` or AUTOPRUNE_STORAGE."
            )
        with self.reading_only(), self._engine.begin() as connection:
            version: int | None = connection.execute(_VERSION).scalar_one()
        if version is None or not self._is_whole():
            raise StorageError(f"the database {self.url} is half made. `autoprune launch` with it completes it.")
        if version > schema.SCHEMA_VERSION:
            raise StorageError(
                f"the database {self.url} has schema version {version}, but this autoprune knows versions up to "
                f"{schema.SCHEMA_VERSION}: install a newer autoprune."
            )
        return version

    def _migrate(self) -> None:
        now = self.now()
        with self.lock("schema"), self._engine.begin() as connection:
            version: int = connection.execute(_VERSION).scalar_one()
            if version < schema.SCHEMA_VERSION:  # else another process was quicker
                schema.migrate(connection, version=version, now=now)

    def _new_storage(self, *, create: bool) -> RDBStorage:
        # Optuna formats the URL as a template, so braces of a path or password have to be doubled.
        url = self._url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        try:
            storage = RDBStorage(url, engine_kwargs=self._engine_options(), skip_table_creation=not create)
        except RuntimeError as error:
            raise StorageError(
                f"Optuna can't use the database {self.url}: {self._address.redact(str(error))}."
            ) from error
        # Optuna connects while it is being made, before there is an engine to listen to: start over, listening.
        storage.engine.dispose()
        self._listen(storage.engine)
        return storage

    def _engine_options(self) -> dict[str, object]:
        if self.is_sqlite:
            return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
        return {
            "pool_size": 2,
            "max_overflow": 4,
            "pool_pre_ping": True,
            "connect_args": {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "autoprune",
                # So that a call to a server whose machine or net is gone ends within half a minute.
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            },
        }

    def _listen(self, engine: sa.Engine) -> None:
        if self.is_sqlite:
            sa.event.listen(engine, "connect", _set_up_readonly if self._readonly else _set_up_sqlite)
            sa.event.listen(engine, "begin", self._begin_sqlite)
        elif self._readonly:
            sa.event.listen(engine, "connect", _set_up_readonly_server)

    @contextmanager
    def _beginning(self, *, deferred: bool) -> Iterator[None]:
        before = getattr(self._deferred, "on", False)
        self._deferred.on = deferred
        try:
            yield
        finally:
            self._deferred.on = before

    def _begin_sqlite(self, connection: sa.Connection) -> None:
        deferred = self._readonly or getattr(self._deferred, "on", False)
        if not deferred:
            # Within a transaction it can't be changed. Killed processes lose nothing in either case.
            level = "FULL" if getattr(self._durable, "on", False) else "NORMAL"
            if connection.info.get("synchronous") != level:
                connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
                connection.info["synchronous"] = level
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")

    def _broken(self, error: BaseException) -> StorageError:
        if not self._is_open:
            return self._address.unopened(_said(error))
        kind = OutageError if not self.is_sqlite and _is_away(error) else StorageError
        return kind(
            f"the database {self.url} must answer, but: {self._address.redact(_said(error))}. "
            "What was committed is kept; run the same command again."
        )


def _said(error: BaseException) -> str:
    # SQLAlchemy appends the statement, its parameters and a link: only the driver's own words are for people.
    return first_line(getattr(error, "orig", None) or error)


def _is_away(error: BaseException) -> bool:
    """Whether a server could not be reached, or ended the connection: it is shut down, starts, or the net is broken."""
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        return True
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    is_of_connection = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    # PostgreSQL's classes: 08 connections, 57P shut down or starting, 53300 too many connections.
    return is_of_connection and (state is None or state.startswith(("08", "57P", "53300")))


def _engine_of(storage: BaseStorage) -> sa.Engine:
    backend = getattr(storage, "_backend", storage)
    assert isinstance(backend, RDBStorage)
    return backend.engine


def _set_up_sqlite(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    # None keeps Python from beginning transactions by itself; `_begin_sqlite` does it, with the right kind of BEGIN.
    connection.isolation_level = None


def _set_up_readonly(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    connection.isolation_level = None


def _set_up_readonly_server(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    cursor.close()
    connection.commit()
