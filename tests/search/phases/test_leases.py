from __future__ import annotations

from typing import Any

import pytest

from autoprune.search.phases import PhaseLeases, PhaseRows
from autoprune.search.storage import Database

FILE = {"key": "k", "place": "/x", "sha256": "s", "size_bytes": 1}


@pytest.fixture
def mine(db: Database) -> PhaseLeases:
    return PhaseLeases(PhaseRows(db), owner="mine", grace_s=10)


@pytest.fixture
def theirs(db: Database) -> PhaseLeases:
    return PhaseLeases(PhaseRows(db), owner="theirs", grace_s=10)


def test_two_workers_of_one_driver_do_not_compute_the_same(mine: PhaseLeases, theirs: PhaseLeases) -> None:
    assert mine.take("k", "sparsify", holder=1) == "mine"
    assert mine.take("k", "sparsify", holder=2) == "busy"
    assert theirs.take("k", "sparsify", holder=1) == "busy"
    assert mine.publish("sparsify", holder=1, file=FILE)
    assert mine.take("k", "sparsify", holder=2) == "ready"
    assert theirs.take("k", "sparsify", holder=1) == "ready"


def test_beats_keep_what_is_held_and_nothing_else(mine: PhaseLeases, theirs: PhaseLeases, clock: Any) -> None:
    assert mine.take("k", "sparsify", holder=1) == "mine"
    assert mine.take("given up", "sparsify", holder=2) == "mine"
    for _ in range(5):
        clock.now += 9
        mine.beat()
        assert theirs.take("k", "sparsify", holder=7) == "busy"
    mine.give_up(2)
    mine.give_up(3)  # It holds nothing.
    assert theirs.take("given up", "sparsify", holder=7) == "mine"
    clock.now += 11
    assert theirs.take("k", "sparsify", holder=8) == "mine"
    # Taken over: neither a beat nor the late end of the old holder touches the new one's lease.
    mine.beat()
    mine.give_up(1)
    assert mine.take("k", "sparsify", holder=1) == "busy"


def test_what_was_found_is_published_without_a_lease(mine: PhaseLeases, theirs: PhaseLeases) -> None:
    assert mine.publish("sparsify", holder=1, file=FILE)
    assert not theirs.publish("sparsify", holder=1, file=FILE)
    mine.give_up(1)
    assert theirs.take("k", "sparsify", holder=1) == "ready"
    theirs.forget("k")
    assert theirs.take("k", "sparsify", holder=1) == "mine"
