"""A real PostgreSQL server goes away under a driver, and comes back: trials go on, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from optuna.trial import TrialState

from autoprune.config import Completed, Progressed
from autoprune.errors import OutageError
from autoprune.search.dispatch import Complete, Dispatcher, Nothing, Outage
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle
from tests.postgres import Postgres, PrivateServer, private_server
from tests.search import fakes
from tests.search.dispatch.test_desk import OBJECTIVES, make, scored

LEASE_S = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with private_server() as found:
        yield found


@pytest.fixture
def record(server: PrivateServer) -> Iterator[StudyHandle]:
    db = Database.open(Postgres(server.url).blank(), create=True)
    yield StudyHandle.create_or_join(
        db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
    )
    db.close()


def ask(dispatcher: Dispatcher, handle: str, *, for_s: float = 60.0) -> Claim:
    """Ask for a trial until there is one, as Tune does."""
    deadline = time.monotonic() + for_s
    while not isinstance(found := dispatcher.next(handle), Claim):
        assert found is Nothing.NOW
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def completed(claim: Claim) -> Completed:
    return Completed(result=fakes.run_trial(claim.attrs["point"]))


def test_trials_go_on_and_are_told_when_the_server_is_back(server: PrivateServer, record: StudyHandle) -> None:
    said: list[str] = []
    dispatcher = make(record, n_trials=4, lease_s=LEASE_S, outage=Outage(tell=said.append))
    other = Lifecycle(record, owner="other", n_trials=4, grace_s=LEASE_S)
    with dispatcher:
        first, second = ask(dispatcher, "first"), ask(dispatcher, "second")
        server.stop()
        try:
            # Everything that a trial says is heard; none is told to stop.
            file = {"key": "phase", "place": "/x", "sha256": "s", "size_bytes": 1}
            for word in (
                Progressed(phase="sparsify", progress=1.0, phase_file=file),
                Progressed(phase="surgery", progress=0.0, macs_ratio=0.5, result_key="key"),
                scored(0, 0.5),
            ):
                assert not dispatcher.should_stop("first", word)
                dispatcher.heard("first", word)
            assert isinstance(dispatcher.ended("first", completed(first)), Complete)
            deadline = time.monotonic() + 2 * LEASE_S  # Longer than any lease holds.
            while time.monotonic() < deadline:
                assert dispatcher.next("third") is Nothing.NOW
                time.sleep(0.05)
            assert not dispatcher.finished
        finally:
            server.start()
        third = ask(dispatcher, "third")
        states = {trial.number: trial.state for trial in record.trials()}
        assert states == {
            first.number: TrialState.COMPLETE, second.number: TrialState.RUNNING, third.number: TrialState.RUNNING,
        }  # fmt: skip
        assert record.trials()[first.number].values == [
            fakes.run_trial(first.attrs["point"])[name] for name in OBJECTIVES
        ]
        assert [row.key for row in PhaseRows(record.db).by_last_use()] == ["phase"]
        assert other.reap() == []  # The leases were the first thing to be renewed.
        assert isinstance(dispatcher.ended("second", completed(second)), Complete)
        assert isinstance(dispatcher.ended("third", completed(third)), Complete)
        last = ask(dispatcher, "fourth")
        dispatcher.ended("fourth", completed(last))
        assert dispatcher.finished
    assert [trial.state for trial in record.trials()] == [TrialState.COMPLETE] * 4
    gone, back = said
    assert "the database does not answer" in gone
    assert "up to 30 min" in gone
    assert "answers again" in back


def test_a_result_is_told_at_last_after_the_driver_has_nothing_else_to_do(
    server: PrivateServer, record: StudyHandle
) -> None:
    dispatcher = make(record, n_trials=1)
    with dispatcher:
        claim = ask(dispatcher, "only")
        server.stop()
        try:
            dispatcher.ended("only", completed(claim))
        finally:
            server.start()
        dispatcher.abandon()
    assert [trial.state for trial in record.trials()] == [TrialState.COMPLETE]


def test_an_interrupted_driver_does_not_wait_and_its_trial_is_tried_again(
    server: PrivateServer, record: StudyHandle
) -> None:
    dispatcher = make(record, n_trials=1, lease_s=LEASE_S)
    with dispatcher:
        ask(dispatcher, "only")
        server.stop()
        try:
            dispatcher.interrupt()
            start = time.monotonic()
            dispatcher.abandon()
            assert time.monotonic() - start < 5.0
        finally:
            server.start()
    time.sleep(LEASE_S)
    heir = Lifecycle(record, owner="heir", n_trials=1, grace_s=LEASE_S)
    assert len(heir.reap()) == 1
    assert heir.claim_waiting() is not None


def test_too_long_an_outage_is_told(server: PrivateServer, record: StudyHandle) -> None:
    dispatcher = make(record, outage=Outage(up_to_s=0.5))
    with dispatcher:
        ask(dispatcher, "first")
        server.stop()
        try:
            with pytest.raises(OutageError, match=r"the database postgresql\S+ must answer, but"):
                ask(dispatcher, "second", for_s=20.0)
        finally:
            server.start()


def test_the_waits_grow_and_end(server: PrivateServer) -> None:
    now = [0.0]
    outage, slept = Outage(up_to_s=60.0, clock=lambda: now[0]), list[float]()

    def fail() -> None:
        raise OutageError("away")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with pytest.raises(OutageError, match="away"):
        outage.ridden_out(fail, sleep=sleep)
    assert slept[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert 60.0 <= sum(slept) < 75.0
    assert outage.is_on
    assert outage.ridden_out(lambda: 7, sleep=sleep) == 7
    assert not outage.is_on
