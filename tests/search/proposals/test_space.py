from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from autoprune.config import ConstraintsConfig, Range, SpaceConfig
from autoprune.cost import CostModel, LayerCost, Limits, LinearForm, fit
from autoprune.errors import InfeasibleError
from autoprune.search.proposals import Space
from autoprune.search.trials import Point
from autoprune.widths import WIDTH_RULES, Evidence
from tests.cost_models import cost_models
from tests.search import fakes


def test_a_drawn_point_is_snapped_to_the_grids():
    params = {"method": "strong", "width_rule": "global", "macs_target": 0.4321, "strong.strength": 4e-4}
    point = fakes.space().point(params)
    # The grid of five points per two decades: 1e-4, 3.162e-4, 1e-3, ...; 0.4321 lies nearest to 0.45.
    assert point == Point("strong", "global", 0.45, {"strength": 0.000316228})


@given(st.floats(1e-4, 1e-2))
def test_snapping_on_a_log_scale_takes_the_nearest_in_the_logarithm(value):
    params = {"method": "strong", "width_rule": "global", "macs_target": 0.5, "strong.strength": value}
    strength = fakes.space().point(params).hyper["strength"]
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
    assert fit(cost, Limits(macs=repaired.macs_target * cost.dense_macs)) == {"a": 1, "b": 1}
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
    limits = Limits(min_widths={name: min(least, dense) for name, dense in zip(cost.groups, cost.dense, strict=True)})
    return Space(fakes.space().config, cost, widths=dataclasses.replace(limits, multiple=multiple))


def test_points_whose_rounded_widths_are_equal_are_the_same_trial():
    near, far = Point("plain", "uniform", 0.40), Point("plain", "uniform", 0.45)
    assert fakes.space().key(near) != fakes.space().key(far)
    assert rounded(8).key(near) == rounded(8).key(far)
    # The widths are all that a uniform trial depends on: at the multiples themselves, rounding changes nothing.
    cost = fakes.cost_model()
    widths = {"a": 8, "b": 16}
    exact = Point("plain", "uniform", cost.macs_ratio(widths))
    assert fit(cost, Limits(macs=cost.macs(widths))) == widths
    assert rounded(8).key(exact) == rounded(1).key(exact)


def test_a_ranking_is_another_trial_under_another_rounding_or_minimum():
    point = Point("plain", "global", 0.5)
    keys = {space.key(point) for space in (rounded(1), rounded(8), rounded(1, least=2))}
    assert len(keys) == 3


def test_the_least_target_counts_rounded_widths():
    space, cost = rounded(8), fakes.cost_model()
    assert space.least_macs_ratio == pytest.approx(cost.macs_ratio({"a": 8, "b": 8}), rel=1e-12)
    repaired = space.repair(Point("plain", "uniform", 0.01))
    assert fit(cost, Limits(macs=repaired.macs_target * cost.dense_macs, multiple=8)) == {"a": 8, "b": 8}


@pytest.mark.parametrize("dense", range(2, 200))
def test_the_least_target_is_feasible_in_spite_of_rounding(dense):
    # One channel of 49 costs 1 / 49 of the dense MACs, and 1 / 49 * 49 is less than 1 in floating point.
    cost = CostModel(("a",), (dense,), (LayerCost("a", 1, 1, 0, LinearForm(1), LinearForm(0, ((0, 1),))),))
    space = Space(fakes.space().config, cost)
    assert fit(cost, Limits(macs=space.least_macs_ratio * cost.dense_macs)) == {"a": 1}


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
    point = space.point(params)
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


# -- shapes ----------------------------------------------------------------------------------------------------------

STAGED = {"cost": fakes.staged_model(), "width_rules": ("uniform", "per_group", "per_stage"), "methods": {"plain": {}}}


def shaped_space(**changes):
    return fakes.space(**{**STAGED, **changes})


def test_rules_with_multipliers_have_a_parameter_for_each_group_or_stage():
    space = shaped_space()
    assert list(space.multipliers("per_group")) == [f"per_group.conv{i}" for i in range(6)]
    assert list(space.multipliers("per_stage")) == ["per_stage.stage1", "per_stage.stage2", "per_stage.stage3"]
    assert space.multipliers("uniform") == {}
    assert len(space.parameters) == 3 + 6 + 3
    point = Point("plain", "per_stage", 0.5, multipliers={"stage1": 1.0, "stage2": 0.5, "stage3": 1.5})
    assert point.params == {
        "method": "plain", "width_rule": "per_stage", "macs_target": 0.5,
        "per_stage.stage1": 1.0, "per_stage.stage2": 0.5, "per_stage.stage3": 1.5,
    }  # fmt: skip
    assert space.distributions(point)["per_stage.stage2"] == FloatDistribution(0.5, 1.5)
    assert set(point.params) == set(space.distributions(point))


def test_multipliers_are_snapped_to_their_grid():
    drawn = {"method": "plain", "width_rule": "per_stage", "macs_target": 0.5}
    drawn |= {"per_stage.stage1": 0.55, "per_stage.stage2": 1.07, "per_stage.stage3": 1.49}
    point = shaped_space().point({**drawn, "per_group.conv0": 9.0})
    assert point.multipliers == {"stage1": 0.5, "stage2": 1.125, "stage3": 1.5}


def test_a_trial_is_told_the_multiplier_of_every_group():
    space = shaped_space(constraints=ConstraintsConfig(params=2_000, latency_ms=3.5))
    point = Point("plain", "per_stage", 0.5, multipliers={"stage1": 1.0, "stage2": 0.5, "stage3": 1.5})
    assert space.trial_fields(point) == {
        "method": "plain", "hyper": {}, "width_rule": "per_stage", "macs_target": 0.5,
        "multipliers": {"conv0": 1.0, "conv1": 1.0, "conv2": 0.5, "conv3": 0.5, "conv4": 1.5, "conv5": 1.5},
        "params_limit": 2_000, "activation_limit_bytes": None, "latency_limit_ms": 3.5, "recipe": {}, "epochs": None,
    }  # fmt: skip
    by_group = Point("plain", "per_group", 0.5, multipliers={f"conv{i}": 1.0 + i / 8 for i in range(6)})
    assert space.trial_fields(by_group)["multipliers"] == by_group.multipliers
    uniform = shaped_space().trial_fields(Point("plain", "uniform", 0.5))
    assert (uniform["multipliers"], uniform["params_limit"], uniform["latency_limit_ms"]) == ({}, None, None)


def test_the_widths_of_a_point_are_those_that_its_trial_will_find():
    space, cost = shaped_space(constraints=ConstraintsConfig(params=15_000)), fakes.staged_model()
    point = Point("plain", "per_stage", 0.7, multipliers={"stage1": 1.5, "stage2": 1.0, "stage3": 0.5})
    spec = space.trial_fields(point)
    limits = Limits(macs=spec["macs_target"] * cost.dense_macs, params=spec["params_limit"], min_widths={})
    assert space.widths(point) == WIDTH_RULES["per_stage"].widths(
        Evidence(cost, multipliers=spec["multipliers"]), limits
    )
    assert space.widths(dataclasses.replace(point, width_rule="global")) is None


def test_points_with_the_same_widths_are_the_same_trial_whatever_rule_chose_them():
    space = shaped_space()
    uniform = Point("plain", "uniform", 0.5)
    alike = Point("plain", "per_stage", 0.5, multipliers={"stage1": 1.25, "stage2": 1.25, "stage3": 1.25})
    each = Point("plain", "per_group", 0.5, multipliers=dict.fromkeys(fakes.staged_model().groups, 0.5))
    other = dataclasses.replace(alike, multipliers={**alike.multipliers, "stage2": 0.5})
    assert space.key(uniform) == space.key(alike) == space.key(each)
    assert space.key(other) != space.key(alike)


def test_a_stored_point_without_multipliers_still_reads():
    stored = {"method": "plain", "width_rule": "uniform", "macs_target": 0.5, "hyper": {}}
    assert Point.from_dict(stored) == Point("plain", "uniform", 0.5)
    point = Point("plain", "per_stage", 0.5, {"strength": 1e-3}, {"stage1": 0.5})
    assert Point.from_dict(json.loads(json.dumps(point.to_dict()))) == point


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"stage1": 1.0, "stage2": 0.5, "stage3": 1.5}, True),
        ({"stage1": 1.0, "stage2": 0.51, "stage3": 1.5}, True),  # Grids may change; intervals count.
        ({"stage1": 1.0, "stage2": 0.4, "stage3": 1.5}, False),
        ({"stage1": 1.0, "stage2": 0.5}, False),
        ({"stage1": 1.0, "stage2": 0.5, "stage3": 1.5, "stage4": 1.0}, False),
        ({}, False),
    ],
)
def test_a_point_is_admitted_with_exactly_the_multipliers_of_its_rule(shape, expected):
    assert shaped_space().admits(Point("plain", "per_stage", 0.5, multipliers=shape)) is expected


def test_neutral_multipliers_are_alike_and_near_to_one():
    assert shaped_space().neutral_multipliers("per_stage") == {"stage1": 1.0, "stage2": 1.0, "stage3": 1.0}
    high = shaped_space(shape=Range(low=1.25, high=2.0))
    assert set(high.neutral_multipliers("per_group").values()) == {1.25}
    assert shaped_space().neutral_multipliers("uniform") == {}


# -- constraints -----------------------------------------------------------------------------------------------------


def test_targets_above_the_limit_are_no_part_of_the_space():
    space = fakes.space(constraints=ConstraintsConfig(macs_ratio=0.52))
    assert space.root["macs_target"].distribution == FloatDistribution(0.1, 0.52)
    assert space.target_ladder(3) == [0.52, 0.35, 0.1]
    assert not space.admits(Point("plain", "uniform", 0.55))
    drawn = {"method": "plain", "width_rule": "uniform"}
    assert space.point({**drawn, "macs_target": 0.519}).macs_target == 0.52
    assert space.point({**drawn, "macs_target": 0.509}).macs_target == 0.5
    assert space.repair(Point("plain", "uniform", 1.0)).macs_target == 0.52


def test_targets_that_no_widths_reach_are_no_part_of_the_space():
    least = fakes.cost_model().macs_ratio({"a": 8, "b": 8})
    space = fakes.space(multiple=8, macs_target=Range(low=0.1, high=0.9))
    assert 0.15 < least < 0.16
    assert space.root["macs_target"].distribution == FloatDistribution(least, 0.9)


def test_a_range_that_lies_above_the_limit_is_the_limit():
    space = fakes.space(constraints=ConstraintsConfig(macs_ratio=0.05))
    assert space.root["macs_target"].distribution == FloatDistribution(0.05, 0.05)
    assert space.target_ladder(4) == [0.05]


@given(st.data())
def test_what_parameters_fix_keeps_every_limit_exactly(data):
    cost = data.draw(cost_models(max_groups=4))
    names = cost.groups
    least = dict.fromkeys(names, 1)
    low_macs, low_params = cost.macs(least), cost.params(least)
    macs = data.draw(st.integers(low_macs, cost.dense_macs))
    # Any number that a person could write: the ratio of a feasible count, or one between two of them.
    ratio = min(1.0, data.draw(st.sampled_from([macs / cost.dense_macs, math.nextafter(macs / cost.dense_macs, 1)])))
    params = data.draw(st.none() | st.integers(low_params, cost.dense_params))
    config = SpaceConfig(
        name="s",
        methods={"m": {}},
        width_rules=("uniform", "per_group", "per_stage"),
        macs_target=Range(low=0.01, high=1),
    )
    space = Space(config, cost, constraints=ConstraintsConfig(macs_ratio=ratio, params=params))
    rule = data.draw(st.sampled_from(config.width_rules))
    drawn = {name: p.at(data.draw(st.floats(0, 1, exclude_max=True))) for name, p in space.multipliers(rule).items()}
    drawn |= {"method": "m", "width_rule": rule, "macs_target": data.draw(st.floats(0.001, 1))}
    widths = space.widths(space.point(drawn))
    assert cost.macs_ratio(widths) <= ratio
    assert params is None or cost.params(widths) <= params


def test_the_highest_target_allows_all_that_the_limit_allows():
    cost = fakes.cost_model()
    for macs in range(cost.macs({"a": 1, "b": 1}), cost.dense_macs, 997):
        limit = macs / cost.dense_macs
        space = fakes.space(constraints=ConstraintsConfig(macs_ratio=limit))
        assert math.floor(space.most_macs_ratio * cost.dense_macs) == macs
        assert abs(space.most_macs_ratio - limit) <= math.ulp(limit)


def test_the_dense_network_is_no_trial_where_its_parameters_are_too_many():
    cost = fakes.cost_model()
    point = Point("plain", "uniform", 1.0)
    allowed = fakes.space(constraints=ConstraintsConfig(params=cost.dense_params))
    assert allowed.widths(point) == {"a": 16, "b": 32}
    assert allowed.key(point) == fakes.space().key(point)
    limited = fakes.space(constraints=ConstraintsConfig(params=cost.dense_params - 1))
    assert cost.params(limited.widths(point)) < cost.dense_params
    # Two rules then keep different channels, unless the network stays dense.
    assert limited.key(point) != limited.key(dataclasses.replace(point, width_rule="global"))
    assert allowed.key(point) == allowed.key(dataclasses.replace(point, width_rule="global"))


def with_activations(cost):
    """At one step both groups live, at another the first alone: at 16 and 32 channels 1,664 and 1,600 bytes."""
    steps = (LinearForm(0, ((0, 64), (1, 20))), LinearForm(0, ((0, 100),)))
    return dataclasses.replace(cost, activations=steps)


@pytest.mark.parametrize("given", [{"peak_activation_bytes": 900}, {"peak_activation_ratio": 900 / 1_664}])
def test_widths_keep_a_limit_of_activation_memory_beforehand(given):
    cost = with_activations(fakes.cost_model())
    space = fakes.space(cost=cost, constraints=ConstraintsConfig(**given))
    point = Point("plain", "uniform", 1.0)
    assert space.trial_fields(point)["activation_limit_bytes"] == space.activation_limit_bytes == 900
    assert 850 <= cost.peak_activation_bytes(space.widths(point)) <= 900
    other = fakes.space(cost=cost, constraints=ConstraintsConfig(peak_activation_bytes=901))
    ranked = dataclasses.replace(point, width_rule="global")
    assert len({each.key(ranked) for each in (space, other, fakes.space(cost=cost))}) == 3


def test_the_stricter_of_two_limits_of_activation_memory_counts():
    cost = with_activations(fakes.cost_model())
    both = ConstraintsConfig(peak_activation_bytes=1_000, peak_activation_ratio=0.5)
    assert fakes.space(cost=cost, constraints=both).activation_limit_bytes == 832
    with pytest.raises(InfeasibleError, match=r"\[constraints\] .* 99 bytes of activations at once .* cost 100"):
        fakes.space(cost=cost, constraints=ConstraintsConfig(peak_activation_bytes=99))


def test_a_ranking_is_another_trial_under_another_limit_of_parameters():
    point = Point("plain", "global", 0.5)
    keys = {fakes.space(constraints=ConstraintsConfig(params=n)).key(point) for n in (None, 3_000, 4_000)}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("constraints", "told"),
    [
        # One channel in each layer: 2314 of 322880 MACs, which is 0.00716..., and 27 + 9 + 20 parameters.
        ({"macs_ratio": 0.007}, r"^\[constraints\] .* 2,260 MACs \(macs_ratio 0.0070\), .* cost 2,314 \(0.0072\)"),
        ({"params": 55}, r"^\[constraints\] .* 55 parameters .*, but the smallest ones cost 56 "),
    ],
)  # fmt: skip
def test_constraints_that_no_widths_keep_are_refused_with_what_can_be_kept(constraints, told):
    with pytest.raises(InfeasibleError, match=told):
        fakes.space(constraints=ConstraintsConfig(**constraints))
    at_least = {"macs_ratio": 0.0072} if "macs_ratio" in constraints else {"params": 56}
    assert fakes.space(constraints=ConstraintsConfig(**at_least)).target_ladder(1)


def test_what_is_learned_is_not_known_before_even_at_the_dense_target():
    space = fakes.space(width_rules=("uniform", "global", "aofp", "learned"))
    dense = {"uniform": True, "global": True, "aofp": True, "learned": False}
    for rule, is_known in dense.items():
        assert (space.widths(Point("plain", rule, 1.0)) is not None) == is_known
        assert (space.widths(Point("plain", rule, 0.5)) is not None) == (rule == "uniform")
