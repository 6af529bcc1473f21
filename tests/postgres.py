"""A PostgreSQL server for tests, where one can be had."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa

from autoprune.search.storage import Database, schema


class Postgres:
    """A PostgreSQL server on which tests may make databases."""

    def __init__(self, admin: sa.URL) -> None:
        self._admin = admin
        self._engine = self._connect(admin)
        self._made: list[str] = []
        self._ready: str | None = None

    def blank(self) -> str:
        """A new database without tables."""
        return self._url(self._make())

    def ready(self) -> str:
        """An autoprune database without studies: the same one each time, emptied, because a new one takes long."""
        if self._ready is None:
            self._ready = self._make()
            Database.open(self._url(self._ready), create=True).close()
            return self._url(self._ready)
        with self._engine.connect() as connection:
            stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(sa.text(stop), {"name": self._ready})
        engine = self._connect(self._admin.set(database=self._ready))
        kept = {"alembic_version", "version_info", schema.schema.name}
        with engine.connect() as connection:
            tables = sorted(set(sa.inspect(connection).get_table_names()) - kept)
            connection.execute(sa.text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"))
            connection.execute(sa.delete(schema.schema).where(schema.schema.c.version != schema.SCHEMA_VERSION))
        return self._url(self._ready)

    def drop(self) -> None:
        with self._engine.connect() as connection:
            for name in self._made:
                connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))

    def _make(self) -> str:
        name = f"autoprune_test_{uuid.uuid4().hex[:12]}"
        with self._engine.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        self._made.append(name)
        return name

    @staticmethod
    def _connect(url: sa.URL) -> sa.Engine:
        url = url.set(drivername="postgresql+psycopg")
        return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def _url(self, name: str) -> str:
        return self._admin.set(database=name).render_as_string(hide_password=False)


def _do_without(reason: str) -> NoReturn:
    """Skip where a person has no PostgreSQL; fail where ``.ci/run`` has promised one."""
    if os.environ.get("AUTOPRUNE_REQUIRE_POSTGRES"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """The server of ``AUTOPRUNE_TEST_POSTGRES``, else one of our own; without either the test is skipped."""
    if importlib.util.find_spec("psycopg") is None:
        _do_without("psycopg is not installed")
    with contextlib.ExitStack() as stack:
        text = os.environ.get("AUTOPRUNE_TEST_POSTGRES")
        url = sa.engine.make_url(text) if text else stack.enter_context(private_server()).url
        server = Postgres(url)
        stack.callback(server.drop)
        yield server


@dataclass(frozen=True)
class PrivateServer:
    """A server of our own, which can go away and come back.

    Args:
        url: Of its own database.
        run: Runs a program of PostgreSQL's on it.
        options: That it is started with.
    """

    url: sa.URL
    run: Callable[..., None]
    options: str

    def start(self) -> None:
        self.run("pg_ctl", "-w", "-l", "log", "-o", self.options, "start")

    def stop(self) -> None:
        """As a crash does: without a word to anybody."""
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextlib.contextmanager
def private_server() -> Iterator[PrivateServer]:
    """A server of our own on a Unix socket, in a folder that goes with it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].name:
        _do_without("no PostgreSQL: neither its binaries nor AUTOPRUNE_TEST_POSTGRES")
    binaries = found[-1].parent
    # PostgreSQL refuses to run as root, and the folders of pytest are closed to other users.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="autoprune-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)

        def run(program: str, *arguments: str) -> None:
            command = [str(binaries / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

        run("initdb", "-A", "trust", "-U", "autoprune", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        url = sa.URL.create("postgresql", username="autoprune", database="postgres", query={"host": str(folder)})
        server = PrivateServer(url, run, options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
