"""What can be told apart, by shares of a split and in a race of seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autoprune.search.front import alike_by_share, raced, summary
from autoprune.search.front.noise import with_marks


def front(**more: object) -> pd.DataFrame:
    frame = pd.DataFrame({"number": [4, 2, 7], "accuracy": [0.90, 0.91, 0.99], "macs_ratio": [0.2, 0.4, 0.9]})
    return frame.assign(**more)


def marked(frame: pd.DataFrame, *sizes: float) -> pd.DataFrame:
    return with_marks(frame, metric="accuracy", cost="macs_ratio", n_validation=np.array(sizes) if sizes else None)


def test_shares_by_hand() -> None:
    # 0.92 against 0.90 of 1,000 each: the pooled share is 0.91, so the standard error is sqrt(0.0819 * 0.002) = 0.0128.
    assert alike_by_share(0.92, 0.90, n=(1000, 1000))
    assert not alike_by_share(0.93, 0.90, n=(1000, 1000))
    # All right, and one wrong: no deviation of the first is no certainty.
    assert alike_by_share(1.0, 0.99, n=(100, 100))
    assert alike_by_share(1.0, 1.0, n=(100, 100))


@pytest.mark.parametrize("n", [50, 1000])
def test_equal_networks_are_told_apart_in_a_twentieth_of_the_cases(n: int) -> None:
    rights = np.random.default_rng(0).binomial(n, 0.9, size=(4000, 2)) / n
    wrong = np.mean([not alike_by_share(one, other, n=(n, n)) for one, other in rights])
    assert wrong == pytest.approx(2 * stats.norm.sf(2), abs=0.012)


def test_marks_by_the_size_of_the_validation_split() -> None:
    found = marked(front(), 1000, 1000, 1000)
    assert found["like_next"].tolist() == [True, False, None]
    assert found["like_next_by"].tolist() == ["validation", "validation", None]
    np.testing.assert_allclose(found["score_se"], [math.sqrt(p * (1 - p) / 1000) for p in (0.90, 0.91, 0.99)])
    assert marked(front(), 10**6, 10**6, 10**6)["like_next"].tolist() == [False, False, None]


def test_nothing_is_marked_where_nobody_knows_the_size() -> None:
    plain = front()
    assert marked(plain) is plain
    assert marked(plain, math.nan, math.nan, math.nan) is plain
    partly = marked(front(), 1000, math.nan, 1000)
    assert partly["like_next"].tolist() == [None, None, None]
    np.testing.assert_array_equal(partly["score_se"].isna(), [False, True, False])


def test_test_scores_go_before_shares() -> None:
    scored = front(test_accuracy=[0.5, 0.6, 0.7], test_sd=[0.01, 0.01, math.nan], test_seeds=[3, 3, 1])
    found = marked(scored, 1000, 1000, 1000)
    assert found["like_next"].tolist() == [False, False, None]
    assert found["like_next_by"].tolist() == ["test", "validation", None]


def test_trials_off_the_front_are_no_neighbours() -> None:
    found = marked(front(is_pareto=[True, False, True]), 1000, 1000, 1000)
    assert found["like_next"].tolist() == [False, None, None]


# Races


def test_a_race_asks_welch() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        one, other = (rng.normal(m, s, rng.integers(2, 8)).tolist() for m, s in ((0.9, 0.01), (0.91, 0.005)))
        (pair,) = raced([5, 3], {5: summary(one), 3: summary(other)})
        p = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
        errors = abs(np.mean(one) - np.mean(other)) / math.sqrt(
            np.var(one, ddof=1) / len(one) + np.var(other, ddof=1) / len(other)
        )
        assert pair.told_apart == (p < 0.05 and errors > 2)
        assert (pair.cheaper, pair.costlier, pair.n_seeds) == (5, 3, min(len(one), len(other)))


def test_what_never_deviates_differs_by_its_mean() -> None:
    same, other = summary([0.5] * 3), summary([0.6] * 3)
    assert [pair.told_apart for pair in raced([1, 2, 3], {1: same, 2: same, 3: other})] == [False, True]
    assert raced([1], {1: same}) == []
