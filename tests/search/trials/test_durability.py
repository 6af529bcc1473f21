"""Which transactions of a SQLite file are flushed to the disk: each claim and each tell, and no beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle
from tests.search.trials.test_lifecycle import proposal

NORMAL, FULL = 1, 2


@pytest.fixture
def lifecycle(tmp_path: Path) -> Iterator[Lifecycle]:
    db = Database.open(f"sqlite:///{tmp_path}/a.db", create=True)
    study = StudyHandle.create_or_join(db, name="s", identity={}, config={}, directions=["maximize", "minimize"])
    yield Lifecycle(study, owner="me", n_trials=9)
    db.close()


@contextmanager
def commits(db: Database) -> Iterator[list[tuple[int, set[str]]]]:
    """Of each transaction that wrote, how it is committed and the tables that it wrote to."""
    found: list[tuple[int, set[str]]] = []
    written: dict[int, set[str]] = {}
    engines = (db._engine, db.storage._backend.engine)  # type: ignore[attr-defined]

    def execute(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        verb, *words = statement.split()
        if verb in ("INSERT", "UPDATE", "DELETE"):
            table = words[0] if verb == "UPDATE" else words[1]
            written.setdefault(id(connection), set()).add(table)

    def commit(connection: sa.Connection) -> None:
        tables = written.pop(id(connection), set())
        if tables:
            # Asked of SQLite itself, on the very connection that commits.
            level = connection.connection.cursor().execute("PRAGMA synchronous").fetchone()[0]
            found.append((level, tables))

    listened = [(engine, event, hear) for engine in engines for event, hear in
                (("before_cursor_execute", execute), ("commit", commit))]  # fmt: skip
    for engine, event, hear in listened:
        sa.event.listen(engine, event, hear)
    yield found
    for engine, event, hear in listened:
        sa.event.remove(engine, event, hear)


def claim(lifecycle: Lifecycle, x: int = 0) -> Claim:
    claimed = lifecycle.claim(proposal(x))
    assert isinstance(claimed, Claim)
    return claimed


def test_a_claim_is_one_flush(lifecycle: Lifecycle) -> None:
    with commits(lifecycle.study.db) as made:
        claim(lifecycle)
    tables = {"trials", "trial_params", "trial_user_attributes", "trial_system_attributes", "autoprune_leases"}
    assert made == [(FULL, tables)]


def test_a_beat_and_progress_are_not_flushed(lifecycle: Lifecycle) -> None:
    trial_id = claim(lifecycle).trial_id
    with commits(lifecycle.study.db) as made:
        lifecycle.beat([trial_id], progress={trial_id: {"phase": "dense"}})
        lifecycle.reached(trial_id, {"0": 0.5})
    assert len(made) >= 2
    assert {level for level, _ in made} == {NORMAL}


TELLS: dict[str, Callable[[Lifecycle, int], object]] = {
    "complete": lambda lifecycle, trial_id: lifecycle.complete(trial_id, (0.9, 0.5), {"weights": "w"}),
    "stopped": lambda lifecycle, trial_id: lifecycle.stopped(trial_id, {"rungs": {"0": 0.1}}),
    "failed": lambda lifecycle, trial_id: lifecycle.failed(trial_id, "bad"),
    "retried": lambda lifecycle, trial_id: lifecycle.failed(trial_id, "the worker died", retry=True),
    "released": lambda lifecycle, trial_id: lifecycle.release(trial_id, "interrupted"),
}


@pytest.mark.parametrize("how", TELLS)
def test_what_is_told_is_one_flush(lifecycle: Lifecycle, how: str) -> None:
    trial_id = claim(lifecycle).trial_id
    with commits(lifecycle.study.db) as made:
        TELLS[how](lifecycle, trial_id)
    ((level, tables),) = made
    assert level == FULL
    assert {"trials", "autoprune_leases"} <= tables


def test_the_claim_of_a_waiting_trial_is_one_flush(lifecycle: Lifecycle) -> None:
    lifecycle.release(claim(lifecycle).trial_id, "interrupted")
    with commits(lifecycle.study.db) as made:
        assert lifecycle.claim_waiting() is not None
    ((level, tables),) = made
    assert level == FULL
    assert {"trials", "autoprune_leases"} <= tables
