from __future__ import annotations

import math
import threading
import time

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.config import ACCURACY, Completed, Failed, Progressed, Range, Stopped
from autoprune.errors import SpaceExhaustedError, StorageError, StudyFailedError
from autoprune.search.dispatch import (
    Complete,
    Dispatcher,
    FailureCaps,
    Goals,
    Nothing,
    Patience,
    SharedPhases,
    Stopper,
    Stopping,
    WindDown,
)
from autoprune.search.phases import PhaseLeases, PhaseRows
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, Point, StoredTrial
from tests.search import fakes

OBJECTIVES = ("accuracy", "macs_ratio")
NO_LIMITS: dict[str, float] = {}


class Clock:
    """The database's clock, moved by hand: no lease runs out because this machine was busy."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now

    def advance(self, seconds, *, but_wait_for=None):
        """Move on; with a study, not before each lease was renewed at the new time by whoever keeps it."""
        self.now += seconds
        deadline = time.monotonic() + 60
        while but_wait_for is not None and any(lease < self.now + seconds for lease in leases(but_wait_for)):
            assert time.monotonic() < deadline, "nobody renews the leases"
            time.sleep(0.01)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def record(tmp_path, clock):
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True, clock=clock)
    yield StudyHandle.create_or_join(
        db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
    )
    db.close()


def make(
    record, *, n_trials=6, concurrency=2, owner="me", lease_s=60.0, space=None, caps=(3, 20), time_limit_s=None,
    limits=NO_LIMITS, phase_of=lambda point: None, on_published=lambda: None, metric=ACCURACY, **more,
):  # fmt: skip
    lifecycle = Lifecycle(record, owner=owner, n_trials=n_trials, grace_s=lease_s)
    return Dispatcher(
        lifecycle,
        fakes.proposer(space or fakes.space(), n_trials=n_trials, metric=metric),
        wind_down=WindDown(lifecycle, caps=FailureCaps(*caps), time_limit_s=time_limit_s),
        goals=Goals((metric.name, "macs_ratio"), limits, metric),
        concurrency=concurrency,
        shared=SharedPhases(phase_of, on_published),
        **more,
    )


def leases(record):
    """Until when the leases of trials and of phases hold."""
    with record.db.reading() as connection:
        tables = (schema.leases, schema.phases)
        return [row for table in tables for row in connection.execute(sa.select(table.c.expires_at)).scalars()]


def look_again(dispatcher, handle):
    """Ask for a trial without the wait after a look that found nothing."""
    dispatcher._look_at = 0.0
    return dispatcher.next(handle)


def tuning(progress, **more):
    return Progressed(phase="finetune", progress=progress, **more)


def scored(rung, accuracy, *, progress=0.0):
    return tuning(progress, rung=rung, score=accuracy, macs_ratio=0.5)


def complete(dispatcher, handle, claim, **changes):
    result = {**fakes.run_trial(claim.attrs["point"]), **changes}
    dispatcher.ended(handle, Completed(result=result))


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


def test_a_trial_that_takes_too_long_is_named_once_and_tried_again(record):
    dispatcher = make(record, trial_limit_s=100.0)
    dispatcher.next("a")
    dispatcher.next("b")
    dispatcher.heard("a", tuning(0.25))
    assert dispatcher.overdue() == []
    dispatcher.begun("a")
    assert dispatcher.overdue() == []
    dispatcher.live["a"].since -= 101
    assert dispatcher.overdue() == ["a"]
    assert dispatcher.overdue() == []
    dispatcher.ended("a", tuning(0.25), crashed=True)
    ended, _, again = record.trials()
    assert ended.state is TrialState.FAIL
    assert (
        "took longer than `trial_time_limit`, 100 s, and was last heard of at finetune 25%"
        in (ended.user_attrs["reason"])
    )
    assert again.state is TrialState.WAITING
    assert make(record).overdue() == []  # Without a limit nothing is.


def test_no_more_than_the_concurrency_at_once(record):
    dispatcher = make(record, concurrency=2)
    claims = [dispatcher.next("a"), dispatcher.next("b")]
    assert dispatcher.next("c") is Nothing.NOW
    complete(dispatcher, "a", claims[0])
    assert isinstance(dispatcher.next("c"), Claim)


@pytest.mark.parametrize(
    ("last", "crashed", "reason"),
    [
        (Failed(reason="ValueError: no"), False, "ValueError: no"),
        (tuning(1.0), False, "ended without reporting a result"),
        (None, False, "ended without reporting a result"),
        (Completed(result={"accuracy": math.nan, "macs_ratio": 0.5}), False, "accuracy"),
        (Completed(result={"macs_ratio": 0.5}), False, "accuracy"),
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
        dispatcher.ended(str(i), Failed(reason=f"error {i}"))
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
            dispatcher.ended(str(i), Failed(reason="no"))
        else:
            complete(dispatcher, str(i), claim)
    assert dispatcher.stopping is Stopping.FAILURES
    resumed = make(record, n_trials=10, caps=(9, 2))
    assert resumed.stopping is None
    assert isinstance(resumed.next("x"), Claim)


def test_an_interrupt_gives_running_trials_back(record):
    dispatcher = make(record, n_trials=4)
    claim = dispatcher.next("a")
    dispatcher.heard("a", Progressed(phase="finetune", progress=0.5, rung=0, score=0.4, macs_ratio=0.5))
    assert not dispatcher.should_stop("a")
    dispatcher.interrupt()
    assert dispatcher.should_stop("a")
    assert dispatcher.next("b") is Nothing.EVER
    dispatcher.ended("a", Progressed(phase="finetune", progress=0.6))
    assert states(record) == [TrialState.FAIL, TrialState.WAITING]
    assert record.trials()[0].user_attrs["reason"] == "interrupted"
    again = make(record, n_trials=4, owner="next").next("a")
    assert again.attrs == claim.attrs
    assert again.attempt == 0


def test_rungs_of_a_running_trial_are_seen_and_what_became_of_it_is_told(record):
    dispatcher = make(record, n_trials=4)
    claim = dispatcher.next("a")
    for rung, score in enumerate((0.25, math.nan, 0.5)):
        dispatcher.heard("a", Progressed(phase="finetune", progress=0.5, rung=rung, score=score, macs_ratio=0.5))
    (trial,) = map(StoredTrial, record.trials())
    assert (trial.state, trial.rungs) == (TrialState.RUNNING, {0: 0.25, 2: 0.5})
    assert isinstance(make(record, n_trials=4, owner="other").next("b"), Claim)  # A proposer reads it all the same.
    verdict = dispatcher.ended("a", Completed(result=fakes.run_trial(claim.attrs["point"])))
    assert isinstance(verdict, Complete)
    assert verdict.values == record.trials()[0].values
    assert dispatcher.ended("a", None) is None


def test_rungs_that_can_not_be_stored_cost_no_trial(record, monkeypatch):
    dispatcher = make(record, n_trials=4)
    dispatcher.next("a")

    def gone(*_):
        raise StorageError("the database has gone")

    with monkeypatch.context() as patched:
        patched.setattr(Lifecycle, "reached", gone)
        dispatcher.heard("a", Progressed(phase="finetune", progress=0.5, rung=0, score=0.25, macs_ratio=0.5))
    assert dispatcher.stopping is None
    assert dispatcher.live["a"].rungs == {"0": 0.25}


def test_at_a_time_limit_running_trials_keep_their_best_rung(record):
    dispatcher = make(record, n_trials=4, time_limit_s=1000.0)
    dispatcher.next("scored")
    dispatcher.next("young")
    dispatcher.heard("scored", Progressed(phase="finetune", progress=0.0, rung=0, score=0.4, macs_ratio=0.5))
    assert dispatcher.stopping is None
    dispatcher._wind_down._deadline = time.monotonic()
    assert dispatcher.stopping is Stopping.TIME
    # The report that a trial is stopped at reaches the searcher only as its last one.
    dispatcher.ended("scored", Progressed(phase="finetune", progress=0.5, rung=1, score=0.6, macs_ratio=0.5))
    dispatcher.ended("young", Progressed(phase="sparsify", progress=0.5))
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


def test_how_far_a_trial_is_reaches_the_database_with_a_beat(record):
    with make(record, lease_s=0.5) as dispatcher:
        claim = dispatcher.next("a")
        dispatcher.heard("a", tuning(0.25, images_per_s=341.0, seconds_left=60.0))
        (running,) = dispatcher.snapshot().running
        assert (running.progress, running.images_per_s, running.seconds_left) == (0.25, 341.0, 60.0)
        deadline = time.monotonic() + 30
        while (told := StoredTrial(record.trials()[0]).progress) is None or told.progress < 0.25:
            assert time.monotonic() < deadline, "nothing is told"
            time.sleep(0.02)
        assert (told.phase, told.images_per_s, told.seconds_left, told.at) == ("finetune", 341.0, 60.0, 1e9)
        complete(dispatcher, "a", claim)
    assert StoredTrial(record.trials()[0]).progress is None


def test_who_enters_no_thread_beats_by_hand(record, clock):
    dispatcher = make(record, lease_s=60.0)
    claim = dispatcher.next("a")
    for _ in range(3):
        clock.now += 50
        dispatcher.beat()
    complete(dispatcher, "a", claim)
    assert states(record) == [TrialState.COMPLETE]
    assert dispatcher.stopping is None
    record.request_stop()
    dispatcher.beat()
    assert dispatcher.stopping is Stopping.REQUEST


def test_a_given_clock_tells_when_the_time_is_over(record):
    seconds = 0.0
    lifecycle = Lifecycle(record, owner="me", n_trials=3)
    wind_down = WindDown(lifecycle, caps=FailureCaps(3, 20), time_limit_s=100.0, clock=lambda: seconds)
    seconds = 99.0
    assert (wind_down.why, wind_down.seconds_left) == (None, 1.0)
    seconds = 100.0
    assert (wind_down.why, wind_down.seconds_left) == (Stopping.TIME, 0.0)


def test_leases_outlive_many_grace_periods_and_are_lost_without_beats(record, clock):
    dispatcher = make(record, n_trials=1, lease_s=0.5)
    other = make(record, n_trials=1, owner="other", lease_s=0.5)
    with dispatcher:
        claim = dispatcher.next("a")
        for _ in range(10):
            clock.advance(0.25, but_wait_for=record)
            assert look_again(other, "x") is Nothing.NOW
    # The keeper has ended with the block, as if the driver had been killed.
    clock.advance(0.6)
    taken = look_again(other, "x")
    assert taken.attrs["point"] == claim.attrs["point"]
    complete(dispatcher, "a", claim)  # The late result is dropped.
    complete(other, "x", taken)
    assert states(record) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_stalled_study_ends_when_what_runs_has_ended(record):
    patience = Patience(2, maximised=(True, False), worst=(0.0, 1.0))
    dispatcher = make(record, n_trials=9, patience=patience)
    handles = ["a", "b", "c", "d"]
    claims = {handle: dispatcher.next(handle) for handle in handles[:2]}
    complete(dispatcher, "a", claims["a"], accuracy=0.9, macs_ratio=0.1)
    claims["c"] = dispatcher.next("c")
    complete(dispatcher, "b", claims["b"], accuracy=0.8, macs_ratio=0.2)
    claims["d"] = dispatcher.next("d")
    complete(dispatcher, "c", claims["c"], accuracy=0.8, macs_ratio=0.3)
    assert look_again(dispatcher, "e") is Nothing.NOW  # "d" may still add something.
    assert dispatcher.stopping is None
    complete(dispatcher, "d", claims["d"], accuracy=0.7, macs_ratio=0.4)
    assert look_again(dispatcher, "e") is Nothing.EVER
    assert dispatcher.stopping is Stopping.STALLED
    dispatcher.raise_if_failed()


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
        record = StudyHandle.create_or_join(
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
    record = StudyHandle.open(Database.open(url, create=False), "s")
    assert states(record) == [TrialState.COMPLETE] * 14
    assert len({trial.user_attrs["key"] for trial in record.trials()}) == 14


# Phases that several trials share


def phase_file(key="p", sha256="s"):
    return {"key": key, "place": f"/cache/{key}", "sha256": sha256, "size_bytes": 3}


def publish(dispatcher, handle, **file):
    dispatcher.heard(handle, Progressed(phase="sparsify", progress=1.0, phase_file=phase_file(**file)))


def of_method(point):
    """The strong method starts from one shared phase, the plain one from none."""
    return "p" if point.method == "strong" else None


def phase_rows(record):
    with record.db.reading() as connection:
        return {row.key: row.place for row in connection.execute(sa.select(schema.phases))}


def test_a_trial_whose_phase_is_being_computed_is_parked_and_another_one_runs(record):
    dispatcher = make(record, n_trials=20, concurrency=6, phase_of=of_method)
    handed = [dispatcher.next(str(i)) for i in range(6)]
    parked = list(dispatcher.parked.values())
    methods = [claim.attrs["point"]["method"] for claim in handed]
    assert methods.count("strong") == 1
    assert [claim.attrs["point"]["method"] for claim in parked] == ["strong"] * len(parked)
    # Those handed out in place of the parked ones were claimed after them.
    assert 1 <= len(parked) <= 6
    assert handed[-1].number > parked[0].number
    # To everybody else the parked ones run.
    assert states(record) == [TrialState.RUNNING] * (6 + len(parked))
    attrs = [trial.user_attrs for trial in record.trials()]
    assert [a.get("phase") for a in attrs] == [of_method(Point.from_dict(a["point"])) for a in attrs]
    publish(dispatcher, str(methods.index("strong")))
    assert phase_rows(record) == {"p": "/cache/p"}
    complete(dispatcher, "0", handed[0])
    assert dispatcher.next("again") == parked[0]
    assert list(dispatcher.parked.values()) == parked[1:]


def all_alike(point):
    return "p"


def test_a_worker_waits_only_when_as_many_are_parked_as_may_run(record):
    dispatcher = make(record, n_trials=9, concurrency=2, phase_of=all_alike)
    first = dispatcher.next("a")
    assert dispatcher.next("b") is Nothing.NOW
    assert [claim.number for claim in dispatcher.parked.values()] == [1, 2]
    assert dispatcher.next("b") is Nothing.NOW
    assert len(record.trials()) == 3
    publish(dispatcher, "a")
    assert dispatcher.next("b").number == 1
    complete(dispatcher, "a", first)
    assert dispatcher.next("a").number == 2
    assert dispatcher.parked == {}


ENDS = {
    "failed": lambda dispatcher: dispatcher.ended("a", Failed(reason="no")),
    "crashed": lambda dispatcher: dispatcher.ended("a", None, crashed=True),
    "silent": lambda dispatcher: dispatcher.ended("a", None),
    "complete, though it never said so": lambda dispatcher: complete(dispatcher, "a", dispatcher.live["a"].claim),
    "abandoned": lambda dispatcher: dispatcher.abandon(),
}


@pytest.mark.parametrize("end", sorted(ENDS))
def test_who_ends_without_publishing_is_replaced_at_once(record, end):
    dispatcher = make(record, n_trials=9, phase_of=all_alike, lease_s=1000.0)
    dispatcher.next("a")
    other = make(record, n_trials=9, owner="other", phase_of=all_alike, concurrency=1)
    assert other.next("x") is Nothing.NOW
    (parked,) = other.parked.values()
    ENDS[end](dispatcher)
    assert phase_rows(record) == {}
    assert look_again(other, "x") == parked
    assert other.phases.take("p", "sparsify", holder="somebody else") == "busy"


def test_a_trial_that_is_lost_gives_its_phase_up(record):
    dispatcher = make(record, n_trials=9, phase_of=all_alike, lease_s=1000.0)
    dispatcher.next("a")
    dispatcher.live["a"].lost = True
    assert dispatcher.next("b") is Nothing.NOW
    dispatcher.ended("a", None)
    assert dispatcher.next("b").number == 1


def test_parked_trials_are_given_back_at_a_stop(record):
    dispatcher = make(record, n_trials=9, phase_of=all_alike)
    dispatcher.next("a")
    assert dispatcher.next("b") is Nothing.NOW
    dispatcher.interrupt()
    assert dispatcher.next("b") is Nothing.EVER
    assert dispatcher.parked == {}
    assert states(record)[:3] == [TrialState.RUNNING, TrialState.FAIL, TrialState.FAIL]
    assert record.trials()[1].user_attrs["reason"] == "interrupted"
    dispatcher.abandon()
    assert [state.name for state in states(record)] == ["FAIL"] * 3 + ["WAITING"] * 3
    assert phase_rows(record) == {}


def test_leases_of_parked_trials_and_of_phases_are_kept_alive(record, clock):
    dispatcher = make(record, n_trials=3, phase_of=all_alike, lease_s=0.5)
    other = make(record, n_trials=3, owner="other", lease_s=0.5, phase_of=all_alike)
    with dispatcher:
        dispatcher.next("a")
        assert dispatcher.next("b") is Nothing.NOW
        for _ in range(10):
            clock.advance(0.25, but_wait_for=record)
            assert look_again(other, "x") is Nothing.NOW
            assert other.phases.take("p", "sparsify", holder="x") == "busy"
        assert len(dispatcher.parked) == 2
    # As if the driver had been killed: its trials and its phase are free after the grace period.
    clock.advance(0.6)
    taken = look_again(other, "x")
    assert taken.attrs["point"] == record.trials()[0].user_attrs["point"]
    assert taken.seed_number == 0


def test_a_parked_trial_that_another_driver_took_is_let_go(record):
    dispatcher = make(record, n_trials=3, phase_of=all_alike, lease_s=0.5)
    with dispatcher:
        dispatcher.next("a")
        assert dispatcher.next("b") is Nothing.NOW
        parked = next(iter(dispatcher.parked))
        with record.db.writing() as connection:
            connection.execute(
                sa.update(schema.leases).where(schema.leases.c.trial_id == parked).values(owner="another")
            )
        deadline = time.monotonic() + 10
        while parked in dispatcher.parked and time.monotonic() < deadline:
            time.sleep(0.02)
    assert parked not in dispatcher.parked


def test_a_published_phase_is_told_once_and_renewed_when_it_was_computed_again(record):
    told = []
    dispatcher = make(record, phase_of=all_alike, on_published=lambda: told.append(phase_rows(record)))
    dispatcher.next("a")
    publish(dispatcher, "a")
    dispatcher.next("b")
    publish(dispatcher, "b")  # Found in the cache.
    assert told == [{"p": "/cache/p"}]
    publish(dispatcher, "b", sha256="computed anew")
    assert len(told) == 2
    with record.db.reading() as connection:
        assert connection.execute(sa.select(schema.phases.c.sha256)).scalar_one() == "computed anew"


def test_a_phase_whose_driver_died_is_taken_over_when_its_lease_has_run_out(record):
    PhaseLeases(PhaseRows(record.db), owner="dead", grace_s=1000.0).take("p", "sparsify", holder=1)
    dispatcher = make(record, n_trials=1, phase_of=all_alike)
    assert dispatcher.next("a") is Nothing.NOW
    with record.db.writing() as connection:
        connection.execute(sa.update(schema.phases).values(expires_at=0.0))
    claim = look_again(dispatcher, "a")
    complete(dispatcher, "a", claim)
    assert dispatcher.next("b") is Nothing.EVER
    assert dispatcher.finished


# Results that are found twice


def ranked(dispatcher, handle, result_key, **more):
    """A worker says which channels it has chosen; whether it must stop is asked before anything else."""
    report = Progressed(phase="surgery", progress=0.0, macs_ratio=0.5, result_key=result_key, host="h", **more)
    stop = dispatcher.should_stop(handle, report)
    if not stop:
        dispatcher.heard(handle, report)
    return report if stop else None


def test_a_result_that_is_there_is_taken_over_without_another_computation(record):
    dispatcher = make(record, n_trials=3)
    first = dispatcher.next("a")
    assert ranked(dispatcher, "a", "r") is None
    facts = {"accuracy": 0.9, "macs_ratio": 0.5, "macs": 7, "weights": "/w", "wall_s": {"finetune": 100}, "node": "n"}
    dispatcher.ended("a", Completed(result=facts))
    dispatcher.next("b")
    last = ranked(dispatcher, "b", "r", node="m")
    dispatcher.ended("b", last)
    original, twin = record.trials()
    assert twin.state is TrialState.COMPLETE
    assert twin.values == original.values == [0.9, 0.5]
    shared = ("accuracy", "macs_ratio", "macs", "weights", "result_key")
    assert {name: twin.user_attrs[name] for name in shared} == {name: original.user_attrs[name] for name in shared}
    assert twin.user_attrs["result_key"] == "r"
    assert twin.user_attrs["taken_over_from"] == first.number
    assert twin.user_attrs["node"] == "m"
    assert "wall_s" not in twin.user_attrs
    assert "taken_over_from" not in original.user_attrs
    third = dispatcher.next("c")
    assert ranked(dispatcher, "c", "another") is None
    complete(dispatcher, "c", third)
    assert record.trials()[2].user_attrs["result_key"] == "another"


def test_a_result_that_is_still_being_computed_is_not_waited_for(record):
    dispatcher = make(record, n_trials=3)
    claims = [dispatcher.next("a"), dispatcher.next("b")]
    assert ranked(dispatcher, "a", "r") is None
    assert ranked(dispatcher, "b", "r") is None
    complete(dispatcher, "b", claims[1])
    complete(dispatcher, "a", claims[0])
    assert all("taken_over_from" not in trial.user_attrs for trial in record.trials())


# Constraints


def excess(record):
    return [trial.constraints for trial in record.trials()]


def test_a_complete_trial_is_told_once_it_is_in_the_database(record):
    told = []
    with make(record, n_trials=4, on_complete=lambda: told.append(states(record))) as dispatcher:
        first, second = dispatcher.next("a"), dispatcher.next("b")
        complete(dispatcher, "a", first)
        assert told == [[TrialState.COMPLETE, TrialState.RUNNING]]
        dispatcher.ended("b", Failed(reason="no luck"))
        assert len(told) == 1
        assert second.number == 1


def test_limits_become_constraints(record):
    dispatcher = make(record, n_trials=3, limits={"macs_ratio": 0.5, "params": 100})
    for handle, params in (("a", 150), ("b", 100)):
        complete(dispatcher, handle, dispatcher.next(handle), macs_ratio=0.4, params=params)
    assert excess(record) == [{"macs_ratio": pytest.approx(-0.1), "params": n} for n in (50, 0)]
    complete(dispatcher, "c", dispatcher.next("c"), macs_ratio=0.4)
    assert record.trials()[2].user_attrs["reason"] == "`params` must be a finite number, but the trial gave nan"


def test_a_trial_that_ends_early_by_itself_keeps_what_it_found(record):
    dispatcher = make(record, n_trials=1, limits={"macs_ratio": 0.6, "latency_ms": 2.0, "params": 9})
    dispatcher.next("a")
    report = Progressed(phase="latency", progress=1.0, rung=0, score=0.4, macs_ratio=0.5, node="n")
    assert not dispatcher.should_stop("a", report)
    dispatcher.heard("a", report)
    found = {"latency_ms": 3.5, "latency_ratio": 0.9}
    dispatcher.ended("a", Stopped(reason="too slow", found=found))
    (trial,) = record.trials()
    assert trial.state is TrialState.PRUNED
    told = {"rungs": {"0": 0.4}, "partial_accuracy": 0.4, "partial_macs_ratio": 0.5, "stop_reason": "too slow"}
    assert {name: trial.user_attrs[name] for name in (*told, *found, "node")} == {**told, **found, "node": "n"}
    assert trial.constraints == {"macs_ratio": pytest.approx(-0.1), "latency_ms": 1.5}
    assert dispatcher.finished


def test_at_a_time_limit_known_constraints_are_kept_too(record):
    dispatcher = make(record, n_trials=4, time_limit_s=1000.0, limits={"macs_ratio": 0.25, "latency_ms": 1.0})
    dispatcher.next("a")
    dispatcher._wind_down._deadline = time.monotonic()
    dispatcher.ended("a", Progressed(phase="finetune", progress=0.5, rung=1, score=0.6, macs_ratio=0.5))
    assert record.trials()[0].state is TrialState.PRUNED
    assert excess(record) == [{"macs_ratio": 0.25}]


def test_where_a_trial_ran_is_kept(record):
    dispatcher = make(record, n_trials=2)
    complete(dispatcher, "a", dispatcher.next("a"))
    claim = dispatcher.next("b")
    result = fakes.run_trial(claim.attrs["point"])
    dispatcher.ended("b", Completed(result=result, host="here", node="abc"))
    first, second = (trial.user_attrs for trial in record.trials())
    assert not {"host", "node"} & first.keys()
    assert (second["host"], second["node"]) == ("here", "abc")


# A space with nothing left, and interruptions


def test_what_is_under_way_may_finish_a_study_whose_space_has_nothing_new(record):
    space = fakes.space(methods={"plain": {}}, width_rules=("uniform",), macs_target=Range(low=0.5, high=0.5, step=0.1))
    dispatcher = make(record, n_trials=3, space=space)
    claims = [dispatcher.next("dense"), dispatcher.next("half")]
    complete(dispatcher, "dense", claims[0])
    assert dispatcher.next("more") is Nothing.NOW
    assert not dispatcher.should_stop("half")
    dispatcher.ended("half", None, crashed=True)
    again = dispatcher.next("half again")
    assert (again.attempt, again.seed_number) == (1, claims[1].number)
    complete(dispatcher, "half again", again)
    assert dispatcher.next("more") is Nothing.EVER
    assert dispatcher.stopping is Stopping.EXHAUSTED
    assert states(record) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


def test_an_interrupted_study_has_the_trials_of_an_uninterrupted_one(tmp_path):
    found = {}
    for name, interrupted_at in (("whole", set()), ("broken", {2, 4, 6})):
        db = Database.open(f"sqlite:///{tmp_path}/{name}.db", create=True)
        record = StudyHandle.create_or_join(
            db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
        )
        found[name], n_resumed = [], 0
        while len(found[name]) < 10:
            dispatcher = make(record, n_trials=10, owner=f"driver {n_resumed}")
            while isinstance(claim := dispatcher.next("a"), Claim):
                if claim.number in interrupted_at:
                    dispatcher.interrupt()
                    dispatcher.ended("a", None)
                    n_resumed += 1
                else:
                    complete(dispatcher, "a", claim)
                    found[name].append(claim.attrs["point"])
        db.close()
    assert found["broken"] == found["whole"]


def test_a_trial_that_others_of_its_cost_have_left_behind_ends_early_and_is_never_complete(record):
    with make(record, n_trials=8, concurrency=1, stopper=Stopper((0.5,), epochs=10.0)) as desk:
        for number, accuracy in enumerate((0.9, 0.89, 0.88, 0.7)):
            handle = f"h{number}"
            assert isinstance(desk.next(handle), Claim)
            begun = Progressed(phase="finetune", progress=0.0, rung=0, score=0.1, macs_ratio=0.5)
            assert not desk.should_stop(handle, begun)  # Ranks at rung 0 change afterwards.
            desk.heard(handle, begun)
            half = Progressed(phase="finetune", progress=0.5, rung=1, score=accuracy, macs_ratio=0.5)
            is_last = number == 3
            assert desk.should_stop(handle, half) is is_last
            rungs = {"0": 0.1, "1": accuracy, "2": accuracy + 0.01}
            result = {"accuracy": accuracy + 0.01, "macs_ratio": 0.5, "rungs": rungs}
            desk.ended(handle, half if is_last else Completed(result=result))
    *complete, stopped = record.trials()
    assert [trial.state for trial in complete] == [TrialState.COMPLETE] * 3
    assert stopped.state is TrialState.PRUNED
    assert stopped.user_attrs["stop_reason"] == "behind others of its cost at rung 1"
    assert stopped.user_attrs["partial_accuracy"] == 0.7


def test_where_rmse_is_minimised_the_trial_with_the_most_is_left_behind(tmp_path, clock):
    db = Database.open(f"sqlite:///{tmp_path}/rmse.db", create=True, clock=clock)
    record = StudyHandle.create_or_join(
        db, name="s", identity={}, config={}, directions=["minimize", "minimize"], objectives=["rmse", "macs_ratio"]
    )
    metric = fakes.RMSE
    with make(record, n_trials=8, concurrency=1, metric=metric, stopper=Stopper((0.5,), 10.0, metric)) as desk:
        for number, rmse in enumerate((0.40, 0.44, 0.48, 0.90)):
            handle = f"h{number}"
            assert isinstance(desk.next(handle), Claim)
            begun = Progressed(phase="finetune", progress=0.0, rung=0, score=2.0, macs_ratio=0.5)
            assert not desk.should_stop(handle, begun)
            desk.heard(handle, begun)
            half = Progressed(phase="finetune", progress=0.5, rung=1, score=rmse, macs_ratio=0.5)
            is_last = number == 3
            assert desk.should_stop(handle, half) is is_last
            result = {"rmse": rmse - 0.1, "macs_ratio": 0.5, "rungs": {"0": 2.0, "1": rmse, "2": rmse - 0.1}}
            desk.ended(handle, half if is_last else Completed(result=result))
        fifth = desk.next("h4")  # The sampler sees the history, the trial that was stopped among it.
        assert isinstance(fifth, Claim)
    *complete, stopped, _ = record.trials()
    assert [trial.values for trial in complete] == [[pytest.approx(r), 0.5] for r in (0.30, 0.34, 0.38)]
    assert (stopped.state, stopped.user_attrs["partial_rmse"]) == (TrialState.PRUNED, 0.9)
    assert "partial_accuracy" not in stopped.user_attrs
    db.close()


def test_events_tell_what_became_of_each_trial(record, clock):
    events = []

    def note(event, /, **facts):
        events.append((event, facts))

    dispatcher = make(record, concurrency=3, phase_of=lambda point: "p" if point.macs_target < 1 else None, events=note)
    dispatcher._lifecycle._events = note
    first = dispatcher.next("a")
    complete(dispatcher, "a", first)
    second = look_again(dispatcher, "b")
    ids = {"trial": second.number, "trial_id": second.trial_id}
    dispatcher.heard("b", scored(0, 0.5))
    dispatcher.ended("b", None, crashed=True)
    again = look_again(dispatcher, "c")
    clock.advance(100)
    other = make(record, owner="other")
    assert isinstance(look_again(other, "x"), Claim)  # It has reaped what "me" holds no longer.
    complete(dispatcher, "c", again)
    dispatcher.interrupt()

    def told(event, **some):
        return [facts for name, facts in events if name == event and some.items() <= facts.items()]

    (proposal, *_), (claim, *_) = told("proposal"), told("claim")
    assert proposal["key"] == claim["key"] == StoredTrial(record.trials()[0]).key
    assert claim["trial_id"] == first.trial_id
    assert told("start", handle="a", trial=first.number, trial_id=first.trial_id)
    (tell,) = told("tell", trial=first.number, verdict="complete")
    assert tell["values"] == record.trials()[0].values
    assert told("phase", what="taken", key="p", holder=second.trial_id)
    assert told("report", **ids) == [
        {**ids, "phase": "finetune", "progress": 0.0, "rung": 0, "score": 0.5, "macs_ratio": 0.5}
    ]
    (failed,) = told("tell", **ids)
    assert (failed["verdict"], "worker died" in failed["reason"]) == ("failed", True)
    assert [(one["trial"], one["again"], one["attempt"]) for one in told("retry")] == [
        (second.number, again.trial_id, 1)
    ]
    assert told("claim", trial_id=again.trial_id, attempt=1)
    assert told("lost lease", trial_id=again.trial_id)
    assert not told("tell", trial_id=again.trial_id)
    assert events[-1] == ("signal", {})
