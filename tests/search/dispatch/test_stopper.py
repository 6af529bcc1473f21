"""Trials end early where others of their cost have left them behind at the same rung."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.search.dispatch.stopper import Reached, Stopper, reached
from autoprune.search.trials import Point
from tests.search.fakes import RMSE

STOPPER = Stopper((0.5,), epochs=10.0)
POINT = Point("magnitude", "global", 0.5)
AHEAD = [Reached(0.5, 0.9), Reached(0.5, 0.89), Reached(0.5, 0.88)]


def ended(rungs: dict[str, float], state: TrialState = TrialState.COMPLETE, **attrs: Any) -> FrozenTrial:
    ratio = "partial_macs_ratio" if state is TrialState.PRUNED else "macs_ratio"
    values = [0.9, 0.5] if state is TrialState.COMPLETE else None
    return create_trial(state=state, values=values, user_attrs={"rungs": rungs, ratio: 0.5, **attrs})


@pytest.mark.parametrize(
    ("rung", "epochs", "is_watching"),
    [(0, None, False), (1, None, True), (2, None, False), (1, 10.0, True), (1, 9.9, False), (1, 100.0, True)],
)
def test_it_looks_at_rungs_behind_which_there_is_something_to_save(
    rung: int, epochs: float | None, is_watching: bool
) -> None:
    point = Point("magnitude", "global", 0.5, epochs=epochs)
    assert STOPPER.is_watching(point, rung) is is_watching


def test_the_best_third_goes_on() -> None:
    five = [Reached(0.5, 0.9), Reached(0.5, 0.89), Reached(0.5, 0.88), Reached(0.5, 0.87), Reached(0.5, 0.86)]
    assert STOPPER.is_behind(Reached(0.5, 0.875), five)  # The fourth of six.
    assert STOPPER.is_behind(Reached(0.5, 0.885), five)  # The third; two go on.
    assert not STOPPER.is_behind(Reached(0.5, 0.895), five)


def test_three_trials_say_nothing() -> None:
    assert STOPPER.is_behind(Reached(0.5, 0.7), AHEAD)
    assert not STOPPER.is_behind(Reached(0.5, 0.7), AHEAD[:2])


def test_others_of_another_cost_say_nothing() -> None:
    cheap = [Reached(each.macs_ratio / 1.6, each.score) for each in AHEAD]
    assert not STOPPER.is_behind(Reached(0.5, 0.7), cheap)


@given(st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=30))
def test_who_is_not_dominated_goes_on_and_in_a_bin_as_many_as_were_promised(points: list[tuple[float, float]]) -> None:
    trials = [Reached(ratio, accuracy) for ratio, accuracy in points]
    ends = [STOPPER.is_behind(each, trials[:i] + trials[i + 1 :]) for i, each in enumerate(trials)]
    for trial, is_ended in zip(trials, ends, strict=True):
        better = [o for o in trials if o.score >= trial.score and o.macs_ratio <= trial.macs_ratio and o != trial]
        assert not (is_ended and not better)


def test_what_was_reached_is_read_from_the_history() -> None:
    going_on = create_trial(state=TrialState.RUNNING, user_attrs={"rungs": {"1": 0.1}, "macs_ratio": 0.5})
    history = [
        ended({"0": 0.3, "1": 0.8, "2": 0.9}),
        ended({"0": 0.3, "1": 0.7}, TrialState.PRUNED),
        ended({"0": 0.3, "1": 0.6}),  # Its last rung is after the whole phase.
        ended({"0": 0.95}),
        going_on,
    ]
    assert reached(1, history) == [Reached(0.5, 0.8), Reached(0.5, 0.7)]


def test_where_rmse_is_minimised_those_with_the_least_go_on() -> None:
    stopper = Stopper((0.5,), 10.0, RMSE)
    five = [Reached(0.5, rmse) for rmse in (0.40, 0.44, 0.48, 0.52, 0.56)]
    assert stopper.is_behind(Reached(0.5, 0.50), five)  # The fourth of six.
    assert not stopper.is_behind(Reached(0.5, 0.42), five)  # The second; two go on.
    assert not stopper.is_behind(Reached(0.45, 0.57), five)  # The worst of all, but the cheapest.
    assert stopper.is_behind(Reached(0.5, 7.0), five)  # More than a useless network has.


@given(st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(0, 64)), min_size=1, max_size=30))
def test_rmse_and_the_accuracy_that_lacks_as_much_end_the_same_trials(points: list[tuple[float, int]]) -> None:
    accuracies = [Reached(ratio, 1 - n / 64) for ratio, n in points]
    rmses = [Reached(ratio, 4 * n / 64) for ratio, n in points]
    stopper = Stopper((0.5,), 10.0, RMSE)
    for i in range(len(points)):
        ends = STOPPER.is_behind(accuracies[i], accuracies[:i] + accuracies[i + 1 :])
        assert stopper.is_behind(rmses[i], rmses[:i] + rmses[i + 1 :]) is ends
