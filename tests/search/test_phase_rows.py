from __future__ import annotations

import threading
from typing import Any

import pytest

from autoprune.errors import LeaseLostError
from autoprune.search.database import Database
from autoprune.search.phase_rows import PhasePlace, PhaseRows


@pytest.fixture
def rows(db: Database) -> PhaseRows:
    return PhaseRows(db)


def test_from_claim_to_ready(rows: PhaseRows, clock: Any) -> None:
    assert rows.place_of("k") is None
    assert rows.claim("k", "dense", "a", 10) == "mine"
    assert rows.claim("k", "dense", "b", 10) == "busy"
    assert rows.claim("k", "dense", "a", 10) == "mine"
    assert rows.place_of("k") is None
    clock.now += 1
    assert rows.publish("k", place="/x", sha256="0" * 64, size_bytes=2**40) == "/x"
    assert rows.claim("k", "dense", "b", 10) == "ready"
    assert rows.claim("k", "dense", "a", 10) == "ready"
    clock.now += 1
    assert rows.place_of("k") == PhasePlace(
        key="k", kind="dense", place="/x", sha256="0" * 64, size_bytes=2**40, used_at=clock.now
    )


def test_an_owner_that_dies_is_replaced(rows: PhaseRows, clock: Any) -> None:
    assert rows.claim("k", "dense", "a", 10) == "mine"
    clock.now += 9
    assert rows.beat("k", "a", 10)
    clock.now += 9
    assert rows.claim("k", "dense", "b", 10) == "busy"
    clock.now += 1
    assert rows.claim("k", "dense", "b", 10) == "mine"
    assert not rows.beat("k", "a", 10)
    assert rows.beat("k", "b", 10)
    # The first to publish counts, even if it was the one thought dead; the other learns where the result lies.
    assert rows.publish("k", place="/a", sha256="a", size_bytes=1) == "/a"
    assert not rows.beat("k", "b", 10)
    assert rows.publish("k", place="/b", sha256="b", size_bytes=1) == "/a"


def test_a_forgotten_result_is_computed_anew(rows: PhaseRows) -> None:
    rows.claim("k", "dense", "a", 10)
    rows.publish("k", place="/x", sha256="s", size_bytes=1)
    rows.forget("k")
    rows.forget("never there")
    assert rows.place_of("k") is None
    assert rows.claim("k", "dense", "b", 10) == "mine"


def test_publishing_what_was_never_claimed(rows: PhaseRows) -> None:
    with pytest.raises(
        LeaseLostError, match="must be claimed before it is published, but the ledger has no row of 'k'"
    ):
        rows.publish("k", place="/x", sha256="s", size_bytes=1)


def test_the_longest_unused_come_first(rows: PhaseRows, clock: Any) -> None:
    for key in ("a", "b", "c"):
        clock.now += 1
        rows.claim(key, "sparsify", "me", 10)
        rows.publish(key, place=f"/{key}", sha256="s", size_bytes=1)
    rows.claim("unfinished", "dense", "me", 10)
    clock.now += 1
    rows.place_of("a")
    clock.now += 1
    rows.claim("b", "sparsify", "other", 10)
    assert [row.key for row in rows.by_last_use()] == ["c", "a", "b"]


def test_one_of_many_at_once_gets_it(url: str) -> None:
    dbs = [Database.open(url, create=False) for _ in range(4)]
    got: list[str] = []

    def work(i: int) -> None:
        rows = PhaseRows(dbs[i])
        got.extend(f"{key} {rows.claim(str(key), 'dense', f'owner {i}', 60)}" for key in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer for answer in got if answer.endswith("mine")) == [f"{key} mine" for key in range(10)]
    assert len([answer for answer in got if answer.endswith("busy")]) == 30
    for db in dbs:
        db.close()
