"""Scores of a front, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from search_scores import best_at, busy_share, hypervolume, mean, over_time, reached


def test_hypervolume_is_a_share_of_the_box() -> None:
    # (0.15, 0.5) leaves a box of 0.15 x 0.5 of 0.30 x 1.0: a quarter. (0.10, 0.8) adds 0.05 x 0.2 of it.
    assert hypervolume([(0.15, 0.5)]) == pytest.approx(0.25)
    assert hypervolume([(0.10, 0.8), (0.15, 0.5)]) == pytest.approx(0.25 + 0.05 * 0.2 / 0.30)


def test_what_is_dominated_or_no_better_than_the_reference_adds_nothing() -> None:
    dominated, at_the_dense_cost, too_wrong = (0.16, 0.5), (0.0, 1.0), (0.30, 0.1)
    assert hypervolume([(0.15, 0.5), dominated, at_the_dense_cost, too_wrong]) == pytest.approx(0.25)
    assert hypervolume([at_the_dense_cost, too_wrong]) == 0
    assert hypervolume([]) == 0
    assert hypervolume([(0.0, 0.0)]) == pytest.approx(1)


def test_best_at_takes_the_best_point_that_costs_no_more() -> None:
    found = best_at([(0.14, 0.70), (0.20, 0.34), (0.25, 0.20), (0.26, 0.30)])
    expected = {0.70: 0.86, 0.50: 0.8, 0.35: 0.8, 0.25: 0.75, 0.15: None}
    assert {level: value and round(value, 12) for level, value in found.items()} == expected


def test_mean_of_what_is_all_there() -> None:
    assert mean([0.5, 0.25]) == 0.375
    assert mean([0.5, None]) is None
    assert mean([]) is None


def test_hypervolume_over_time_goes_by_when_trials_ended() -> None:
    history = over_time([(30.0, (0.15, 0.5)), (10.0, (0.225, 0.5)), (20.0, (0.29, 0.9))])
    # 0.075 x 0.5 of 0.30 is an eighth; 0.01 x 0.1 is dominated; then a quarter.
    assert history == [(10.0, pytest.approx(0.125)), (20.0, pytest.approx(0.125)), (30.0, pytest.approx(0.25))]
    assert [reached(history, target) for target in (0.1, 0.2, 0.3)] == [10.0, 30.0, None]


def test_busy_share_counts_training_and_scoring_only() -> None:
    walls = [{"finetune": 40.0, "recalibrate": 5.0, "surgery": 50.0}, {"sparsify": 10.0, "save": 1.0}, {}]
    assert busy_share(walls, concurrency=2, wall_s=50.0) == pytest.approx(0.55)
