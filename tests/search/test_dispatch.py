from __future__ import annotations

import json
import threading
import time

import pytest
from optuna.trial import TrialState

from autoprune.errors import SpaceExhaustedError, StudyFailedError
from autoprune.search.claims import Claim, Claims
from autoprune.search.database import Database
from autoprune.search.dispatch import Dispatcher, FailureCaps, Nothing, Stopping
from autoprune.search.study import StudyRecord
from autoprune.spec import Range
from tests.search import fakes

OBJECTIVES = ("accuracy", "macs_ratio")


@pytest.fixture
def record(tmp_path):
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    yield StudyRecord.create_or_join(
        db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
    )
    db.close()


def make(record, *, n_trials=6, concurrency=2, owner="me", lease_s=60.0, space=None, caps=(3, 20), **more):
    claims = Claims(record, owner=owner, n_trials=n_trials, grace_s=lease_s)
    proposer = fakes.proposer(space or fakes.space(), n_trials=n_trials)
    return Dispatcher(
        record, claims, proposer, concurrency=concurrency, caps=FailureCaps(*caps),
        objectives=OBJECTIVES, lease_s=lease_s, **more,
    )  # fmt: skip


def complete(dispatcher, handle, claim, **changes):
    result = {**fakes.run_trial(claim.attrs["point"]), **changes}
    dispatcher.ended(handle, {"outcome": "complete", "result": json.dumps(result)})


def states(record):
    return [trial.state for trial in record.trials()]


def test_exactly_n_trials_finish_and_then_nothing_is_handed_out(record):
    dispatcher = make(record, n_trials=5)
    for i in range(5):
        claim = dispatcher.next(str(i))
        assert isinstance(claim, Claim)
        complete(dispatcher, str(i), claim)
    assert dispatcher.next("more") is Nothing.EVER
    assert dispatcher.finished
    assert states(record) == [TrialState.COMPLETE] * 5
    assert record.trials()[0].values == [pytest.approx(0.9), 1.0]
    assert record.trials()[0].user_attrs["macs"] == 1_000_000


def test_no_more_than_the_concurrency_at_once(record):
    dispatcher = make(record, concurrency=2)
    claims = [dispatcher.next("a"), dispatcher.next("b")]
    assert dispatcher.next("c") is Nothing.NOW
    complete(dispatcher, "a", claims[0])
    assert isinstance(dispatcher.next("c"), Claim)


@pytest.mark.parametrize(
    ("last", "crashed", "reason"),
    [
        ({"outcome": "failed", "reason": "ValueError: no"}, False, "ValueError: no"),
        ({}, False, "ended without reporting a result"),
        (None, False, "ended without reporting a result"),
        ({"outcome": "complete", "result": '{"accuracy": NaN, "macs_ratio": 0.5}'}, False, "accuracy"),
        ({"outcome": "complete", "result": '{"macs_ratio": 0.5}'}, False, "accuracy"),
    ],
)
def test_a_failed_trial_is_recorded_with_its_reason_and_frees_its_place(record, last, crashed, reason):
    dispatcher = make(record, n_trials=1)
    assert isinstance(dispatcher.next("a"), Claim)
    dispatcher.ended("a", last, crashed=crashed)
    assert states(record) == [TrialState.FAIL]
    assert reason in record.trials()[0].user_attrs["reason"]
    claim = dispatcher.next("b")
    assert isinstance(claim, Claim)
    assert claim.number == 1
    complete(dispatcher, "b", claim)
    assert dispatcher.next("c") is Nothing.EVER


def test_a_lost_worker_is_tried_again_with_the_same_point(record):
    dispatcher = make(record, n_trials=1)
    first = dispatcher.next("a")
    dispatcher.ended("a", None, crashed=True)
    assert states(record) == [TrialState.FAIL, TrialState.WAITING]
    again = dispatcher.next("b")
    assert again.attrs["point"] == first.attrs["point"]
    assert again.attempt == 1


def test_failures_in_a_row_end_the_study_with_the_first_error(record):
    dispatcher = make(record, n_trials=10, caps=(3, 20))
    for i in range(3):
        assert isinstance(dispatcher.next(str(i)), Claim)
        dispatcher.ended(str(i), {"outcome": "failed", "reason": f"error {i}"})
    assert dispatcher.stopping is Stopping.FAILURES
    assert dispatcher.next("more") is Nothing.EVER
    with pytest.raises(
        StudyFailedError, match=r"3 trials failed, 3 of them in a row.*first error, of trial 0: error 0"
    ):
        dispatcher.raise_if_failed()


def test_failures_in_all_end_the_study_too_but_old_ones_are_forgiven_on_resume(record):
    dispatcher = make(record, n_trials=10, caps=(9, 2))
    for i, outcome in enumerate(["failed", "complete", "failed"]):
        claim = dispatcher.next(str(i))
        if outcome == "failed":
            dispatcher.ended(str(i), {"outcome": "failed", "reason": "no"})
        else:
            complete(dispatcher, str(i), claim)
    assert dispatcher.stopping is Stopping.FAILURES
    resumed = make(record, n_trials=10, caps=(9, 2))
    assert resumed.stopping is None
    assert isinstance(resumed.next("x"), Claim)


def test_an_interrupt_gives_running_trials_back(record):
    dispatcher = make(record, n_trials=4)
    claim = dispatcher.next("a")
    dispatcher.heard("a", {"phase": "finetune", "progress": 0.5, "rung": 0, "accuracy": 0.4, "macs_ratio": 0.5})
    assert not dispatcher.should_stop("a")
    dispatcher.interrupt()
    assert dispatcher.should_stop("a")
    assert dispatcher.next("b") is Nothing.EVER
    dispatcher.ended("a", {"phase": "finetune", "progress": 0.6})
    assert states(record) == [TrialState.FAIL, TrialState.WAITING]
    assert record.trials()[0].user_attrs["reason"] == "interrupted"
    again = make(record, n_trials=4, owner="next").next("a")
    assert again.attrs == claim.attrs
    assert again.attempt == 0


def test_at_a_time_limit_running_trials_keep_their_best_rung(record):
    dispatcher = make(record, n_trials=4, time_limit_s=0.2)
    dispatcher.next("scored")
    dispatcher.next("young")
    dispatcher.heard("scored", {"phase": "finetune", "progress": 0.0, "rung": 0, "accuracy": 0.4, "macs_ratio": 0.5})
    time.sleep(0.25)
    assert dispatcher.stopping is Stopping.TIME
    # The report that a trial is stopped at reaches the searcher only as its last one.
    dispatcher.ended("scored", {"phase": "finetune", "progress": 0.5, "rung": 1, "accuracy": 0.6, "macs_ratio": 0.5})
    dispatcher.ended("young", {"phase": "sparsify", "progress": 0.5})
    assert states(record) == [TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING]
    attrs = record.trials()[0].user_attrs
    assert (attrs["partial_accuracy"], attrs["partial_macs_ratio"]) == (0.6, 0.5)
    assert attrs["rungs"] == {"0": 0.4, "1": 0.6}


def test_a_stop_request_reaches_the_driver(record):
    dispatcher = make(record, lease_s=0.5)
    with dispatcher:
        record.request_stop()
        deadline = time.monotonic() + 10
        while dispatcher.stopping is None and time.monotonic() < deadline:
            time.sleep(0.02)
    assert dispatcher.stopping is Stopping.REQUEST
    assert make(record).stopping is None


def test_leases_outlive_many_grace_periods_and_are_lost_without_beats(record):
    dispatcher = make(record, n_trials=1, lease_s=0.5)
    other = make(record, n_trials=1, owner="other", lease_s=0.5)
    with dispatcher:
        claim = dispatcher.next("a")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert other.next("x") is Nothing.NOW
            time.sleep(0.05)
    # The keeper has ended with the block, as if the driver had been killed.
    time.sleep(0.6)
    taken = other.next("x")
    while taken is Nothing.NOW:
        time.sleep(0.05)
        taken = other.next("x")
    assert taken.attrs["point"] == claim.attrs["point"]
    complete(dispatcher, "a", claim)  # The late result is dropped.
    complete(other, "x", taken)
    assert states(record) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_space_with_nothing_new_ends_the_study_and_says_so(record):
    space = fakes.space(methods={"plain": {}}, width_rules=("uniform",), macs_target=Range(low=0.5, high=0.5, step=0.1))
    dispatcher = make(record, n_trials=9, space=space)
    for handle in ("dense", "half"):
        complete(dispatcher, handle, dispatcher.next(handle))
    assert dispatcher.next("more") is Nothing.EVER
    with pytest.raises(SpaceExhaustedError, match="gave nothing that was not tried in 2 trials"):
        dispatcher.raise_if_failed()


def test_an_error_of_the_driver_itself_is_raised_and_not_hidden(record):
    dispatcher = make(record)
    dispatcher.next("a")
    dispatcher.broke(KeyError("bug"))
    dispatcher.abandon()
    assert states(record) == [TrialState.FAIL, TrialState.WAITING]
    with pytest.raises(KeyError, match="bug"):
        dispatcher.raise_if_failed()


def test_two_drivers_share_a_study_and_finish_exactly_n(tmp_path):
    url, finished = f"sqlite:///{tmp_path}/shared.db", []

    def drive(owner):
        db = Database.open(url, create=True)
        record = StudyRecord.create_or_join(
            db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
        )
        dispatcher = make(record, n_trials=14, owner=owner)
        while (claim := dispatcher.next(owner)) is not Nothing.EVER:
            if isinstance(claim, Claim):
                complete(dispatcher, owner, claim)
                finished.append(claim.number)
        db.close()

    threads = [threading.Thread(target=drive, args=(f"driver {i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == list(range(14))
    record = StudyRecord.open(Database.open(url, create=False), "s")
    assert states(record) == [TrialState.COMPLETE] * 14
    assert len({trial.user_attrs["key"] for trial in record.trials()}) == 14
