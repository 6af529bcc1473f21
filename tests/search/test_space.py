from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.inverse import allowed_widths, fit
from autoprune.search.space import Point, Space
from autoprune.spec import Range
from tests.search import fakes


def suggest(space, params):
    return space.suggest(optuna.trial.FixedTrial(params))


def test_a_suggestion_is_snapped_to_the_grids():
    params = {"method": "strong", "width_rule": "global", "macs_target": 0.4321, "strong.strength": 4e-4}
    point = suggest(fakes.space(), params)
    # The grid of five points per two decades: 1e-4, 3.162e-4, 1e-3, ...; 0.4321 lies nearest to 0.45.
    assert point == Point("strong", "global", 0.45, {"strength": 0.000316228})


@given(st.floats(1e-4, 1e-2))
def test_snapping_on_a_log_scale_takes_the_nearest_in_the_logarithm(value):
    params = {"method": "strong", "width_rule": "global", "macs_target": 0.5, "strong.strength": value}
    strength = suggest(fakes.space(), params).hyper["strength"]
    grid = [10 ** (-4 + 0.5 * i) for i in range(5)]
    nearest = min(grid, key=lambda g: abs(math.log10(g) - math.log10(value)))
    assert abs(math.log10(strength) - math.log10(value)) <= abs(math.log10(nearest) - math.log10(value)) + 1e-5


def test_a_target_below_the_minimum_widths_is_raised_to_what_they_cost():
    space = fakes.space()
    cost = fakes.cost_model()
    # One channel in each layer: 576 * 3 + 576 + 10 MACs of the dense 576 * 3 * 16 + 576 * 16 * 32 + 320.
    least = (576 * 3 + 576 + 10) / (576 * 48 + 576 * 512 + 320)
    assert space.least_macs_ratio == pytest.approx(least, abs=0)
    repaired = space.repair(Point("plain", "uniform", least / 2))
    assert repaired.macs_target == least
    assert fit(cost, macs=repaired.macs_target * cost.dense_macs) == {"a": 1, "b": 1}
    assert space.repair(Point("plain", "uniform", 0.5)).macs_target == 0.5


def test_two_points_of_the_uniform_rule_with_equal_widths_are_the_same_trial():
    space = fakes.space()
    near, far = Point("plain", "uniform", 0.500), Point("plain", "uniform", 0.5001)
    assert space.key(near) == space.key(far)
    assert space.key(near) != space.key(Point("plain", "uniform", 0.6))
    assert space.key(near) != space.key(near, {"epochs": 2})
    # What a global ranking keeps is known only in the trial.
    assert space.key(Point("plain", "global", 0.500)) != space.key(Point("plain", "global", 0.5001))


def rounded(multiple, least=1):
    cost = fakes.cost_model()
    ladders = {n: allowed_widths(d, 1, multiple, least) for n, d in zip(cost.groups, cost.dense, strict=True)}
    min_widths = {name: int(ladder[0]) for name, ladder in ladders.items()}
    return Space(fakes.space().config, cost, min_widths=min_widths, multiple=multiple)


def test_points_whose_rounded_widths_are_equal_are_the_same_trial():
    near, far = Point("plain", "uniform", 0.40), Point("plain", "uniform", 0.45)
    assert fakes.space().key(near) != fakes.space().key(far)
    assert rounded(8).key(near) == rounded(8).key(far)
    # The widths are all that a uniform trial depends on: at the multiples themselves, rounding changes nothing.
    cost = fakes.cost_model()
    widths = {"a": 8, "b": 16}
    exact = Point("plain", "uniform", cost.macs_ratio(widths))
    assert fit(cost, macs=cost.macs(widths)) == widths
    assert rounded(8).key(exact) == rounded(1).key(exact)


def test_a_ranking_is_another_trial_under_another_rounding_or_minimum():
    point = Point("plain", "global", 0.5)
    keys = {space.key(point) for space in (rounded(1), rounded(8), rounded(1, least=2))}
    assert len(keys) == 3


def test_the_least_target_counts_rounded_widths():
    space, cost = rounded(8), fakes.cost_model()
    assert space.least_macs_ratio == pytest.approx(cost.macs_ratio({"a": 8, "b": 8}), rel=1e-12)
    repaired = space.repair(Point("plain", "uniform", 0.01))
    assert fit(cost, macs=repaired.macs_target * cost.dense_macs, multiple=8) == {"a": 8, "b": 8}


@pytest.mark.parametrize("dense", range(2, 200))
def test_the_least_target_is_feasible_in_spite_of_rounding(dense):
    # One channel of 49 costs 1 / 49 of the dense MACs, and 1 / 49 * 49 is less than 1 in floating point.
    cost = CostModel(("a",), (dense,), (1,), (LayerCost("a", 1, 1, 0, LinearForm(1), LinearForm(0, ((0, 1),))),))
    space = Space(fakes.space().config, cost, min_widths={"a": 1})
    assert fit(cost, macs=space.least_macs_ratio * cost.dense_macs) == {"a": 1}


def test_the_dense_network_is_one_trial_whatever_the_width_rule():
    space = fakes.space()
    assert space.key(Point("plain", "uniform", 1.0)) == space.key(Point("plain", "global", 1.0))


def test_distributions_hold_their_point_even_outside_of_what_is_searched():
    space = fakes.space()
    point = Point("strong", "uniform", 1.0, {"strength": 1e-3})
    assert space.distributions(point) == {
        "method": CategoricalDistribution(("plain", "strong")),
        "width_rule": CategoricalDistribution(("uniform", "global")),
        "macs_target": FloatDistribution(0.1, 1.0),
        "strong.strength": FloatDistribution(1e-4, 1e-2, log=True),
    }
    assert set(point.params) == set(space.distributions(point))


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (Point("plain", "uniform", 0.5), True),
        (Point("plain", "uniform", 0.95), False),
        (Point("gone", "uniform", 0.5), False),
        (Point("plain", "gone", 0.5), False),
        (Point("strong", "global", 0.5, {"strength": 1e-3}), True),
        (Point("strong", "global", 0.5, {"strength": 1e-1}), False),
        (Point("strong", "global", 0.5), False),
    ],
)
def test_a_point_is_admitted_where_the_space_of_today_holds_it(point, expected):
    assert fakes.space().admits(point) is expected


def test_the_ladder_spans_the_range_from_the_top():
    assert fakes.space().target_ladder(5) == [0.9, 0.7, 0.5, 0.3, 0.1]
    continuous = fakes.space(macs_target=Range(low=0.2, high=0.8))
    assert continuous.target_ladder(4) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    logarithmic = fakes.space(macs_target=Range(low=0.1, high=0.9, scale="log"))
    assert logarithmic.target_ladder(3) == pytest.approx([0.9, 0.3, 0.1])


def test_a_list_of_numbers_is_an_interval_that_snaps_to_them():
    space = fakes.space(macs_target=Range(values=(0.3, 0.5, 0.9)), methods={"m": {"kind": Range(values=("a", "b"))}})
    params = {"method": "m", "width_rule": "global", "macs_target": 0.66, "m.kind": "b"}
    point = suggest(space, params)
    assert point == Point("m", "global", 0.5, {"kind": "b"})
    # The dense network is proposed first, though 1 is not in the list.
    assert space.distributions(Point("m", "uniform", 1.0, {"kind": "a"})) == {
        "method": CategoricalDistribution(("m",)),
        "width_rule": CategoricalDistribution(("uniform", "global")),
        "macs_target": FloatDistribution(0.3, 1.0),
        "m.kind": CategoricalDistribution(("a", "b")),
    }
    assert space.target_ladder(3) == [0.9, 0.5, 0.3]


def test_default_hyper_parameters_are_the_middle_of_their_ranges():
    assert fakes.space().default_hyper("strong") == {"strength": 0.001}
    free = fakes.space(methods={"m": {"a": Range(low=1, high=3), "b": Range(low=1e-4, high=1e-2, scale="log")}})
    assert free.default_hyper("m") == pytest.approx({"a": 2.0, "b": 1e-3})
