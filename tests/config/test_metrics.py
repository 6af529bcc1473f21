"""Metrics: their errors, what they may be called, and how bad a reference point may be."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoprune.config import ACCURACY, COSTS, Metric, TrialResult
from autoprune.config.metrics import check_metric_name
from autoprune.errors import ConfigError
from autoprune.search.front import TestScore
from autoprune.search.trials import Attr, Point

RMSE = Metric("rmse", "minimize", 2.0)
METRICS = (ACCURACY, Metric("miou", "maximize", 0.25), Metric("r2", "maximize", -1.0), RMSE)

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


# The error


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_error_of_accuracy_is_what_it_lacks_of_1_to_the_last_bit(value: float, error: float) -> None:
    assert ACCURACY.error(value) == 1 - value
    assert ACCURACY.value(error) == 1 - error
    assert ACCURACY.worsened(value, error) == value - error


def test_the_error_of_a_minimised_metric_is_its_share_of_the_reference() -> None:
    assert (RMSE.error(0.0), RMSE.error(0.5), RMSE.error(2.0), RMSE.error(3.0)) == (0.0, 0.25, 1.0, 1.5)
    assert (RMSE.value(0.25), RMSE.worsened(0.5, 0.25)) == (0.5, 1.0)


@every_metric
@given(data=st.data())
def test_a_value_is_found_again_from_its_error_and_the_better_one_has_less(metric: Metric, data: st.DataObject) -> None:
    low, high = metric.bounds
    values = st.floats(max(low, -5), min(high, 50))
    one, other = data.draw(values), data.draw(values)
    assert metric.value(metric.error(one)) == pytest.approx(one, abs=1e-12)
    assert metric.worsened(one, 0.25) == pytest.approx(metric.value(metric.error(one) + 0.25), abs=1e-12)
    assert metric.error(one) >= 0
    assume(abs(one - other) > 1e-9)
    better = metric.best([one, other])
    assert better in (one, other)
    assert metric.error(better) == min(metric.error(one), metric.error(other))


def test_the_best_of_several() -> None:
    assert (ACCURACY.best([0.3, 0.9, 0.5]), RMSE.best(iter([0.3, 0.9, 0.5]))) == (0.9, 0.3)


@pytest.mark.parametrize(
    ("metric", "value", "found"),
    [
        (ACCURACY, 1.2, 1.0), (ACCURACY, -0.2, 0.0), (ACCURACY, 0.7, 0.7),
        (METRICS[2], 1.2, 1.0), (METRICS[2], -3.0, -3.0),
        (RMSE, -0.1, 0.0), (RMSE, 70.0, 70.0),
    ],
)  # fmt: skip
def test_the_nearest_value_that_there_can_be(metric: Metric, value: float, found: float) -> None:
    assert metric.bounded(value) == found


def test_values_for_people() -> None:
    assert (ACCURACY.text(0.98765), ACCURACY.text(0.5, digits=3)) == ("0.9877", "0.500")
    assert [RMSE.text(value) for value in (0.5, 0.00123456, 12.3456, 98765.4)] == [
        "0.5000", "0.001235", "12.35", "9.877e+04",
    ]  # fmt: skip
    assert RMSE.text(123.4, digits=3) == "123"


# Its name


@pytest.mark.parametrize("name", ["accuracy", "rmse", "miou", "map", "map50", "r2", "top_5", "score", "x"])
def test_names_that_a_metric_can_have(name: str) -> None:
    assert Metric(name, "minimize", 1.0).name == name


@pytest.mark.parametrize("name", ["", "RMSE", "5_top", "_x", "top-5", "a b", "a.b", "rmsé", "rmse\n", "and", "lambda"])
def test_names_that_are_no_identifiers(name: str) -> None:
    told = "`metric` must be a name of lower-case letters, digits and underscores that begins with a letter, but got "
    with pytest.raises(ConfigError, match=f"^{re.escape(told + repr(name))}"):
        check_metric_name(name)


STORED = {
    *COSTS, "number", "state", "host", "node",
    *(value for name, value in vars(Attr).items() if name.isupper()),
    *(field.name for field in dataclasses.fields(TrialResult) if field.name != "score"),
    *(field for field in TestScore.__dataclass_fields__ if field != "score"),
    *Point("magnitude", "global", 0.5).params,
    "trial", "started", "ended", "lineage", "lineage_images", "like_next", "test_sd", "test_seeds", "test_scores",
    "partial_macs_ratio", "sd", "seeds", "scores",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(STORED))
def test_names_that_something_else_has(name: str) -> None:
    told = f"`metric` must be a name that nothing else about a trial has, but got {name!r}. Choose another, such as "
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}"):
        check_metric_name(name)


# Its reference point


@pytest.mark.parametrize(
    ("name", "direction", "worst", "told"),
    [
        ("accuracy", "maximize", 1.0, "accuracy in [0, 1), but got accuracy=1.0."),
        ("miou", "maximize", -0.1, "miou in [0, 1), but got miou=-0.1."),
        ("map", "maximize", math.nan, "map in [0, 1), but got map=nan."),
        ("r2", "maximize", 1.0, "r2 finite and below 1, but got r2=1.0."),
        ("r2", "maximize", -math.inf, "r2 finite and below 1, but got r2=-inf."),
        ("rmse", "minimize", 0.0, "rmse greater than 0, but got rmse=0.0."),
        ("rmse", "minimize", -1.0, "rmse greater than 0, but got rmse=-1.0."),
        ("rmse", "minimize", math.inf, "rmse greater than 0, but got rmse=inf."),
    ],
)
def test_reference_points_that_are_no_worse_than_the_ideal(name: str, direction: str, worst: float, told: str) -> None:
    whole = f"`reference_point` must be worse than the ideal, with {told}"
    with pytest.raises(ConfigError, match=f"^{re.escape(whole)}$"):
        Metric(name, direction, worst)


def test_a_direction_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^`direction`: there is no direction 'minimise'; did you mean 'minimize'\?"):
        Metric("rmse", "minimise", 1.0)
