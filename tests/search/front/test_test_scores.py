"""Scores on the test split: kept once, never mixed between splits, and what they can and can't tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import StorageError
from autoprune.search.front import EvaluationRows, TestScore, latest, scores_frame, source_of, summary, with_test_scores
from autoprune.search.front.test_scores import alike
from autoprune.search.storage import Database, StudyHandle

shares = st.integers(0, 360).map(lambda n: n / 360)


def score(number: int, seed: int, accuracy: float, fingerprint: str = "t") -> TestScore:
    return TestScore(number, seed, fingerprint, accuracy, n_images=360, wall_s=1.5)


def scores(**by_trial: list[float]) -> list[TestScore]:
    return [score(int(name[1:]), seed, value) for name, values in by_trial.items() for seed, value in enumerate(values)]


# The rows


def test_a_score_is_stored_once(db: Database, study: StudyHandle, clock: Any) -> None:
    rows = EvaluationRows(db, study.study_id)
    assert rows.read() == []
    rows.add(score(3, 1, 0.5))
    clock.now += 1
    rows.add(score(3, 1, 0.9))  # another machine was slower
    rows.add(score(3, 0, 0.6))
    rows.add(score(3, 1, 0.7, fingerprint="other images"))
    rows.add(score(2, 1, 0.8))
    assert rows.read() == [
        score(3, 1, 0.5), score(2, 1, 0.8), score(3, 0, 0.6), score(3, 1, 0.7, fingerprint="other images"),
    ]  # fmt: skip


def test_studies_do_not_mix(db: Database, study: StudyHandle) -> None:
    other = StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=["maximize", "minimize"])
    EvaluationRows(db, study.study_id).add(score(1, 0, 0.5))
    EvaluationRows(db, other.study_id).add(score(1, 0, 0.6))
    assert [row.score for row in EvaluationRows(db, study.study_id).read()] == [0.5]
    assert [row.score for row in EvaluationRows(db, other.study_id).read()] == [0.6]


def test_a_reader_can_t_store(url: str) -> None:
    db = Database.open_readonly(url)
    with pytest.raises(StorageError, match="was opened to read only"):
        EvaluationRows(db, 1).add(score(1, 0, 0.5))
    db.close()


# What they tell


@given(st.lists(shares, min_size=2, max_size=9))
def test_mean_and_sample_deviation(accuracies: list[float]) -> None:
    found = summary(accuracies)
    assert found.mean == pytest.approx(np.mean(accuracies), rel=1e-12)
    assert found.sd == pytest.approx(np.std(accuracies, ddof=1), rel=1e-9, abs=1e-15)
    assert found.n_seeds == len(accuracies)


@given(shares, st.integers(2, 9))
def test_the_same_score_again_and_again_deviates_by_nothing(accuracy: float, n: int) -> None:
    assert (summary([accuracy] * n).mean, summary([accuracy] * n).sd) == (accuracy, 0.0)


def test_one_seed_says_nothing_about_the_spread() -> None:
    assert summary([0.5]).mean == 0.5
    assert math.isnan(summary([0.5]).sd)
    assert alike(summary([0.5]), summary([0.1, 0.2])) is None
    assert alike(summary([0.1, 0.2]), summary([0.5])) is None


@given(st.lists(shares, min_size=2, max_size=6), st.lists(shares, min_size=2, max_size=6))
def test_alike_is_the_rule_on_paper(a: list[float], b: list[float]) -> None:
    gap = abs(float(np.mean(a)) - float(np.mean(b)))
    bound = 2 * math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    if not math.isclose(gap, bound, rel_tol=1e-9, abs_tol=1e-12):
        assert alike(summary(a), summary(b)) == (gap <= bound)
    assert alike(summary(a), summary(b)) == alike(summary(b), summary(a))
    assert alike(summary(a), summary(a)) is True


def test_more_seeds_tell_apart_what_fewer_could_not() -> None:
    few, many = [0.90, 0.92], [0.90, 0.92] * 20
    assert alike(summary(few), summary([x + 0.02 for x in few])) is True
    assert alike(summary(many), summary([x + 0.02 for x in many])) is False


def test_only_the_split_scored_on_last_counts() -> None:
    told = [score(1, 1, 0.1), score(1, 0, 0.2), score(2, 0, 0.3, "new"), score(1, 1, 0.4, "new")]
    assert latest(told) == {2: {0: 0.3}, 1: {1: 0.4}}
    assert latest(told[:2]) == {1: {0: 0.2, 1: 0.1}}
    assert list(latest(told[:2])[1]) == [0, 1]
    assert latest([]) == {}


def test_the_frame_of_all_scores() -> None:
    frame = scores_frame([score(2, 0, 0.5), score(1, 1, 0.6), score(1, 0, 0.7)], metric="accuracy")
    assert list(frame.columns) == ["number", "seed", "fingerprint", "accuracy", "n_images", "wall_s"]
    assert frame[["number", "seed", "accuracy"]].to_numpy().tolist() == [[1, 0, 0.7], [1, 1, 0.6], [2, 0, 0.5]]
    assert list(scores_frame([], metric="accuracy").columns) == list(frame.columns)
    assert len(scores_frame([], metric="accuracy")) == 0


# The front


def front(*rows: tuple[int, float], **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"number": [n for n, _ in rows], "macs_ratio": [c for _, c in rows], **more})


def test_a_front_without_scores_stays_as_it_is() -> None:
    plain = front((1, 0.5), (2, 0.7))
    assert with_test_scores(plain, [], metric="accuracy", cost="macs_ratio") is plain


def test_neighbours_are_found_by_cost_in_whatever_order_the_front_comes() -> None:
    told = scores(t7=[0.5, 0.5], t3=[0.9, 0.9, 0.9], t1=[0.89, 0.91], t4=[0.95])
    result = with_test_scores(
        front((3, 0.7), (7, 0.2), (4, 1.0), (1, 0.8), (9, 0.9)), told, metric="accuracy", cost="macs_ratio"
    )
    assert result["number"].tolist() == [3, 7, 4, 1, 9]
    np.testing.assert_allclose(result["test_accuracy"], [0.9, 0.5, 0.95, 0.9, math.nan], rtol=1e-12)
    np.testing.assert_allclose(result["test_sd"], [0, 0, math.nan, 0.02 / math.sqrt(2), math.nan], rtol=1e-9)
    assert result["test_seeds"].tolist() == [3, 2, 1, 2, 0]
    # 7 < 3 < 1 < 9 < 4: 7 is worse than 3, 3 is like 1, nothing is known of 9, and nothing comes after 4.
    assert result["like_next"].tolist() == [True, False, None, None, None]


def test_equal_costs_are_neighbours_by_number() -> None:
    told = scores(t5=[0.5, 0.5], t2=[0.5, 0.5], t8=[0.6, 0.6])
    result = with_test_scores(front((8, 0.5), (5, 0.5), (2, 0.5)), told, metric="accuracy", cost="macs_ratio")
    assert result["like_next"].tolist() == [None, False, True]


def test_a_trial_that_took_over_a_result_has_its_scores() -> None:
    told = scores(t1=[0.5, 0.7], t2=[0.9, 0.9])
    result = with_test_scores(
        front((1, 0.5), (6, 0.5), taken_over_from=[math.nan, 1.0]), told, metric="accuracy", cost="macs_ratio"
    )
    np.testing.assert_allclose(result["test_accuracy"], [0.6, 0.6], rtol=1e-12)
    assert result["like_next"].tolist() == [True, None]


def test_whose_network_a_trial_has() -> None:
    assert source_of(pd.Series({"number": 4})) == 4
    assert source_of(pd.Series({"number": 4.0, "taken_over_from": math.nan})) == 4
    assert source_of(pd.Series({"number": 4, "taken_over_from": 0.0})) == 0
    assert source_of(pd.Series({"number": 4, "taken_over_from": None})) == 4


def test_an_empty_front_has_the_columns() -> None:
    result = with_test_scores(front(), scores(t1=[0.5]), metric="accuracy", cost="macs_ratio")
    assert list(result.columns)[-4:] == ["test_accuracy", "test_sd", "test_seeds", "like_next"]


# Another metric


def test_an_rmse_is_stored_as_it_is_and_shown_under_its_name(db: Database, study: StudyHandle) -> None:
    rows = EvaluationRows(db, study.study_id)
    for seed, rmse in enumerate((1.25, 1.75)):
        rows.add(score(1, seed, rmse))
    rows.add(score(2, 0, 12.5))
    told = rows.read()
    assert [(each.number, each.seed, each.score) for each in told] == [(1, 0, 1.25), (1, 1, 1.75), (2, 0, 12.5)]
    frame = scores_frame(told, metric="rmse")
    assert list(frame.columns) == ["number", "seed", "fingerprint", "rmse", "n_images", "wall_s"]
    assert frame["rmse"].tolist() == [1.25, 1.75, 12.5]
    result = with_test_scores(front((1, 0.5), (2, 0.2)), told, metric="rmse", cost="macs_ratio")
    assert list(result.columns)[-4:] == ["test_rmse", "test_sd", "test_seeds", "like_next"]
    assert result["test_rmse"].tolist() == [1.5, 12.5]
    assert result["test_sd"].iloc[0] == pytest.approx(math.sqrt(2) / 4)


def test_the_column_in_the_database_keeps_its_name(db: Database, study: StudyHandle) -> None:
    EvaluationRows(db, study.study_id).add(score(3, 0, 0.25))
    with db.reading() as connection:
        (row,) = connection.execute(sa.text("SELECT trial_number, accuracy FROM autoprune_evaluations")).all()
    assert tuple(row) == (3, 0.25)
