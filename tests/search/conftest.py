"""Databases for tests: SQLite files always, PostgreSQL where a server can be had."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

import autoprune
from autoprune.search import schema
from autoprune.search.database import Database
from autoprune.search.study import StudyRecord


class Clock:
    """A clock that moves only when told."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if importlib.util.find_spec("psycopg") is None:
        _do_without("psycopg is not installed")
    with contextlib.ExitStack() as stack:
        text = os.environ.get("AUTOPRUNE_TEST_POSTGRES")
        url = sa.engine.make_url(text) if text else stack.enter_context(_private_server())
        server = Postgres(url)
        stack.callback(server.drop)
        yield server


@contextlib.contextmanager
def _private_server() -> Iterator[sa.URL]:
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
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield sa.URL.create("postgresql", username="autoprune", database="postgres", query={"host": str(folder)})
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def forks() -> Callable[..., Any]:
    """Run a task of ``forks.py`` in several processes; returns what it prints."""

    def run(task: str, *arguments: object) -> Any:
        script = Path(__file__).with_name("forks.py")
        command = [sys.executable, "-W", "error", str(script), task, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(Path(autoprune.__file__).parents[1])}
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def ready_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no study, to be copied."""
    path = tmp_path_factory.mktemp("ready") / "ready.db"
    db = Database.open(f"sqlite:///{path}", create=True)
    db.close()
    assert not path.with_name("ready.db-wal").exists()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both databases: a test that uses this, or a URL below, runs on each."""
    return str(request.param)


@pytest.fixture
def blank_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that is not made yet."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/blank.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.blank()


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with all tables and no study."""
    if kind == "sqlite":
        shutil.copy(request.getfixturevalue("ready_file"), tmp_path / "study.db")
        return f"sqlite:///{tmp_path}/study.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.ready()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(url: str, clock: Clock) -> Iterator[Database]:
    database = Database.open(url, create=False, clock=clock)
    yield database
    database.close()


@pytest.fixture
def study(db: Database) -> StudyRecord:
    return StudyRecord.create_or_join(
        db, name="digits", identity={"network": "resnet20"}, config={"n": 1}, directions=["maximize", "minimize"]
    )
