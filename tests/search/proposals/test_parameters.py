from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from autoprune.config import Range
from autoprune.search.proposals.parameters import Choice, Interval, parameter_of


def test_a_range_becomes_an_interval_with_its_grid():
    assert parameter_of(Range(low=0.2, high=0.8, step=0.2)) == Interval(0.2, 0.8, grid=(0.2, 0.4, 0.6, 0.8))
    assert parameter_of(Range(low=1e-3, high=1e-1, scale="log", points=3)) == Interval(
        1e-3, 1e-1, True, (1e-3, 1e-2, 0.1)
    )
    assert parameter_of(Range(low=1, high=2)) == Interval(1, 2)
    assert parameter_of(Range(values=(3.0, 1.0, 2.0))) == Interval(1.0, 3.0, grid=(1.0, 2.0, 3.0))
    # The step does not divide the range: what was stored under another grid of it stays valid.
    assert parameter_of(Range(low=0.0, high=1.0, step=0.4)) == Interval(0.0, 1.0, grid=(0.0, 0.4, 0.8))


def test_names_and_truth_values_become_a_choice():
    assert parameter_of(Range(values=("a", "b", "c"))) == Choice(("a", "b", "c"))
    assert parameter_of(Range(values=(True, False))).distribution == CategoricalDistribution((True, False))


def test_optuna_is_told_of_the_whole_interval():
    assert Interval(0.1, 0.9, grid=(0.1, 0.5, 0.9)).distribution == FloatDistribution(0.1, 0.9)
    assert Interval(0.1, 0.9, True).holding(1.0).distribution == FloatDistribution(0.1, 1.0, log=True)


@pytest.mark.parametrize("is_log", [False, True])
@given(share=st.floats(0, 1, exclude_max=True), low=st.floats(1e-6, 1e3), width=st.floats(0, 1e3))
def test_a_share_of_the_way_lies_in_the_interval_and_rises(is_log, share, low, width):
    interval = Interval(low, low + width, is_log)
    assert interval.holds(interval.at(share))
    assert interval.at(0) == low
    assert interval.at(share / 2) <= interval.at(share)


def test_shares_are_even_on_the_scale():
    assert Interval(0.0, 8.0).at(0.25) == 2.0
    assert Interval(1e-4, 1e-2, True).at(0.5) == pytest.approx(1e-3)
    choice = Choice(("a", "b", "c"))
    assert [choice.at(share) for share in (0, 0.33, 0.34, 0.66, 0.67, math.nextafter(1, 0))] == list("aabbcc")


def test_the_grid_is_clipped_with_its_interval():
    # What lies outside is moved to the new ends, once.
    clipped = Interval(0.1, 0.9, grid=(0.1, 0.3, 0.5, 0.7, 0.9)).clipped(0.2, 0.6)
    assert clipped == Interval(0.2, 0.6, grid=(0.2, 0.3, 0.5, 0.6))
    assert Interval(0.3, 0.9, grid=(0.3, 0.9)).clipped(0.05, 0.1) == Interval(0.1, 0.1, grid=(0.1,))


def test_the_middle_is_on_the_grid_or_half_way_on_the_scale():
    assert Interval(0, 9, grid=(0, 1, 9)).middle == 1
    assert Interval(1, 3).middle == 2
    assert Interval(1e-4, 1e-2, True).middle == pytest.approx(1e-3)
    assert Choice((True, False)).middle is False


def test_what_has_one_value_is_not_open():
    assert not Interval(0.5, 0.5).is_open
    assert Interval(0.5, 0.6).is_open
    assert not Choice(("a",)).is_open


@pytest.mark.parametrize(("value", "held"), [(0.1, True), (1, True), (0.05, False), ("a", False), (None, False)])
def test_an_interval_holds_numbers_between_its_ends(value, held):
    assert Interval(0.1, 1.0, grid=(0.1, 1.0)).holds(value) is held
