from __future__ import annotations

import threading
from typing import Any

import pytest

from autoprune.search.phases import PhasePlace, PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Claim, Lifecycle, Proposal


@pytest.fixture
def rows(db: Database) -> PhaseRows:
    return PhaseRows(db)


def publish(rows: PhaseRows, key: str, owner: str, **result: Any) -> bool:
    return rows.publish(
        key, **{"kind": "sparsify", "owner": owner, "place": "/x", "sha256": "s", "size_bytes": 1, **result}
    )


def test_from_claim_to_ready(rows: PhaseRows, clock: Any) -> None:
    assert rows.by_last_use() == []
    assert rows.claim("k", "dense", owner="a", grace_s=10) == "mine"
    assert rows.claim("k", "dense", owner="b", grace_s=10) == "busy"
    assert rows.claim("k", "dense", owner="a", grace_s=10) == "mine"
    assert rows.by_last_use() == []
    clock.now += 1
    assert publish(rows, "k", "a", kind="dense", sha256="0" * 64, size_bytes=2**40)
    assert rows.claim("k", "dense", owner="b", grace_s=10) == "ready"
    clock.now += 1
    assert rows.claim("k", "dense", owner="a", grace_s=10) == "ready"
    assert rows.by_last_use() == [
        PhasePlace(key="k", kind="dense", place="/x", sha256="0" * 64, size_bytes=2**40, used_at=clock.now)
    ]


def test_an_owner_that_dies_is_replaced(rows: PhaseRows, clock: Any) -> None:
    assert rows.claim("k", "dense", owner="a", grace_s=10) == "mine"
    clock.now += 9
    assert rows.beat("k", "a", grace_s=10)
    clock.now += 9
    assert rows.claim("k", "dense", owner="b", grace_s=10) == "busy"
    clock.now += 1
    assert rows.claim("k", "dense", owner="b", grace_s=10) == "mine"
    assert not rows.beat("k", "a", grace_s=10)
    assert rows.beat("k", "b", grace_s=10)
    # The one thought dead was only slow: its result is as good, and the other need not go on.
    assert publish(rows, "k", "a")
    assert not rows.beat("k", "b", grace_s=10)


def test_who_gives_up_makes_room_and_nobody_gives_up_for_another(rows: PhaseRows) -> None:
    assert rows.claim("k", "sparsify", owner="a", grace_s=10) == "mine"
    rows.give_up("k", "b")
    rows.give_up("never there", "a")
    assert rows.claim("k", "sparsify", owner="b", grace_s=10) == "busy"
    rows.give_up("k", "a")
    assert rows.claim("k", "sparsify", owner="b", grace_s=10) == "mine"
    publish(rows, "k", "b")
    rows.give_up("k", "b")  # What is published stays.
    assert rows.claim("k", "sparsify", owner="a", grace_s=10) == "ready"


def test_only_what_was_not_known_is_news(rows: PhaseRows) -> None:
    rows.claim("k", "sparsify", owner="a", grace_s=10)
    assert publish(rows, "k", "a")
    assert not publish(rows, "k", "b")
    # Damaged, computed anew and published again: the row says what lies there now.
    assert publish(rows, "k", "b", sha256="t", size_bytes=2)
    (place,) = rows.by_last_use()
    assert (place.sha256, place.size_bytes) == ("t", 2)
    assert publish(rows, "nobody claimed it", "a")
    assert rows.claim("nobody claimed it", "sparsify", owner="b", grace_s=10) == "ready"


def test_a_forgotten_result_is_computed_anew(rows: PhaseRows) -> None:
    rows.claim("k", "dense", owner="a", grace_s=10)
    publish(rows, "k", "a")
    rows.forget("k")
    rows.forget("never there")
    assert rows.by_last_use() == []
    assert rows.claim("k", "dense", owner="b", grace_s=10) == "mine"


def test_the_longest_unused_come_first(rows: PhaseRows, clock: Any) -> None:
    for key in ("a", "b", "c"):
        clock.now += 1
        rows.claim(key, "sparsify", owner="me", grace_s=10)
        publish(rows, key, "me", place=f"/{key}")
    rows.claim("unfinished", "dense", owner="me", grace_s=10)
    clock.now += 1
    rows.claim("a", "sparsify", owner="me", grace_s=10)
    clock.now += 1
    rows.claim("b", "sparsify", owner="other", grace_s=10)
    assert [row.key for row in rows.by_last_use()] == ["c", "a", "b"]


def test_in_use_is_what_trials_that_run_or_wait_start_from(rows: PhaseRows, db: Database) -> None:
    ended = []
    for name in ("one", "other"):
        study = StudyHandle.create_or_join(db, name=name, identity={}, config={}, directions=["maximize", "minimize"])
        lifecycle = Lifecycle(study, owner="me", n_trials=9)
        for place in ("ends", "runs", "waits"):
            key = f"{name} {place}"
            claim = lifecycle.claim(Proposal(params={}, distributions={}, key=key, attrs={Attr.PHASE: key}))
            assert isinstance(claim, Claim)
            ended.append((lifecycle, place, claim.trial_id))
        lifecycle.claim(Proposal(params={}, distributions={}, key="has no phase"))
    assert len(rows.in_use()) == 6
    for lifecycle, place, trial_id in ended:
        if place == "ends":
            lifecycle.complete(trial_id, [0.5, 0.5], {})
        elif place == "waits":
            lifecycle.release(trial_id, "interrupted")
    assert rows.in_use() == {"one runs", "one waits", "other runs", "other waits"}


def test_one_of_many_at_once_gets_it(url: str) -> None:
    dbs = [Database.open(url, create=False) for _ in range(4)]
    got: list[str] = []

    def work(i: int) -> None:
        rows = PhaseRows(dbs[i])
        got.extend(f"{key} {rows.claim(str(key), 'dense', owner=f'owner {i}', grace_s=60)}" for key in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer for answer in got if answer.endswith("mine")) == [f"{key} mine" for key in range(10)]
    assert len([answer for answer in got if answer.endswith("busy")]) == 30
    for db in dbs:
        db.close()
