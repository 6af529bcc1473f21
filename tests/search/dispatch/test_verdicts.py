from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import Completed, Failed, Progressed, Stopped
from autoprune.search.dispatch import Goals, Stopping
from autoprune.search.dispatch.records import Live
from autoprune.search.dispatch.verdicts import Complete, Fail, Release, StopEarly, verdict_on
from autoprune.search.trials import Claim, EarlierResult
from tests.search.fakes import RMSE

GOALS = Goals(("accuracy", "macs_ratio"), {"params": 100.0, "latency_ms": 5.0})
FOUND = {"accuracy": 0.9, "macs_ratio": 0.5, "params": 130, "latency_ms": 4.0}


def live(**more):
    claim = Claim(trial_id=7, number=3, params={}, attrs={}, attempt=0, seed_number=3)
    return Live(claim, runs_on={"host": "here"}, **more)


def judge(trial, last, *, crashed=False, stopping=None):
    return verdict_on(trial, last, goals=GOALS, crashed=crashed, stopping=stopping)


def test_a_result_gives_values_constraints_and_where_it_ran():
    verdict = judge(live(result_key="k"), Completed(result=FOUND))
    assert verdict == Complete(
        [0.9, 0.5], {**FOUND, "result_key": "k", "host": "here"}, {"params": 30.0, "latency_ms": -1.0}
    )


def test_a_constraint_whose_value_is_missing_is_no_number():
    verdict = judge(live(), Completed(result={"accuracy": 0.9, "macs_ratio": 0.5, "params": 90}))
    assert isinstance(verdict, Complete)
    assert verdict.constraints["params"] == -10.0
    assert math.isnan(verdict.constraints["latency_ms"])


def test_an_earlier_result_counts_whatever_was_said_last():
    earlier = EarlierResult(number=1, attrs={**FOUND, "wall_s": {"dense": 1.0}, "host": "there"})
    for last in (None, Completed(result={}), Failed(reason="no"), Progressed(phase="surgery", progress=0.0)):
        verdict = judge(live(earlier=earlier), last, crashed=True, stopping=Stopping.TIME)
        assert isinstance(verdict, Complete)
        assert verdict.attrs == {**FOUND, "taken_over_from": 1, "host": "here"}


def test_a_trial_that_stops_itself_keeps_its_rungs_and_the_constraints_it_knows():
    trial = live(rungs={"0": 0.4, "1": 0.3}, macs_ratio=0.5)
    verdict = judge(trial, Stopped(reason="too slow", found={"latency_ms": 9.0}))
    assert verdict == StopEarly(
        {
            "rungs": {"0": 0.4, "1": 0.3},
            "partial_accuracy": 0.4,
            "partial_macs_ratio": 0.5,
            "stop_reason": "too slow",
            "latency_ms": 9.0,
            "host": "here",
        },
        {"latency_ms": 4.0},
    )


def test_of_a_minimised_metric_the_least_of_the_rungs_is_kept_under_its_name():
    goals = Goals(("rmse", "macs_ratio"), metric=RMSE)
    trial = live(rungs={"0": 1.5, "1": 0.9, "2": 1.1}, macs_ratio=0.5)
    verdict = verdict_on(trial, Stopped(reason="too slow"), goals=goals, crashed=False, stopping=None)
    assert isinstance(verdict, StopEarly)
    assert {name: value for name, value in verdict.attrs.items() if name.startswith("partial_")} == {
        "partial_rmse": 0.9, "partial_macs_ratio": 0.5,
    }  # fmt: skip
    none = verdict_on(live(), Stopped(reason="too slow"), goals=goals, crashed=False, stopping=None)
    assert isinstance(none, StopEarly)
    assert none.attrs["partial_rmse"] is None
    done = verdict_on(
        live(), Completed(result={"rmse": 0.7, "macs_ratio": 0.5}), goals=goals, crashed=False, stopping=None
    )
    assert isinstance(done, Complete)
    assert done.values == [0.7, 0.5]


@pytest.mark.parametrize("stopping", [None, *Stopping])
def test_an_error_of_the_trial_is_its_own_even_while_the_driver_stops(stopping):
    assert judge(live(), Failed(reason="ValueError: no"), stopping=stopping) == Fail("ValueError: no")


@pytest.mark.parametrize("stopping", list(Stopping))
def test_only_a_time_limit_turns_rungs_into_an_end(stopping):
    verdict = judge(live(rungs={"0": 0.4}), Progressed(phase="finetune", progress=0.5), stopping=stopping)
    assert isinstance(verdict, StopEarly) == (stopping is Stopping.TIME)
    assert judge(live(), None, stopping=stopping) == Release(stopping.value)


def test_a_lost_worker_is_tried_again_and_not_counted_while_the_driver_stops():
    verdict = judge(live(), None, crashed=True)
    assert isinstance(verdict, Fail)
    assert verdict.retry
    stopped = judge(live(rungs={"0": 0.4}), None, crashed=True, stopping=Stopping.TIME)
    assert stopped == Release(f"the time limit is reached; {verdict.reason}")


LASTS = st.sampled_from(
    [None, Completed(result=FOUND), Stopped(reason="s"), Failed(reason="f"), Progressed(phase="finetune", progress=0.5)]
)


@given(
    last=LASTS,
    crashed=st.booleans(),
    stopping=st.sampled_from([None, *Stopping]),
    rungs=st.dictionaries(st.sampled_from("012"), st.floats(0, 1)),
)
def test_every_end_has_one_verdict_and_changes_nothing(last, crashed, stopping, rungs):
    trial, again = live(rungs=dict(rungs)), live(rungs=dict(rungs))
    verdict = judge(trial, last, crashed=crashed, stopping=stopping)
    assert isinstance(verdict, Complete | StopEarly | Fail | Release)
    assert trial == again
    # Without a reason to stop, nothing is given back uncounted.
    assert not (stopping is None and isinstance(verdict, Release))
