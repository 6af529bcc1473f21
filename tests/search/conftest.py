"""Databases for tests: SQLite files always, PostgreSQL where a server can be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune.search.storage import Database, StudyHandle
from tests.postgres import Postgres


class Clock:
    """A clock that moves only when told."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


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
def study(db: Database) -> StudyHandle:
    return StudyHandle.create_or_join(
        db, name="digits", identity={"network": "resnet20"}, config={"n": 1}, directions=["maximize", "minimize"]
    )
