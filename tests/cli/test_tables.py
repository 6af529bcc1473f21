"""The front as text."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from autoprune.cli.tables import front_table, score_notes
from autoprune.config import ACCURACY, Metric

RMSE = Metric("rmse", "minimize", 2.0)


def test_an_empty_front() -> None:
    assert front_table(pd.DataFrame({"number": [], "accuracy": []}), ACCURACY) == "no trial is on the front yet."


def test_columns_are_aligned_and_ordered() -> None:
    front = pd.DataFrame(
        {
            "method": ["slimming", "magnitude"],
            "macs": [1234567, 89],
            "accuracy": [0.98765, 0.5],
            "macs_ratio": [0.12345, 1.0],
            "number": [7, 12],
            "hyper": ["strength=0.001", ""],
            "secret": ["x", "y"],  # what people did not ask for is left out
        }
    )
    assert front_table(front, ACCURACY).splitlines() == [
        "trial  accuracy  macs_ratio       MACs  method     strengths",
        "    7    0.9877      0.1235  1,234,567  slimming   strength=0.001",
        "   12    0.5000      1.0000         89  magnitude",
    ]


def test_what_is_missing_is_left_empty() -> None:
    front = pd.DataFrame({"number": [1, 2], "macs": [math.nan, 5.0], "width_rule": [None, "global"]})
    assert front_table(front, ACCURACY).splitlines() == ["trial  MACs  widths", "    1", "    2     5  global"]


def scored(**changes: Any) -> pd.DataFrame:
    """Five trials: told apart from the next, not told apart, with one seed, not scored, and the last."""
    columns: dict[str, list[Any]] = {
        "number": [1, 2, 3, 4, 5],
        "accuracy": [0.5, 0.6, 0.7, 0.8, 0.9],
        "macs_ratio": [0.1, 0.2, 0.3, 0.4, 0.5],
        "test_accuracy": [0.51, 0.61, 0.71, math.nan, 0.91],
        "test_sd": [0.01, 0.02, math.nan, math.nan, 0.0],
        "test_seeds": [3, 3, 1, 0, 3],
        "like_next": [False, True, None, None, None],
    }
    return pd.DataFrame(columns | changes)


def test_scores_on_the_test_split_stand_beside_those_of_the_search() -> None:
    assert front_table(scored(), ACCURACY).splitlines() == [
        "trial  accuracy  test acc ± sd      macs_ratio",
        "    1    0.5000  0.5100 ± 0.0100        0.1000",
        "    2    0.6000  0.6100 ± 0.0200 ~      0.2000",
        "    3    0.7000  0.7100                 0.3000",
        "    4    0.8000                         0.4000",
        "    5    0.9000  0.9100 ± 0.0000        0.5000",
    ]


@pytest.mark.parametrize(
    ("seeds", "over"),
    [([3, 3, 1, 0, 3], "1 to 3 fine-tunings"), ([3, 3, 0, 0, 3], "3 fine-tunings"), ([0, 0, 1, 0, 0], "1 fine-tuning")],
)
def test_what_the_scores_mean_is_said_below(seeds: list[int], over: str) -> None:
    first, mark = score_notes(scored(test_seeds=seeds), ACCURACY)
    assert first == f"test acc ± sd: mean and standard deviation over {over}, on the test split"
    assert mark == "~ can't be told apart from the next costlier one: within 2 * sqrt(sd1^2 / K + sd2^2 / K)"
    assert score_notes(scored(like_next=[False, False, None, None, None]), ACCURACY) == [
        "test acc ± sd: mean and standard deviation over 1 to 3 fine-tunings, on the test split"
    ]


def test_nothing_is_said_where_nothing_was_scored() -> None:
    assert score_notes(scored(test_seeds=[0] * 5), ACCURACY) == []
    assert score_notes(scored().drop(columns=["test_accuracy", "test_sd", "test_seeds", "like_next"]), ACCURACY) == []
    assert score_notes(pd.DataFrame({"number": []}), ACCURACY) == []


def test_marks_by_the_validation_split_stand_behind_the_score() -> None:
    by = [None, "validation", None, None, None]
    told = scored(like_next_by=by).drop(columns=["test_accuracy", "test_sd", "test_seeds"])
    assert front_table(told, ACCURACY).splitlines()[:3] == [
        "trial  accuracy  macs_ratio",
        "    1  0.5000        0.1000",
        "    2  0.6000 ~      0.2000",
    ]
    like = "~ can't be told apart from the next costlier one"
    assert score_notes(told, ACCURACY) == [f"{like}: within two standard errors of a share of the validation split"]
    both = scored(like_next=[True, True, None, None, None], like_next_by=["test", *by[1:]])
    assert score_notes(both, ACCURACY)[1:] == [
        f"{like}: within 2 * sqrt(sd1^2 / K + sd2^2 / K)",
        "~ behind accuracy: within two standard errors of a share of the validation split",
    ]
    assert [line.count("~") for line in front_table(both, ACCURACY).splitlines()] == [0, 1, 1, 0, 0, 0]


def test_members_are_marked_where_others_are_shown() -> None:
    told = scored(is_pareto=[True, False, True, True, True])[["number", "accuracy", "is_pareto"]]
    assert front_table(told, ACCURACY).splitlines()[:3] == [
        "front  trial  accuracy",
        "*          1    0.5000",
        "           2    0.6000",
    ]


# A minimised metric


def test_an_rmse_has_four_digits_that_count() -> None:
    front = pd.DataFrame(
        {
            "number": [1, 2, 3, 4],
            "rmse": [0.01234, 1.0, 1234.4, 0.0],
            "macs_ratio": [0.1, 0.2, 0.3, 0.4],
            "accuracy": [0.5] * 4,  # an attribute like others, which people did not ask for
        }
    )
    assert front_table(front, RMSE).splitlines() == [
        "trial     rmse  macs_ratio",
        "    1  0.01234      0.1000",
        "    2    1.000      0.2000",
        "    3     1234      0.3000",
        "    4    0.000      0.4000",
    ]


def test_test_scores_go_by_the_name_of_the_metric() -> None:
    names = {"accuracy": "rmse", "test_accuracy": "test_rmse"}
    front = scored().rename(columns=names)[:2]
    assert front_table(front, RMSE).splitlines() == [
        "trial    rmse  test rmse ± sd      macs_ratio",
        "    1  0.5000  0.5100 ± 0.01000        0.1000",
        "    2  0.6000  0.6100 ± 0.02000 ~      0.2000",
    ]
    assert score_notes(front, RMSE)[0] == (
        "test rmse ± sd: mean and standard deviation over 3 fine-tunings, on the test split"
    )


def test_a_maximised_metric_is_shown_like_accuracy() -> None:
    miou = Metric("miou", "maximize", 0.0)
    front = pd.DataFrame({"number": [1], "miou": [0.71234], "macs_ratio": [0.5]})
    assert front_table(front, miou).splitlines() == ["trial    miou  macs_ratio", "    1  0.7123      0.5000"]
