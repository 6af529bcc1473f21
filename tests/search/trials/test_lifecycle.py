from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.errors import ConfigError, LeaseLostError
from autoprune.search.storage import Counts, StudyHandle, schema
from autoprune.search.trials import Claim, EarlierResult, Failures, Lifecycle, NotClaimed, Proposal, Room, StoredTrial

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING


def proposal(x: int = 0, **attrs: Any) -> Proposal:
    return Proposal(
        params={"x": x, "method": "mcp", "lam": 0.5},
        distributions={
            "x": IntDistribution(0, 100),
            "method": CategoricalDistribution(["l1", "mcp"]),
            "lam": FloatDistribution(0.0, 1.0),
        },
        key=f"key {x}",
        attrs={"point": {"x": x}, **attrs},
    )


def take(lifecycle: Lifecycle, x: int = 0, **attrs: Any) -> Claim:
    claimed = lifecycle.claim(proposal(x, **attrs))
    assert isinstance(claimed, Claim)
    return claimed


def trials(study: StudyHandle) -> list[FrozenTrial]:
    return study.db.storage.get_all_trials(study.study_id)


def states(study: StudyHandle) -> list[TrialState]:
    return [trial.state for trial in trials(study)]


def leases(study: StudyHandle) -> dict[int, tuple[str, float]]:
    with study.db.reading() as connection:
        rows = connection.execute(sa.select(schema.leases)).all()
    return {row.trial_id: (row.owner, row.expires_at) for row in rows}


@pytest.fixture
def mine(study: StudyHandle) -> Lifecycle:
    return Lifecycle(study, owner="mine", n_trials=3, grace_s=60)


@pytest.fixture
def theirs(study: StudyHandle) -> Lifecycle:
    return Lifecycle(study, owner="theirs", n_trials=3, grace_s=60)


def test_a_claim_is_a_running_trial_with_everything_in_it(study: StudyHandle, mine: Lifecycle, clock: Any) -> None:
    claimed = take(mine, 7, seed=3)
    (trial,) = trials(study)
    assert claimed == Claim(
        trial_id=trial._trial_id, number=0, params=proposal(7).params, attrs={"point": {"x": 7}, "seed": 3}, attempt=0,
        seed_number=0,
    )  # fmt: skip
    assert trial.state is RUNNING
    assert trial.params == {"x": 7, "method": "mcp", "lam": 0.5}
    assert trial.distributions == proposal().distributions
    assert trial.user_attrs == {
        "point": {"x": 7},
        "seed": 3,
        "key": "key 7",
        "revision": 1,
        "owner": "mine",
        "claimed_at": clock.now,
        "attempt": 0,
        "seed_number": 0,
    }
    assert leases(study) == {trial._trial_id: ("mine", clock.now + 60)}


def test_a_result_is_stored_with_its_attributes_and_frees_the_lease(study: StudyHandle, mine: Lifecycle) -> None:
    claimed = take(mine)
    attrs = {"macs": np.int64(12), "ratio": np.float32(0.5), "widths": (1, 2), "name": "a", "none": None}
    assert mine.complete(claimed.trial_id, [0.9, np.float64(0.25)], attrs) is COMPLETE
    (trial,) = trials(study)
    assert (trial.state, trial.values) == (COMPLETE, [0.9, 0.25])
    assert {name: trial.user_attrs[name] for name in attrs} == {
        "macs": 12, "ratio": 0.5, "widths": [1, 2], "name": "a", "none": None,
    }  # fmt: skip
    assert leases(study) == {}


def test_a_stopped_trial_is_pruned_without_values_and_keeps_its_partial_ones(
    study: StudyHandle, mine: Lifecycle
) -> None:
    claimed = take(mine)
    assert mine.stopped(claimed.trial_id, {"rungs": {"0": 0.4}}) is PRUNED
    (trial,) = trials(study)
    assert (trial.state, trial.values, trial.user_attrs["rungs"]) == (PRUNED, None, {"0": 0.4})
    assert leases(study) == {}


def test_a_result_takes_a_handful_of_transactions_however_much_was_found(study: StudyHandle, mine: Lifecycle) -> None:
    """Each is a flush to the disk: Optuna takes one for every attribute."""
    claimed = take(mine)
    n_commits = 0

    def count(_: object) -> None:
        nonlocal n_commits
        n_commits += 1

    sa.event.listen(sa.Engine, "commit", count)
    try:
        found = {f"fact {i}": i for i in range(40)}
        mine.complete(claimed.trial_id, [0.9, 0.4], found, constraints={"params": -0.5, "macs": -1.5})
    finally:
        sa.event.remove(sa.Engine, "commit", count)
    assert n_commits < 10
    (trial,) = trials(study)
    assert found.items() <= trial.user_attrs.items()
    assert trial.constraints == {"params": -0.5, "macs": -1.5}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([math.nan, 0.5], "`accuracy` must be a finite number, but the trial gave nan"),
        ([0.5, math.inf], "`macs_ratio` must be a finite number, but the trial gave inf"),
        ([0.5, None], "`macs_ratio` must be a finite number, but the trial gave None"),
        (["0.5", 0.5], "`accuracy` must be a finite number, but the trial gave '0.5'"),
        ([0.5], "a result must give one value for each of accuracy, macs_ratio, but it gave 1"),
        ([0.5, 0.5, 0.5], "a result must give one value for each of accuracy, macs_ratio, but it gave 3"),
        (None, "a result must give one value for each of accuracy, macs_ratio, but it gave 0"),
    ],
)
def test_values_that_are_no_result_fail_the_trial_and_say_so(
    study: StudyHandle, mine: Lifecycle, values: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    claimed = take(mine)
    assert mine.complete(claimed.trial_id, values, {"macs": 1}) is FAIL
    (trial,) = trials(study)
    assert (trial.state, trial.values, trial.user_attrs["reason"]) == (FAIL, None, reason)
    assert f"trial 0 failed: {reason}" in caplog.text
    assert leases(study) == {}


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"key": "x"}, "the attribute name 'key' is reserved by autoprune"),
        ({"f": open}, "the attribute 'f' can't be stored: a builtin_function_or_method is not JSON"),
        ({"deep": {"f": {1, 2}}}, "the attribute 'deep' can't be stored: a set is not JSON"),
    ],
)
def test_attributes_that_cannot_be_stored_fail_the_trial(
    study: StudyHandle, mine: Lifecycle, attrs: dict[str, Any], reason: str
) -> None:
    assert mine.complete(take(mine, 0).trial_id, [0.5, 0.5], attrs) is FAIL
    assert mine.stopped(take(mine, 1).trial_id, attrs) is FAIL
    assert [trial.user_attrs["reason"] for trial in trials(study)] == [reason, reason]
    with pytest.raises(ConfigError, match="a proposal must carry plain attributes, but the attribute"):
        mine.claim(proposal(2, **attrs))


def test_a_reason_is_cut_and_cleaned(study: StudyHandle, mine: Lifecycle) -> None:
    mine.failed(take(mine).trial_id, "a\0b" + "x" * 20_000)
    (trial,) = trials(study)
    assert trial.user_attrs["reason"] == "ab" + "x" * 9_998 + " ..."


# Constraints


def test_infeasible_trials_are_not_among_the_best_of_optuna(study: StudyHandle, mine: Lifecycle) -> None:
    feasible, infeasible, stopped = (take(mine, x) for x in range(3))
    mine.complete(feasible.trial_id, [0.5, 0.5], {}, constraints={"params": -10, "latency_ms": np.float64(0.0)})
    mine.complete(infeasible.trial_id, [0.9, 0.1], {}, constraints={"params": -10, "latency_ms": 0.25})
    mine.stopped(stopped.trial_id, {}, constraints={"latency_ms": 3})
    found = [trial.constraints for trial in trials(study)]
    assert found == [{"params": -10.0, "latency_ms": 0.0}, {"params": -10.0, "latency_ms": 0.25}, {"latency_ms": 3.0}]
    assert [trial.constraints for trial in study.trials()] == found
    opened = optuna.load_study(study_name=study.name, storage=study.db.storage)
    assert [trial.number for trial in opened.best_trials] == [0]


@pytest.mark.parametrize("excess", [math.nan, math.inf])
def test_a_constraint_that_is_no_number_fails_the_trial(study: StudyHandle, mine: Lifecycle, excess: float) -> None:
    assert mine.complete(take(mine, 0).trial_id, [0.5, 0.5], {}, constraints={"params": excess}) is FAIL
    assert mine.stopped(take(mine, 1).trial_id, {}, constraints={"params": excess}) is FAIL
    reasons = {trial.user_attrs["reason"] for trial in trials(study)}
    assert reasons == {f"`params` must be a finite number, but the trial gave {excess}"}
    assert [trial.constraints for trial in trials(study)] == [{}, {}]


# Results that are taken over


def test_a_result_is_found_by_its_key_without_what_belongs_to_the_claim(mine: Lifecycle, theirs: Lifecycle) -> None:
    first, second, third = take(mine, 0), take(theirs, 1), take(mine, 2)
    assert mine.result_of("r") is None
    theirs.complete(second.trial_id, [0.5, 0.5], {"macs": 7, "result_key": "r"})
    found = mine.result_of("r")
    assert found == EarlierResult(number=1, attrs={"macs": 7, "result_key": "r"})
    assert mine.result_of("s") is None
    # An earlier trial took it over: the one that computed it is still the source.
    mine.complete(first.trial_id, [0.5, 0.5], {**found.attrs, "taken_over_from": found.number})
    assert theirs.result_of("r") == found
    mine.stopped(third.trial_id, {"result_key": "t"})
    assert mine.result_of("t") is None


def test_results_of_another_study_are_left_alone(study: StudyHandle, mine: Lifecycle) -> None:
    mine.complete(take(mine).trial_id, [0.5, 0.5], {"result_key": "r"})
    other = StudyHandle.create_or_join(
        study.db, name="other", identity={}, config={}, directions=["maximize", "minimize"]
    )
    assert Lifecycle(other, owner="mine", n_trials=1).result_of("r") is None


def test_the_study_is_full_at_n_trials_and_finished_when_all_have_a_result(mine: Lifecycle) -> None:
    first, second, third = (take(mine, x) for x in range(3))
    assert mine.room() is Room.FULL_FOR_NOW
    assert mine.claim(proposal(3)) is NotClaimed.FULL
    mine.complete(first.trial_id, [0.5, 0.5], {})
    mine.stopped(second.trial_id, {})
    assert mine.room() is Room.FULL_FOR_NOW
    mine.failed(third.trial_id, "out of luck")
    assert mine.room() is Room.OPEN
    mine.complete(take(mine, 3).trial_id, [0.5, 0.5], {})
    assert mine.room() is Room.FINISHED
    assert mine.claim(proposal(4)) is NotClaimed.FULL
    assert mine.counts() == Counts(waiting=0, running=0, complete=2, pruned=1, failed=1)


def test_n_trials_may_be_raised_later(mine: Lifecycle) -> None:
    for x in range(3):
        mine.complete(take(mine, x).trial_id, [0.5, 0.5], {})
    assert mine.room() is Room.FINISHED
    mine.n_trials = 5
    assert mine.room() is Room.OPEN
    for x in range(3, 5):
        mine.complete(take(mine, x).trial_id, [0.5, 0.5], {})
    assert mine.room() is Room.FINISHED
    assert mine.claim(proposal(9)) is NotClaimed.FULL


def test_after_n_trials_was_lowered_clones_wait(mine: Lifecycle) -> None:
    claimed = [take(mine, x) for x in range(3)]
    mine.failed(claimed[2].trial_id, "worker lost", retry=True)
    mine.n_trials = 2
    assert mine.claim_waiting() is None
    assert mine.room() is Room.FULL_FOR_NOW
    mine.complete(claimed[0].trial_id, [0.5, 0.5], {})
    mine.complete(claimed[1].trial_id, [0.5, 0.5], {})
    assert mine.room() is Room.FINISHED
    assert mine.claim_waiting() is None
    mine.n_trials = 3
    assert mine.room() is Room.OPEN
    assert mine.claim_waiting() is not None


def test_a_key_is_claimed_once_unless_it_failed(mine: Lifecycle, theirs: Lifecycle) -> None:
    first = take(mine, 0)
    assert theirs.claim(proposal(0)) is NotClaimed.DUPLICATE
    mine.failed(first.trial_id, "bad luck")
    second = take(theirs, 0)
    theirs.complete(second.trial_id, [0.5, 0.5], {})
    assert mine.claim(proposal(0)) is NotClaimed.DUPLICATE


def test_keys_of_another_study_do_not_matter(study: StudyHandle, mine: Lifecycle) -> None:
    other = StudyHandle.create_or_join(
        study.db, name="other", identity={}, config={}, directions=["maximize", "minimize"]
    )
    take(mine, 0)
    elsewhere = Lifecycle(other, owner="mine", n_trials=1)
    take(elsewhere, 0)
    assert elsewhere.counts().running == mine.counts().running == 1
    assert elsewhere.newest_trial_id() > mine.newest_trial_id() > 0


def test_a_proposal_that_contradicts_the_recorded_choices(mine: Lifecycle, study: StudyHandle) -> None:
    take(mine, 0)
    changed = Proposal(params={"method": "l2"}, distributions={"method": CategoricalDistribution(["l2"])}, key="k")
    with pytest.raises(
        ConfigError, match=r"must fit the distributions that study 'digits' has recorded, but .*dynamic"
    ):
        mine.claim(changed)
    assert len(trials(study)) == 1


# Leases


def test_a_beat_keeps_a_trial_and_shows_which_are_lost(
    study: StudyHandle, mine: Lifecycle, theirs: Lifecycle, clock: Any
) -> None:
    a, b = take(mine, 0).trial_id, take(mine, 1).trial_id
    other = take(theirs, 2).trial_id
    study.enter("mine")
    clock.now += 50
    assert mine.beat([a]) == set()
    clock.now += 20
    assert theirs.reap() == [b, other]
    assert mine.beat([a, b, other, 999]) == {b, other, 999}
    assert mine.beat([]) == set()
    assert study.drivers()[0].seen_at == clock.now
    assert states(study)[:3] == [RUNNING, FAIL, FAIL]


def test_an_expired_lease_becomes_one_clone(
    study: StudyHandle, mine: Lifecycle, theirs: Lifecycle, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lost = take(mine, 5, seed=3)
    study.db.storage.set_trial_user_attr(lost.trial_id, "partial", 1)
    clock.now += 60
    assert theirs.reap() == [lost.trial_id]
    assert theirs.reap() == []
    original, clone = trials(study)
    said = "lease of mine expired: no sign of life for 60 s"
    assert (original.state, original.user_attrs["reason"]) == (FAIL, said)
    assert f"trial 0 has lost its driver: {said}" in caplog.text
    assert (clone.state, clone.params, clone.distributions) == (WAITING, original.params, original.distributions)
    assert clone.user_attrs == {
        "point": {"x": 5}, "seed": 3, "key": "key 5", "revision": 1, "attempt": 1, "retry_of": 0, "seed_number": 0,
    }  # fmt: skip
    assert leases(study) == {}
    assert theirs.claim(proposal(5)) is NotClaimed.DUPLICATE
    again = theirs.claim_waiting()
    assert again == Claim(
        trial_id=clone._trial_id, number=1, params=lost.params, attrs={"point": {"x": 5}, "seed": 3}, attempt=1,
        seed_number=0,
    )  # fmt: skip
    clone = trials(study)[1]
    assert (clone.state, clone.user_attrs["owner"], clone.user_attrs["claimed_at"]) == (RUNNING, "theirs", clock.now)
    assert leases(study) == {clone._trial_id: ("theirs", clock.now + 60)}
    assert theirs.claim_waiting() is None


def test_a_late_result_is_dropped_and_says_so(
    study: StudyHandle, mine: Lifecycle, theirs: Lifecycle, clock: Any
) -> None:
    late = take(mine, 5)
    clock.now += 61
    theirs.reap()
    before = trials(study)
    tells: list[Callable[[], object]] = [
        lambda: mine.complete(late.trial_id, [0.5, 0.5], {"macs": 1}),
        lambda: mine.complete(late.trial_id, [math.nan, 0.5], {}),
        lambda: mine.stopped(late.trial_id, {}),
        lambda: mine.failed(late.trial_id, "x", retry=True),
        lambda: mine.release(late.trial_id, "x"),
    ]
    for tell in tells:
        with pytest.raises(
            LeaseLostError,
            match=r"must come from the driver that holds .* study 'digits' is now FAIL, not RUNNING for mine: its late "
            r"result was dropped\. Nothing has to be done",
        ):
            tell()
    assert trials(study) == before
    with pytest.raises(LeaseLostError, match="with id 99 of study 'digits' is now gone"):
        mine.complete(99, [0.5, 0.5], {})


def test_somebody_elses_trial_cannot_be_told(study: StudyHandle, mine: Lifecycle, theirs: Lifecycle) -> None:
    claimed = take(mine)
    with pytest.raises(LeaseLostError, match="is now RUNNING with a lease of mine, not RUNNING for theirs"):
        theirs.complete(claimed.trial_id, [0.5, 0.5], {"macs": 1})
    assert mine.complete(claimed.trial_id, [0.5, 0.5], {}) is COMPLETE
    assert "macs" not in trials(study)[0].user_attrs


def test_a_result_counts_once(study: StudyHandle, mine: Lifecycle) -> None:
    claimed = take(mine)
    mine.complete(claimed.trial_id, [0.5, 0.5], {})
    mine.complete(claimed.trial_id, [0.7, 0.7], {"a": 1})  # As after an outage in which the first one was committed.
    for other in (lambda: mine.stopped(claimed.trial_id, {}), lambda: mine.failed(claimed.trial_id, "late")):
        with pytest.raises(LeaseLostError, match="is now COMPLETE, not RUNNING for mine"):
            other()
    (trial,) = trials(study)
    assert trial.values == [0.5, 0.5]
    assert "a" not in trial.user_attrs


@pytest.mark.parametrize(
    "tell",
    [
        lambda driver, trial_id: driver.failed(trial_id, "the loss became nan " * 2_000, retry=True),
        lambda driver, trial_id: driver.release(trial_id, "interrupted"),
        lambda driver, trial_id: driver.complete(trial_id, [math.nan, 0.5], {}),
    ],
)
def test_a_failure_counts_once(tell: Callable[[Lifecycle, int], object], study: StudyHandle, mine: Lifecycle) -> None:
    claimed = take(mine)
    tell(mine, claimed.trial_id)
    before = trials(study)
    tell(mine, claimed.trial_id)  # As after an outage in which the first one was committed.
    assert trials(study) == before
    with pytest.raises(LeaseLostError):
        mine.failed(claimed.trial_id, "something else")


def test_a_slow_driver_that_nobody_has_reaped_may_still_tell(mine: Lifecycle, clock: Any) -> None:
    claimed = take(mine)
    clock.now += 1_000
    assert mine.complete(claimed.trial_id, [0.5, 0.5], {}) is COMPLETE


def test_retries_end(study: StudyHandle, clock: Any) -> None:
    mine = Lifecycle(study, owner="mine", n_trials=3, grace_s=60, max_retry=2)
    assert take(mine).attempt == 0
    for attempt in (1, 2):
        clock.now += 61
        again = mine.claim_waiting()
        assert again is not None
        assert again.attempt == attempt
    clock.now += 61
    assert mine.claim_waiting() is None
    assert states(study) == [FAIL, FAIL, FAIL]
    assert [trial.user_attrs.get("retry_of") for trial in trials(study)] == [None, 0, 1]


def test_failed_with_retry_counts_and_release_does_not(study: StudyHandle) -> None:
    mine = Lifecycle(study, owner="mine", n_trials=3, max_retry=1)
    claimed: Claim | None = take(mine)
    attempts = []
    for _ in range(3):
        assert claimed is not None
        mine.release(claimed.trial_id, "interrupted")
        claimed = mine.claim_waiting()
        assert claimed is not None
        attempts.append(claimed.attempt)
    mine.failed(claimed.trial_id, "worker lost", retry=True)
    claimed = mine.claim_waiting()
    assert claimed is not None
    mine.failed(claimed.trial_id, "worker lost", retry=True)
    assert mine.claim_waiting() is None
    assert attempts == [0, 0, 0]
    assert claimed.attempt == 1
    assert (claimed.number, claimed.seed_number) == (4, 0)  # All tries share the seed of the first.
    assert [trial.user_attrs["reason"] for trial in trials(study)] == ["interrupted"] * 3 + ["worker lost"] * 2
    assert take(mine, 1).seed_number == 1  # As it would have been without any retry.


def test_failed_without_retry_is_not_cloned(study: StudyHandle, mine: Lifecycle) -> None:
    mine.failed(take(mine).trial_id, "shape mismatch")
    assert states(study) == [FAIL]
    assert mine.claim_waiting() is None


def test_room_reaps_when_only_orphans_are_left(mine: Lifecycle, theirs: Lifecycle, clock: Any) -> None:
    for x in range(3):
        take(mine, x)
    assert theirs.room() is Room.FULL_FOR_NOW
    clock.now += 61
    assert theirs.room() is Room.OPEN
    assert theirs.counts() == Counts(waiting=3, running=0, complete=0, pruned=0, failed=3)


def test_waiting_trials_are_taken_oldest_first(mine: Lifecycle, clock: Any) -> None:
    for x in range(3):
        take(mine, x)
    clock.now += 61
    taken = [mine.claim_waiting() for _ in range(3)]
    assert [claim.params["x"] for claim in taken if claim is not None] == [0, 1, 2]


def test_trials_that_were_not_claimed_by_us_are_failed(study: StudyHandle, mine: Lifecycle) -> None:
    study.db.storage.create_new_trial(study.study_id)
    assert len(mine.reap()) == 1
    (trial,) = trials(study)
    assert (trial.state, trial.user_attrs["reason"]) == (FAIL, "driver nobody ended before it held a lease")


def test_failures_count_from_a_point_and_skip_what_was_queued_again(mine: Lifecycle) -> None:
    mine.n_trials = 20
    assert mine.failures(0) == Failures(consecutive=0, total=0, first_number=None, first_reason=None)
    assert mine.newest_trial_id() == 0
    claimed = [take(mine, x) for x in range(8)]
    mine.failed(claimed[1].trial_id, "first")
    mine.failed(claimed[0].trial_id, "second")
    assert mine.failures(0) == Failures(consecutive=2, total=2, first_number=1, first_reason="first")
    mine.complete(claimed[2].trial_id, [0.5, 0.5], {})
    assert mine.failures(0) == Failures(consecutive=0, total=2, first_number=1, first_reason="first")
    mine.failed(claimed[3].trial_id, "queued again", retry=True)
    mine.failed(claimed[4].trial_id, "third")
    mine.release(claimed[5].trial_id, "interrupted")
    assert mine.failures(0) == Failures(consecutive=1, total=3, first_number=1, first_reason="first")
    since = claimed[7].trial_id
    assert mine.newest_trial_id() > since
    assert mine.failures(since) == Failures(consecutive=0, total=0, first_number=None, first_reason=None)
    mine.failed(claimed[6].trial_id, "before the point")
    assert mine.failures(since).total == 0
    mine.failed(take(mine, 30).trial_id, "after it")
    assert mine.failures(since).first_reason == "after it"
    mine.stopped(claimed[7].trial_id, {})
    assert mine.failures(0).consecutive == 0


@pytest.mark.parametrize(
    "wrong", [{"owner": ""}, {"n_trials": 0}, {"grace_s": 0.0}, {"grace_s": math.nan}, {"max_retry": -1}]
)
def test_wrong_settings(study: StudyHandle, wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"owner": "a", "n_trials": 3} | wrong
    with pytest.raises(
        ConfigError, match=r"claims need an `owner`, `n_trials` >= 1, `grace_s` > 0 and `max_retry` >= 0"
    ):
        Lifecycle(study, **settings)


# Several processes


def test_processes_that_race_for_claims_get_each_trial_once(
    url: str, study: StudyHandle, forks: Callable[..., Any]
) -> None:
    del study
    n_trials = 24
    found = forks("claim", url, 4, n_trials, 60)
    claims = [tuple(claim) for mine in found["claims"] for claim in mine]
    trial_ids, keys = [trial_id for trial_id, _ in claims], Counter(x for _, x in claims)
    assert len(trial_ids) == len(set(trial_ids))
    assert sum(1 for mine in found["claims"] if mine) > 1
    ended = _ended(url)
    assert Counter(state for state, _, _ in ended.values())[COMPLETE.name] == n_trials
    assert set(ended) == set(trial_ids)
    retried = sum(1 for _, _, attempt in ended.values() if attempt == 1)
    assert sum(keys.values()) == n_trials + retried
    assert max(Counter(key for state, key, _ in ended.values() if state == COMPLETE.name).values()) == 1


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [1])
def test_drivers_killed_at_random_moments_leave_exactly_n_results(
    url: str, study: StudyHandle, forks: Callable[..., Any], seed: int
) -> None:
    del study
    n_trials = 100
    found = forks("kill", url, n_trials, 20, seed, 0.3)
    assert found["exit"] == [0, 0]
    assert found["kills"] >= 10
    ended = _ended(url)
    counts = Counter(state for state, _, _ in ended.values())
    assert counts[COMPLETE.name] + counts[PRUNED.name] == n_trials
    assert counts[RUNNING.name] == counts[WAITING.name] == 0
    finished = [key for state, key, _ in ended.values() if state in (COMPLETE.name, PRUNED.name)]
    assert len(finished) == len(set(finished))


def _ended(url: str) -> dict[int, tuple[str, str, int]]:
    """State, key and attempt by trial id, read past all our code."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        query = (
            "SELECT t.trial_id, CAST(t.state AS VARCHAR), k.value_json, a.value_json FROM trials t "
            "JOIN trial_user_attributes k ON k.trial_id = t.trial_id AND k.key = 'key' "
            "JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'attempt'"
        )
        rows = connection.execute(sa.text(query)).all()
        assert connection.execute(sa.text("SELECT count(*) FROM autoprune_leases")).scalar_one() == 0
        complete = sa.text(
            "SELECT t.trial_id, count(v.value) FROM trials t LEFT JOIN trial_values v ON v.trial_id = t.trial_id "
            "WHERE t.state = 'COMPLETE' GROUP BY t.trial_id"
        )
        assert {n for _, n in connection.execute(complete)} == {2}
    engine.dispose()
    return {trial_id: (state, json.loads(key), json.loads(attempt)) for trial_id, state, key, attempt in rows}


# Lineages


def born(n_finished: int, parent: int, x: int = 50) -> Proposal:
    attrs = {"parent": parent, "parent_sha256": "h", "depth": 1}
    return dataclasses.replace(proposal(x, **attrs), n_finished=n_finished)


def test_a_retry_keeps_its_parent(study: StudyHandle, mine: Lifecycle, theirs: Lifecycle, clock: Any) -> None:
    first = take(mine, 1)
    mine.complete(first.trial_id, (0.9, 0.5), {"weights": "/0.safetensors", "sha256": "h"})
    child = mine.claim(born(1, parent=0))
    assert isinstance(child, Claim)
    clock.now += 61
    again = theirs.claim_waiting()
    assert again is not None
    assert again.attrs["parent"] == 0
    assert StoredTrial(trials(study)[2]).parent == 0


def test_a_parent_that_was_dropped_while_its_child_was_proposed_is_not_claimed_from(
    study: StudyHandle, mine: Lifecycle, tmp_path: Path
) -> None:
    network = tmp_path / "0.safetensors"
    first = take(mine, 1)
    mine.complete(first.trial_id, (0.9, 0.5), {"weights": str(network), "sha256": "h"})
    # Nothing has finished since the proposal was made, so the file went for another reason: the trial will say so.
    assert isinstance(mine.claim(born(1, parent=0, x=50)), Claim)
    # Something has: the parent may have been beaten, and a new proposal is to be made.
    assert mine.claim(born(0, parent=0, x=51)) is NotClaimed.ORPHAN
    network.touch()
    assert isinstance(mine.claim(born(0, parent=0, x=51)), Claim)
