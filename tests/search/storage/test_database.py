from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import IO

import pytest
import sqlalchemy as sa

import autoprune
from autoprune.errors import ConfigError, StorageError
from autoprune.search.storage import Database, schema

ROOT = Path(autoprune.__file__).parents[1]


def run_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE)


def _stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def test_open_makes_the_tables_once_and_finds_them_again(blank_url: str) -> None:
    first = Database.open(blank_url, create=True)
    with first.reading() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        version = connection.execute(sa.select(schema.schema.c.version)).scalar_one()
    first.close()
    assert set(schema.metadata.tables) | {"trials", "studies", "alembic_version"} <= tables
    assert version == schema.SCHEMA_VERSION
    for create in (True, False):
        again = Database.open(blank_url, create=create)
        with again.reading() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(schema.schema)).scalar_one() == 1
        assert again.storage.get_all_studies() == []
        again.close()


def test_without_create_nothing_is_made(blank_url: str, kind: str, tmp_path: Path) -> None:
    for open_it in (Database.open_readonly, lambda url: Database.open(url, create=False)):
        with pytest.raises(StorageError, match=r"must exist|no autoprune tables"):
            open_it(blank_url)
    if kind == "sqlite":
        assert list(tmp_path.iterdir()) == []
    else:
        engine = sa.create_engine(blank_url.replace("postgresql", "postgresql+psycopg"))
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()


def test_sqlite_settings(tmp_path: Path) -> None:
    db = Database.open(f"sqlite:///{tmp_path}/a.db", create=True)
    with db.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1
    db.close()


def test_processes_that_open_an_empty_database_at_once_all_succeed(
    blank_url: str, forks: Callable[..., object]
) -> None:
    assert forks("open", blank_url, 4) == [[1, "digits"]] * 4


def test_a_creation_that_was_killed_half_way_is_completed(blank_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.search.storage.database.RDBStorage", killed)
        with pytest.raises(KilledError):
            Database.open(blank_url, create=True)
    with pytest.raises(StorageError, match=r"is half made\. `autoprune launch` with it completes it"):
        Database.open(blank_url, create=False)
    db = Database.open(blank_url, create=True)
    assert db.storage.get_all_studies() == []
    db.close()


@pytest.mark.parametrize(
    "text",
    ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true", "mysql://u:s3cret@h/d", "nonsense", "",
     "redis://localhost", "postgresql://u:s3cret@h:port/d", "./a.db"],
)  # fmt: skip
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"`storage` must .*Give a file, `sqlite:///autoprune\.db`, or") as caught:
        Database.open(text, create=True)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the folder of the database must exist, but there is no .*/none\."):
        Database.open(f"sqlite:///{tmp_path}/none/a.db", create=True)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("hello, I am a text file")
    with pytest.raises(StorageError, match=r"must be a SQLite file, but .*a\.db is something else"):
        Database.open(f"sqlite:///{tmp_path}/a.db", create=True)
    assert (tmp_path / "a.db").read_text() == "hello, I am a text file"


def test_a_damaged_file(tmp_path: Path, ready_file: Path) -> None:
    (tmp_path / "a.db").write_bytes(ready_file.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(StorageError, match=r"the database .*a\.db must open, but: .*(malformed|not a database)"):
        Database.open(f"sqlite:///{tmp_path}/a.db", create=False)


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"must open, but: Is a directory\. Check the path"):
        Database.open(f"sqlite:///{tmp_path}", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path, ready_file: Path) -> None:
    shutil.copy(ready_file, tmp_path / "a.db")
    (tmp_path / "a.db").chmod(0)
    with pytest.raises(StorageError, match=r"must open, but: Permission denied"):
        Database.open(f"sqlite:///{tmp_path}/a.db", create=False)


def test_a_lock_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a.db.lock").mkdir()
    with pytest.raises(StorageError, match=r"must open, but: .*a\.db\.lock"):
        Database.open(f"sqlite:///{tmp_path}/a.db", create=True)


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StorageError, match=r"must be autoprune's, but .*theirs\.db has no autoprune tables"):
            Database.open(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["theirs.db"]


def test_an_optuna_database_is_not_ours(blank_url: str) -> None:
    import optuna

    url = blank_url.replace("postgresql://", "postgresql+psycopg://")
    storage = optuna.storages.RDBStorage(url)
    storage.engine.dispose()
    for create in (True, False):
        with pytest.raises(StorageError, match="has no autoprune tables"):
            Database.open(blank_url, create=create)


def test_a_newer_schema(url: str) -> None:
    db = Database.open(url, create=False)
    with db.writing() as connection:
        connection.execute(schema.schema.insert().values(version=7, created_at=0.0))
    db.close()
    for open_it in (Database.open_readonly, lambda url: Database.open(url, create=True)):
        with pytest.raises(StorageError, match=r"schema version 7, but .* up to 2: install a newer autoprune"):
            open_it(url)


def test_a_server_that_is_down_and_its_password(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("psycopg")
    for text in ("postgresql://me:s3cret@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=s3cret"):
        with pytest.raises(StorageError, match=r"me.*@127\.0\.0\.1:1/db.* must open, but: .*refused") as caught:
            Database.open(text, create=True)
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "s3cret" not in f"{chain} {chain!r}"
            chain = chain.__cause__ or chain.__context__
    assert "s3cret" not in caplog.text


def test_psycopg_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        StorageError, match=r"driver psycopg, which is not installed: pip install 'autoprune\[postgres\]"
    ):
        Database.open("postgresql://h/d", create=True)


def test_odd_characters_in_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "50% {done} #1"
    folder.mkdir()
    for open_it in (lambda url: Database.open(url, create=True), Database.open_readonly):
        db = open_it(f"sqlite:///{folder}/a b.db")
        assert db.storage.get_all_studies() == []
        db.close()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "a b.db").exists()


def test_a_relative_path_is_fixed_when_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    db = Database.open("sqlite:///a.db", create=True)
    db.close()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert db.storage.get_all_studies() == []
    assert db.url == f"sqlite:///{tmp_path}/a.db"
    db.close()
    assert list((tmp_path / "sub").iterdir()) == []


def test_readonly_reads_while_somebody_writes_and_changes_nothing(url: str) -> None:
    writer = Database.open(url, create=False)
    reader = Database.open_readonly(url)
    with writer.writing() as connection:
        connection.execute(schema.phases.insert().values(_phase("a")))
        with reader.reading() as other:
            assert other.execute(sa.select(schema.phases.c.key)).all() == []
    with reader.reading() as other:
        assert other.execute(sa.select(schema.phases.c.key)).scalars().all() == ["a"]
    with pytest.raises(StorageError, match="was opened to read only, so nothing can be written"), reader.writing():
        pass
    with pytest.raises(StorageError, match="was opened to read only, so it can't be locked"), reader.lock("x"):
        pass
    # Not only our own manners: the database itself refuses.
    with pytest.raises(StorageError, match=r"must answer, but: .*read-?only"), reader.reading() as other:
        other.execute(schema.phases.insert().values(_phase("b")))
    assert reader.storage.get_all_studies() == []
    assert reader.now() > 1e9
    writer.close()
    reader.close()


def test_a_readonly_folder_is_read_without_side_files(
    tmp_path: Path, ready_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ready_file, tmp_path / "a.db")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    db = Database.open_readonly(f"sqlite:///{tmp_path}/a.db")
    assert db.storage.get_all_studies() == []
    db.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_a_read_does_not_wait_for_a_writer(url: str) -> None:
    db, other = Database.open(url, create=False), Database.open(url, create=False)
    with db.writing() as connection:
        connection.execute(schema.phases.insert().values(_phase("a")))
        start = time.monotonic()
        with other.reading() as reading:
            reading.execute(sa.select(schema.phases.c.key)).all()
        with other.reading_only():
            other.storage.get_all_studies()
        assert time.monotonic() - start < 5
    db.close()
    other.close()


def test_a_write_inside_a_read_takes_the_write_lock_at_once(tmp_path: Path, ready_file: Path) -> None:
    shutil.copy(ready_file, tmp_path / "a.db")
    db = Database.open(f"sqlite:///{tmp_path}/a.db", create=False)
    other = sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None)
    with db.reading():
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        with db.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()
    db.close()


def test_writing_is_undone_by_an_exception(db: Database) -> None:
    row = _phase("a")
    with pytest.raises(StorageError, match=r"(?i)unique"), db.writing() as connection:
        connection.execute(schema.phases.insert(), [row, row])
    with db.reading() as connection:
        assert connection.execute(sa.select(schema.phases.c.key)).all() == []


def test_errors_later_on_are_one_sentence(db: Database) -> None:
    said = r"the database \S+ must answer, but: .*nothing.*\. What was"
    with pytest.raises(StorageError, match=said) as caught, db.reading() as connection:
        connection.execute(sa.text("SELECT * FROM nothing"))
    assert "\n" not in str(caught.value)


def test_the_clock_is_the_databases(url: str) -> None:
    db = Database.open(url, create=False)
    assert abs(db.now() - time.time()) < 60
    assert 0 <= -db.now() + db.now() < 10
    db.close()
    db = Database.open(url, create=False, clock=lambda: 17.5)
    assert db.now() == 17.5
    db.close()


def test_pickling_is_refused(db: Database) -> None:
    with pytest.raises(
        TypeError, match=r"a Database can't be pickled: its connections .* Send the URL and open it there"
    ):
        pickle.dumps(db)


def test_repr_and_url_hide_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    from autoprune.search.storage.address import Address

    address = Address.parse("postgresql://me:s3cret@h:5432/db")
    assert address.shown == "postgresql+psycopg://me:***@h:5432/db"
    assert "s3cret" not in repr(address)
    assert address.redact("could not: s3cret\n is wrong.") == "could not: *** is wrong"
    db = Database.open(f"sqlite:///{tmp_path}/a.db", create=True)
    assert repr(db) == f"Database('sqlite:///{tmp_path}/a.db')"
    db.close()


# The lock


def _increment(db: Database, counter: list[int], times: int) -> None:
    for _ in range(times):
        with db.lock("x"):
            value = counter[0]
            time.sleep(0.0005)
            counter[0] = value + 1


@pytest.mark.parametrize("shared", [True, False], ids=["one object", "an object each"])
def test_the_lock_excludes_threads(url: str, shared: bool) -> None:
    dbs = [Database.open(url, create=False)] * 4 if shared else [Database.open(url, create=False) for _ in range(4)]
    counter = [0]
    threads = [threading.Thread(target=_increment, args=(db, counter, 25)) for db in dbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counter == [100]
    for db in dbs:
        db.close()


def test_the_lock_may_be_taken_again_inside(db: Database) -> None:
    with db.lock("x"), db.lock("x"):
        pass
    with db.lock("x"):
        pass


def test_the_lock_dies_with_its_holder(url: str) -> None:
    script = (
        "import sys, time\n"
        "from autoprune.search.storage import Database\n"
        "db = Database.open(sys.argv[1], create=False)\n"
        "with db.lock('x'):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with run_script(script, url) as holder:
        try:
            assert _stdout(holder).readline() == "locked\n"
            db = Database.open(url, create=False)
            free = threading.Event()
            waiter = threading.Thread(target=_take, args=(db, free.set))
            waiter.start()
            assert not free.wait(0.5)
        finally:
            holder.kill()
        assert free.wait(60)
        waiter.join()
        db.close()


def _take(db: Database, then: Callable[[], None]) -> None:
    with db.lock("x"):
        then()


@pytest.mark.parametrize("kind", ["postgres"])
def test_a_server_that_drops_its_connections_is_asked_again(url: str) -> None:
    db, other = Database.open(url, create=False), Database.open(url, create=False)
    assert db.storage.get_all_studies() == []
    drop = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                   " AND pid <> pg_backend_pid()")  # fmt: skip
    with other.writing() as connection:
        connection.execute(drop)
    assert db.now() > 1e9
    assert db.storage.get_all_studies() == []
    # A lock that was lost on the way is said, not passed over: another process may have been inside.
    taken = contextlib.ExitStack()
    taken.enter_context(db.lock("x"))
    with other.writing() as connection:
        connection.execute(drop)
    with pytest.raises(StorageError, match=r"must answer, but: .*terminat"):
        taken.close()
    with db.lock("x"):
        pass
    db.close()
    other.close()


def test_a_lock_that_never_comes_free(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.search.storage.locks.LOCK_TIMEOUT_S", 0.3)
    db, other = Database.open(url, create=False), Database.open(url, create=False)
    with db.lock("x"):
        said = r"must come free, but another process has held it for 0 s\. Look for a stopped"
        with pytest.raises(StorageError, match=said), other.lock("x"):
            pass
    with other.lock("x"):
        pass
    db.close()
    other.close()


def test_optuna_is_quiet_and_the_users_log_level_stays(tmp_path: Path) -> None:
    script = (
        "import sys, optuna\n"
        "from autoprune.search.storage import Database, StudyHandle\n"
        "before = optuna.logging.get_verbosity()\n"
        "db = Database.open(sys.argv[1], create=True)\n"
        "StudyHandle.create_or_join(db, name='s', identity={}, config={}, directions=['maximize', 'minimize'])\n"
        "assert optuna.logging.get_verbosity() == before == optuna.logging.INFO\n"
        "db.close()\n"
    )
    with run_script(script, f"sqlite:///{tmp_path}/a.db") as process:
        out, error = process.communicate(timeout=60)
    assert (out, error) == ("", "")


def test_importing_search_loads_neither_torch_nor_ray() -> None:
    script = "import sys, autoprune.search\nprint(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    with run_script(script) as process:
        out, error = process.communicate(timeout=60)
    assert (out, error) == ("[]\n", "")


def _phase(key: str) -> dict[str, object]:
    return {"key": key, "kind": "dense", "owner": "me", "expires_at": 0.0, "created_at": 0.0, "used_at": 0.0}


_OPEN_WRITE_CLOSE = """
import sys
from autoprune.search.storage import Database
db = Database.open(sys.argv[1], create=False)
with db.writing() as connection:
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS other (x INTEGER)")
db.close()
"""


def test_opening_a_file_twice_keeps_its_locks_so_that_nobody_deletes_the_log(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    db = Database.open(url, create=True)
    with db.reading() as connection:
        connection.exec_driver_sql("SELECT 1 FROM autoprune_schema").all()
    second = Database.open(url, create=False)
    log = (tmp_path / "a.db-wal").stat().st_ino
    subprocess.run([sys.executable, "-c", _OPEN_WRITE_CLOSE, url], check=True)
    assert (tmp_path / "a.db-wal").stat().st_ino == log
    with db.writing() as connection:
        connection.exec_driver_sql("INSERT INTO other VALUES (1)")
    second.close()
    db.close()
