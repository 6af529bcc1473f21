"""Where a database lies: a URL checked once, and shown without its password."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from autoprune.errors import ConfigError, StorageError

__all__ = ["Address"]

_ACCEPTED = "Give a file, `sqlite:///autoprune.db`, or a server, `postgresql://user@host/name`."
_POSTGRES = frozenset({"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"})
_SQLITE_MAGIC = b"SQLite format 3\0"
_KNOWN: set[tuple[int, int]] = set()  # device and inode of each file that this process has found to be a database


@dataclass(frozen=True)
class Address:
    """A database URL that autoprune accepts.

    Args:
        url: What SQLAlchemy connects to, password included; never print it.
        shown: The same for people: no password.
        path: The file of a SQLite database, absolute; None on a server.
    """

    url: sa.URL = field(repr=False)
    shown: str
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read a URL as a user writes it.

        Raises:
            ConfigError: It is no URL, or not one of a SQLite file or a PostgreSQL server.
        """
        try:
            url = sa.engine.make_url(text)
        except (sa.exc.ArgumentError, ValueError):
            # `from None`, and without quoting the text: SQLAlchemy's own message repeats pieces of the URL, and a
            # mistyped URL may show its password anywhere.
            raise ConfigError(f"`storage` must be a database URL, but it can't be read as one. {_ACCEPTED}") from None
        if url.drivername in {"sqlite", "sqlite+pysqlite"}:
            return cls._file(url)
        if url.drivername in _POSTGRES:
            url = url.set(drivername="postgresql+psycopg")
            return cls(url=url, shown=_without_password(url), path=None)
        raise ConfigError(
            f"`storage` must be a SQLite file or a PostgreSQL server, but got {url.drivername!r}. {_ACCEPTED}"
        )

    @classmethod
    def _file(cls, url: sa.URL) -> Address:
        name = url.database or ""
        if name in {"", ":memory:"} or name.startswith("file:") or url.host or url.query:
            raise ConfigError(
                f"`storage` must name a plain SQLite file, but got {_without_password(url)!r}: a study has to outlive "
                f"its process. {_ACCEPTED}"
            )
        # Resolved at once, so that links lead to one lock file and a later change of folder changes nothing.
        path = Path(name).resolve()
        return cls(url=sa.URL.create("sqlite", database=str(path)), shown=f"sqlite:///{path}", path=path)

    def readonly_url(self) -> sa.URL:
        """The URL to read with: on SQLite one that can't create the file."""
        if self.path is None:
            return self.url
        query = {"mode": "ro", "uri": "true"}
        wal = self.path.with_name(self.path.name + "-wal")
        if not wal.exists() and not os.access(self.path.parent, os.W_OK):
            # A WAL database needs its side files even to be read; where they can't be made, nobody writes either.
            query["immutable"] = "1"
        return sa.URL.create("sqlite", database=f"file:{_quoted(self.path)}", query=query)

    def check_file(self, *, create: bool) -> None:
        """Refuse a SQLite path that can't be a database; does nothing for a server.

        Args:
            create: Whether a file that is not there yet is fine.

        Raises:
            StorageError: The file or its folder is missing, may not be read, or holds something else.
        """
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise StorageError(f"the folder of the database must exist, but there is no {self.path.parent}. Make it.")
        if not self.path.exists():
            if create:
                return
            raise StorageError(
                f"the database must exist, but there is no {self.path}. `autoprune launch` makes one; "
                "`--storage` or AUTOPRUNE_STORAGE says where."
            )
        # To close a file drops the locks of all connections that this process has to it. Another process would then
        # take itself for the last one and delete the write-ahead log under our hands, so each file is opened once.
        try:
            if self._identity() in _KNOWN:
                return
            with self.path.open("rb") as file:
                head = file.read(len(_SQLITE_MAGIC))
        except OSError as error:
            raise self.unopened(error.strerror or str(error)) from error
        if head and head != _SQLITE_MAGIC:
            raise StorageError(f"the database must be a SQLite file, but {self.path} is something else. Name another.")

    def remember(self) -> None:
        """Say that the file is a database to which this process has connections; does nothing for a server."""
        if self.path is not None:
            _KNOWN.add(self._identity())

    def _identity(self) -> tuple[int, int]:
        assert self.path is not None
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def unopened(self, why: str) -> StorageError:
        """The error that says why this database can't be opened, with the password cut out of ``why``."""
        return StorageError(f"the database {self.shown} must open, but: {self.redact(why)}. {self._advice()}")

    def redact(self, text: str) -> str:
        """``text`` in one line, without our password."""
        line = " ".join(text.split()).rstrip(".")
        for secret in (self.url.password, self.url.query.get("password")):
            if isinstance(secret, str) and secret:
                line = line.replace(secret, "***")
        return line

    def _advice(self) -> str:
        if self.path is None:
            return "Check that the server runs and that the user may connect."
        return "Check the path and who may write there."


def _without_password(url: sa.URL) -> str:
    # SQLAlchemy hides the password between `:` and `@`, but shows one given as `?password=`.
    if "password" in url.query:
        url = url.update_query_dict({"password": "***"})
    return url.render_as_string(hide_password=True)


def _quoted(path: Path) -> str:
    # In SQLite's own URIs `?` and `#` end the path, and `%` starts an escape.
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
