"""Databases of older versions are read as they are, and brought to this version by whoever writes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from autoprune.errors import StorageError
from autoprune.search.front import EvaluationRows, TestScore, trials_frame
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Lifecycle

SCORE = TestScore(number=1, seed=0, fingerprint="t", score=0.9, n_images=360, wall_s=1.5)


@pytest.fixture
def old_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database of version 1: on SQLite as autoprune 1 wrote it, with a study of two results and a running trial."""
    if kind == "postgres":
        url: str = request.getfixturevalue("postgres").blank()
        db = Database.open(url, create=True)
        StudyHandle.create_or_join(db, name="digits", identity={}, config={"n": 1}, directions=["maximize", "minimize"])
        with db.writing() as connection:
            schema.evaluations.drop(connection)
            connection.execute(sa.update(schema.schema).values(version=1))
        db.close()
        return url
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return f"sqlite:///{path}"


def versions(db: Database) -> list[int]:
    with db.reading() as connection:
        return list(connection.execute(sa.select(schema.schema.c.version).order_by("version")).scalars())


def tables(db: Database) -> set[str]:
    with db.reading() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_a_reader_leaves_an_old_database_as_it_is(old_url: str) -> None:
    db = Database.open_readonly(old_url)
    study = StudyHandle.open(db, "digits")
    assert EvaluationRows(db, study.study_id).read() == []
    assert versions(db) == [1]
    assert schema.evaluations.name not in tables(db)
    db.close()


@pytest.mark.parametrize("create", [True, False])
def test_a_writer_brings_it_to_this_version_once(create: bool, old_url: str, clock: Callable[[], float]) -> None:
    for _ in range(2):
        db = Database.open(old_url, create=create, clock=clock)
        assert versions(db) == [1, schema.SCHEMA_VERSION] == [1, 2]
        assert set(schema.metadata.tables) <= tables(db)
        db.close()
    db = Database.open(old_url, create=False, clock=clock)
    rows = EvaluationRows(db, StudyHandle.open(db, "digits").study_id)
    rows.add(SCORE)
    assert rows.read() == [SCORE]
    with db.reading() as connection:
        since = sa.select(schema.schema.c.created_at).where(schema.schema.c.version == 2)
        assert connection.execute(since).scalar_one() == 1_000.0
    db.close()


def test_what_version_1_wrote_is_kept_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
    connection.close()
    shutil.copy(path, tmp_path / "before.db")
    db = Database.open(f"sqlite:///{path}", create=False, clock=lambda: 1_010.0)
    study = StudyHandle.open(db, "digits")
    frame = trials_frame(db, study)
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert frame["accuracy"].tolist()[:2] == [0.98, 0.97]
    assert (study.config, study.identity) == ({"n": 1}, {"network": "resnet_digits"})
    Lifecycle(study, owner="me", n_trials=3).complete(
        3, (0.9, 0.6), {"macs": 600}
    )  # the lease of version 1 still counts
    assert trials_frame(db, study)["macs"].tolist() == [1000, 500, 600]
    db.close()


def test_processes_that_bring_it_up_at_once_all_succeed(old_url: str, forks: Callable[..., object]) -> None:
    assert forks("upgrade", old_url, 4) == [[1, 2]] * 4


def test_a_reader_that_came_before_sees_what_comes_after(old_url: str) -> None:
    reader = Database.open_readonly(old_url)
    study = StudyHandle.open(reader, "digits")
    assert EvaluationRows(reader, study.study_id).read() == []
    writer = Database.open(old_url, create=False)
    EvaluationRows(writer, study.study_id).add(SCORE)
    assert EvaluationRows(reader, study.study_id).read() == [SCORE]
    writer.close()
    reader.close()


def test_a_newer_database_is_refused(old_url: str) -> None:
    db = Database.open(old_url, create=False)
    with db.writing() as connection:
        connection.execute(schema.schema.insert().values(version=3, created_at=0.0))
    db.close()
    for open_it in (Database.open_readonly, lambda url: Database.open(url, create=False)):
        with pytest.raises(StorageError, match=r"schema version 3, but .* up to 2: install a newer autoprune\."):
            open_it(old_url)
