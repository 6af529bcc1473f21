"""A study ends when its last trials have added nothing to the hypervolume."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.search.dispatch import Patience
from tests.search.fakes import moment

PATIENCE = Patience(2, maximised=(True, False), worst=(0.5, 1.0))


def history(*values: tuple[float, float] | None) -> list[FrozenTrial]:
    trials = []
    for number, pair in enumerate(values):
        state = TrialState.RUNNING if pair is None else TrialState.COMPLETE
        trial = create_trial(state=state, values=None if pair is None else list(pair))
        trial.number = number
        if pair is not None:
            trial.datetime_complete = moment(number)
        trials.append(trial)
    return trials


def test_it_lasts_for_as_many_trials_as_it_says() -> None:
    assert not PATIENCE.is_over([])
    assert not PATIENCE.is_over(history((0.9, 0.5), (0.8, 0.6)))
    assert PATIENCE.is_over(history((0.9, 0.5), (0.8, 0.6), (0.7, 0.7)))
    assert not PATIENCE.is_over(history((0.9, 0.5), (0.8, 0.6), (0.8, 0.3)))


def test_next_to_nothing_is_nothing() -> None:
    # (0.9, 0.5) dominates 0.4 x 0.5 of the box 0.5 x 1. To 0.4 x 0.5012 it grows by 0.00096 of the box.
    assert PATIENCE.is_over(history((0.9, 0.5), (0.9, 0.4988), (0.8, 0.6)))
    assert not PATIENCE.is_over(history((0.9, 0.5), (0.9, 0.4987), (0.8, 0.6)))


def test_what_runs_does_not_count_and_order_is_that_of_the_ends() -> None:
    assert not PATIENCE.is_over(history((0.9, 0.5), (0.8, 0.6), None, None))
    late = history((0.9, 0.3), (0.9, 0.5), (0.8, 0.6))
    late[0].datetime_complete = moment(100)
    assert not PATIENCE.is_over(late)


def test_a_minimised_metric_counts_down_from_its_reference() -> None:
    patience = Patience(2, maximised=(False, False), worst=(4.0, 1.0))
    assert patience.is_over(history((0.4, 0.5), (0.8, 0.6), (1.2, 0.7)))
    assert not patience.is_over(history((0.4, 0.5), (0.8, 0.6), (0.8, 0.3)))
    # (0.4, 0.5) dominates 3.6 x 0.5 of the box of 4. To (0.38, 0.5) it grows by 0.01, 0.0025 of the box.
    assert not patience.is_over(history((0.4, 0.5), (0.38, 0.5), (0.8, 0.6)))
    assert patience.is_over(history((0.4, 0.5), (0.394, 0.5), (0.8, 0.6)))
    assert patience.is_over(history((0.4, 0.5), (5.0, 0.1), (4.0, 0.1)))  # Useless networks add nothing.
