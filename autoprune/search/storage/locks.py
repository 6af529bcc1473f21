"""Locks between all threads and processes on one database; each dies with its holder."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import filelock
import sqlalchemy as sa

from autoprune.errors import StorageError
from autoprune.search.storage.address import Address

__all__ = ["Locks"]

LOCK_TIMEOUT_S = 120.0
_LOOK_AGAIN_S = 0.005
# Any number does, as long as every autoprune uses the same: the first half of PostgreSQL's two-part advisory lock.
_LOCK_CLASS = 0x6175746F


class Locks:
    """The locks of one database: a file beside a SQLite file, advisory locks on a PostgreSQL server.

    Args:
        address: Where the database lies.
        engine: Its connections; each lock on a server holds one.
    """

    def __init__(self, address: Address, engine: sa.Engine) -> None:
        self._address = address
        self._engine = engine
        self._guard = threading.Lock()
        self._threads: dict[str, _Thread] = {}

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold the lock of this name; the same thread may take it again inside. In a SQLite file all names are one.

        Raises:
            StorageError: Somebody else held it for ``LOCK_TIMEOUT_S``.
        """
        name = name if self._address.path is None else ""
        with self._guard:
            thread = self._threads.setdefault(name, _Thread())
        # Between threads first: else two of them that wait for the server could use up the connections.
        if not thread.lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise self._still_locked()
        thread.depth += 1
        try:
            if thread.depth > 1:
                yield
            else:
                with self._on_server(name) if self._address.path is None else self._in_file():
                    yield
        finally:
            thread.depth -= 1
            thread.lock.release()

    @contextmanager
    def _in_file(self) -> Iterator[None]:
        path = self._address.path
        assert path is not None
        path = path.with_name(path.name + ".lock")
        try:
            lock = filelock.FileLock(path, timeout=LOCK_TIMEOUT_S, poll_interval=_LOOK_AGAIN_S)
            lock.acquire()
        except filelock.Timeout:
            raise self._still_locked() from None
        except OSError as error:
            raise self._address.unopened(f"{error.strerror or error} ({path})") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _on_server(self, name: str) -> Iterator[None]:
        number = zlib.crc32(name.encode()) - 2**31  # PostgreSQL's integers are signed
        with self._engine.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}"))
            try:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_CLASS, number)))
            except sa.exc.OperationalError as error:
                if type(error.orig).__name__ == "LockNotAvailable":
                    raise self._still_locked() from None
                raise
            yield

    def _still_locked(self) -> StorageError:
        return StorageError(
            f"the lock of the database {self._address.shown} must come free, but another process has held it for "
            f"{LOCK_TIMEOUT_S:.0f} s. Look for a stopped or hanging autoprune."
        )


class _Thread:
    """The part of a lock that holds between threads of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0
