"""Axes and numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoprune.report.scales import Scale, linear, number_text, quantile, ratio_scale, tick_texts

FINITE = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


@given(FINITE, FINITE, st.integers(3, 10))
def test_ticks_are_few_rise_and_lie_within(low: float, high: float, most: int) -> None:
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1.0))
    scale = Scale(low, high, 0, 100)
    ticks = scale.ticks(most)
    slack = 1e-6 * (high - low)
    assert all(a < b for a, b in pairwise(ticks))
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert 1 <= len(ticks) <= most + 1


@given(st.floats(1e-6, 1e3), st.floats(3.0, 1e6))
def test_logarithmic_ticks_are_at_least_two_within(low: float, factor: float) -> None:
    ticks = Scale(low, low * factor, 0, 100, is_log=True).ticks(7)
    assert len(ticks) >= 2
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)


@given(st.lists(st.floats(1e-3, 1.0), min_size=1), st.booleans())
def test_values_lie_between_the_ends(values: list[float], is_ratio: bool) -> None:
    scale = (ratio_scale if is_ratio else linear)(values, 10, 110)
    assert all(10 <= scale(value) <= 110 for value in values)
    assert scale(max(values)) >= scale(min(values))


def test_a_wide_range_of_ratios_is_logarithmic() -> None:
    assert ratio_scale([0.01, 1.0], 0, 1).is_log
    assert not ratio_scale([0.3, 1.0], 0, 1).is_log


def test_what_is_beyond_an_end_lies_at_it() -> None:
    assert Scale(0, 1, 10, 20)(7.0) == 20


def test_labels_have_the_digits_of_the_finest() -> None:
    assert tick_texts([0.5, 0.75, 1.0]) == ["0.50", "0.75", "1.00"]
    assert tick_texts([0, 1000, 2000]) == ["0", "1,000", "2,000"]
    assert tick_texts([0, 1e-5]) == ["0", "1e-05"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (12.0, "12"), (1234567.0, "1,234,567"), (0.123456, "0.1235"), (1e-7, "1.00e-07"),
     (23456.7, "23,457")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number_text(value) == text


def test_quantiles() -> None:
    assert [quantile([3.0, 1.0, 2.0, 4.0], share) for share in (0.0, 0.5, 1.0)] == [1.0, 3.0, 4.0]
