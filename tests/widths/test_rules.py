"""Width rules: never above the target, on allowed widths, by the order that loops remove one channel after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import NetworkSpec, read
from autoprune.cost import CostModel, LayerCost, Limits, LinearForm, allowed_widths, fit
from autoprune.errors import ConfigError, InfeasibleError
from autoprune.widths import WIDTH_RULES, Evidence, joint_damages, keep_best, remove_least


def chain(dense=(16, 32, 24)):
    """Convolutions that read one another, then 10 logits."""
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: len(dense)])
    layers, fan_in = [], LinearForm(3)
    for index, name in enumerate(names):
        fan_out = LinearForm(0, ((index, 1),))
        layers.append(LayerCost(name, 9 * 64, 9, 0, fan_in, fan_out))
        fan_in = fan_out
    layers.append(LayerCost("fc", 1, 1, 1, fan_in, LinearForm(10)))
    return CostModel(names, tuple(dense), tuple(layers))


def scores_of(model, seed):
    generator = np.random.default_rng(seed)
    return {name: generator.random(width) for name, width in zip(model.groups, model.dense, strict=True)}


def damages_of(model, seed=0):
    """Of channels whose contributions are not alike and partly cancel."""
    generator = np.random.default_rng(seed)
    said = {name: generator.normal(0.2, 1, (width, 9)) for name, width in zip(model.groups, model.dense, strict=True)}
    return {name: each @ each.T / np.square(each.sum(0)).sum() for name, each in said.items()}


def apply(rule, model, scores, limits, multipliers=None, damages=None):
    evidence = Evidence(model, scores, multipliers or {}, lambda: damages or damages_of(model))
    return WIDTH_RULES[rule].widths(evidence, limits)


def least_of(model, multiple, smallest=1):
    return {
        name: int(allowed_widths(dense, multiple=multiple, smallest=min(dense, smallest))[0])
        for name, dense in zip(model.groups, model.dense, strict=True)
    }


def test_allowed_widths_by_hand():
    assert allowed_widths(20, multiple=8, smallest=1).tolist() == [8, 16, 20]
    assert allowed_widths(16, multiple=8, smallest=9).tolist() == [16]
    assert allowed_widths(6, multiple=8, smallest=1).tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]  # a group too narrow for the multiple
    assert allowed_widths(24, multiple=12).tolist() == [12, 24]


@pytest.mark.parametrize("rule", sorted(WIDTH_RULES))
@given(
    st.lists(st.integers(2, 70), min_size=1, max_size=5), st.sampled_from([1, 2, 4, 8, 16]), st.floats(0, 1),
    st.integers(0, 10**6),
)  # fmt: skip
def test_rounded_widths_are_allowed_and_never_cost_more_than_the_target(rule, dense, multiple, share, seed):
    model = chain(dense)
    least = least_of(model, multiple)
    floor = model.macs(least)
    macs = floor + share * (model.dense_macs - floor)
    widths = apply(rule, model, scores_of(model, seed), Limits(macs=macs, min_widths=least, multiple=multiple), {})
    assert model.macs(widths) <= macs
    for name, full in zip(model.groups, dense, strict=True):
        assert widths[name] in allowed_widths(full, multiple=multiple, smallest=least[name])
    for name, full in zip(model.groups, dense, strict=True):  # and none can grow
        ladder = allowed_widths(full, multiple=multiple, smallest=1).tolist()
        if widths[name] < full and (multiple > 1 or rule == "uniform"):
            wider = ladder[ladder.index(widths[name]) + 1]
            assert model.macs({**widths, name: wider}) > macs


def test_without_a_multiple_the_ranking_alone_decides():
    model = chain((4, 4))
    scores = {"a": np.array([0.9, 0.1, 0.8, 0.7]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    macs = model.macs({"a": 3, "b": 3})
    widths = remove_least(model, scores, Limits(macs=macs, min_widths={"a": 1, "b": 1}))
    # The two least scores are a's 0.1 and b's 0.2.
    assert widths == {"a": 3, "b": 3}
    kept = keep_best(model, scores, widths)
    assert {name: indices.tolist() for name, indices in kept.items()} == {"a": [0, 2, 3], "b": [1, 2, 3]}


def test_a_rounded_ranking_keeps_the_shape_of_the_ranking():
    model = chain((64, 64))
    # b's channels are all worse than a's, but for its best sixteen.
    scores = {"a": np.linspace(2, 3, 64), "b": np.concatenate([np.full(16, 4.0), np.linspace(0, 1, 48)])}
    macs = model.macs({"a": 64, "b": 19})
    plain = remove_least(model, scores, Limits(macs=macs, min_widths={"a": 1, "b": 1}))
    rounded = remove_least(model, scores, Limits(macs=macs, min_widths={"a": 8, "b": 8}, multiple=8))
    assert plain == {"a": 64, "b": 19}
    assert rounded == {"a": 64, "b": 16}  # 24 would cost more than the target
    assert rounded == fit(model, Limits(macs=macs, multiple=8), multipliers={"a": 1.0, "b": 19 / 64})


def test_the_target_of_the_dense_network_keeps_widths_that_are_no_multiple():
    model = chain((20, 36))
    for rule in WIDTH_RULES:
        widths = apply(
            rule,
            model,
            scores_of(model, 0),
            Limits(macs=model.dense_macs, min_widths=least_of(model, 8), multiple=8),
            {},
        )
        assert widths == {"a": 20, "b": 36}


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_a_target_below_the_rounded_minimum_is_refused(rule):
    model = chain((64, 64))
    least = least_of(model, 16)
    with pytest.raises(InfeasibleError, match="Raise"):
        apply(rule, model, scores_of(model, 0), Limits(macs=model.macs(least) - 1, min_widths=least, multiple=16))
    limits = Limits(macs=model.macs(least), min_widths=least, multiple=16)
    assert apply(rule, model, scores_of(model, 0), limits) == least


# -- against loops --------------------------------------------------------------------------------------------------


def removal_order(cost, scores, min_widths):
    """Units (score, group) from the least important on: sorted lists and tuples, no ranks."""
    units = []
    for place, name in enumerate(cost.groups):
        best_first = sorted(scores[name].tolist(), reverse=True)
        protected = min_widths.get(name, 1)
        units += [(score, place, -rank) for rank, score in enumerate(best_first) if rank >= protected]
    return [(score, place) for score, place, _ in sorted(units)]


def remove_one_by_one(cost, scores, macs, min_widths):
    widths = dict(zip(cost.groups, cost.dense, strict=True))
    passed = [dict(widths)]
    for _, place in removal_order(cost, scores, min_widths):
        widths[cost.groups[place]] -= 1
        passed.append(dict(widths))
    met = next((i for i, widths in enumerate(passed) if cost.macs(widths) <= macs), None)
    if met is None:
        return None
    widths = passed[met]
    for _, place in reversed(removal_order(cost, scores, min_widths)[:met]):
        name = cost.groups[place]
        grown = {**widths, name: widths[name] + 1}
        if cost.macs(grown) <= macs:
            widths = grown
    return widths


@st.composite
def problems(draw):
    n = draw(st.integers(1, 4))
    widths = [draw(st.integers(1, 12)) for _ in range(n)]
    cost = chain(widths)
    # Few values, so that ties are common within and between groups.
    value = st.integers(0, 3).map(float) if draw(st.booleans()) else st.floats(0, 1, allow_subnormal=False)
    scores = {
        name: np.array(draw(st.lists(value, min_size=width, max_size=width)))
        for name, width in zip(cost.groups, widths, strict=True)
    }
    min_widths = {
        name: draw(st.integers(1, width))
        for name, width in zip(cost.groups, widths, strict=True)
        if draw(st.booleans())
    }
    return cost, scores, draw(st.floats(0.01, 1.0)) * cost.dense_macs, min_widths


@settings(max_examples=200)
@given(problems())
def test_global_ranking_is_the_shortest_removal_that_meets_the_target_with_the_rest_given_back(problem):
    cost, scores, macs, min_widths = problem
    expected = remove_one_by_one(cost, scores, macs, min_widths)
    if expected is None:
        with pytest.raises(InfeasibleError, match="the widths must cost at most "):
            remove_least(cost, scores, Limits(macs=macs, min_widths=min_widths))
        return
    widths = remove_least(cost, scores, Limits(macs=macs, min_widths=min_widths))
    assert widths == expected
    assert cost.macs(widths) <= macs
    for name, dense in zip(cost.groups, cost.dense, strict=True):
        assert widths[name] == dense or cost.macs({**widths, name: widths[name] + 1}) > macs
        assert widths[name] >= min_widths.get(name, 1)


@settings(max_examples=100)
@given(problems(), st.data())
def test_keep_best_keeps_the_top_of_every_group(problem, data):
    cost, scores, _, _ = problem
    widths = {name: data.draw(st.integers(1, width)) for name, width in zip(cost.groups, cost.dense, strict=True)}
    kept = keep_best(cost, scores, widths)
    assert list(kept) == list(cost.groups)
    for name, width in zip(cost.groups, cost.dense, strict=True):
        order = sorted(range(width), key=lambda channel: (-scores[name][channel], channel))
        assert kept[name].dtype == np.int64
        assert kept[name].tolist() == sorted(order[: widths[name]])


def test_ties_fall_to_the_lower_index():
    cost = chain([6])
    kept = keep_best(cost, {"a": np.array([1.0, 2.0, 1.0, 2.0, 1.0, 0.0])}, {"a": 4})
    assert kept["a"].tolist() == [0, 1, 2, 3]


def test_ties_between_groups_fall_to_the_earlier_group():
    cost = chain([4, 4])
    scores = {"a": np.ones(4), "b": np.ones(4)}
    one_less = cost.macs({"a": 3})
    assert remove_least(cost, scores, Limits(macs=one_less)) == {"a": 3, "b": 4}
    assert remove_least(cost, scores, Limits(macs=one_less - 1)) == {"a": 2, "b": 4}


def test_nothing_is_removed_at_the_dense_target():
    cost = chain([8, 8])
    scores = {name: np.arange(1.0, 9.0) for name in cost.groups}
    for rule in WIDTH_RULES:
        assert apply(rule, cost, scores, Limits(macs=cost.dense_macs), {}) == {"a": 8, "b": 8}
        assert apply(rule, cost, scores, Limits(macs=2.0 * cost.dense_macs), {}) == {"a": 8, "b": 8}


def test_min_widths_protect_the_best():
    cost = chain([8, 8])
    scores = {"a": np.linspace(0, 0.1, 8), "b": np.linspace(1, 2, 8)}
    least = {"a": 5, "b": 2}
    macs = cost.macs({"a": 5, "b": 4})
    widths = remove_least(cost, scores, Limits(macs=macs, min_widths=least))
    assert widths == {"a": 5, "b": 4}
    assert keep_best(cost, scores, widths)["a"].tolist() == [3, 4, 5, 6, 7]


def test_infeasible_targets_name_the_reachable_minimum():
    cost = chain([7, 13])
    scores = {"a": np.ones(7), "b": np.ones(13)}
    share = cost.macs_ratio({"a": 2, "b": 3})
    least = f"{cost.macs({'a': 2, 'b': 3}):,} \\({np.ceil(share * 1e4) / 1e4:.4f}\\)"
    with pytest.raises(
        InfeasibleError, match=f"macs_ratio 0.0100.*, but the smallest ones cost {least}. Raise the limit"
    ):
        remove_least(cost, scores, Limits(macs=0.01 * cost.dense_macs, min_widths={"a": 2, "b": 3}))
    # The number that is named can be reached.
    named = np.ceil(share * 1e4) / 1e4
    widths = remove_least(cost, scores, Limits(macs=named * cost.dense_macs, min_widths={"a": 2, "b": 3}))
    assert widths == {"a": 2, "b": 3}


def test_uniform_is_the_inverse_of_the_cost():
    cost = chain([16, 24, 32])
    scores = {name: np.zeros(width) for name, width in zip(cost.groups, cost.dense, strict=True)}
    for share in (0.2, 0.35, 0.8):
        macs, least = share * cost.dense_macs, {"b": 9}
        widths = apply("uniform", cost, scores, Limits(macs=macs, min_widths=least))
        assert widths == fit(cost, Limits(macs=macs, min_widths=least))
        assert cost.macs(widths) <= macs
        assert widths["b"] >= 9
    with pytest.raises(InfeasibleError, match="must cost at most"):
        apply("uniform", cost, scores, Limits(macs=1.0))


@pytest.mark.parametrize("rule", ["per_group", "per_stage"])
def test_multipliers_set_the_proportions_of_the_keep_ratios(rule):
    cost = chain([60, 60, 60])
    scores = {name: np.zeros(60) for name in cost.groups}
    target = cost.macs({"a": 45, "b": 30, "c": 15})
    limits = Limits(macs=target)
    assert apply(rule, cost, scores, limits, {"a": 1.5, "b": 1.0, "c": 0.5}) == {"a": 45, "b": 30, "c": 15}
    # Only the proportions count, and an absent group has 1.
    assert apply(rule, cost, scores, limits, {"a": 0.75, "b": 0.5, "c": 0.25}) == {"a": 45, "b": 30, "c": 15}
    assert apply(rule, cost, scores, limits, {"a": 1.5, "c": 0.5}) == {"a": 45, "b": 30, "c": 15}
    # A multiplier above what is there leaves the group dense, and the others take what is left.
    widths = apply(rule, cost, scores, Limits(macs=cost.macs({"b": 40, "c": 20})), {"a": 1.5, "c": 0.5})
    assert widths == {"a": 60, "b": 40, "c": 20}


@pytest.mark.parametrize("rule", sorted(WIDTH_RULES))
def test_whichever_limit_is_tighter_binds(rule):
    cost, multipliers = chain([60, 60, 60]), {"a": 1.5, "c": 0.5}
    scores = scores_of(cost, 0)
    for macs_share, params_share in ((0.3, 0.9), (0.9, 0.3), (0.5, 0.5)):
        macs, params = macs_share * cost.dense_macs, int(params_share * cost.dense_params)
        widths = apply(rule, cost, scores, Limits(macs=macs, params=params), multipliers)
        assert cost.macs(widths) <= macs
        assert cost.params(widths) <= params
        for name in cost.groups:  # and nothing more would fit
            wider = {**widths, name: min(60, widths[name] + 1)}
            assert wider == widths or cost.macs(wider) > macs or cost.params(wider) > params


@pytest.mark.parametrize("rule", sorted(WIDTH_RULES))
def test_a_network_without_groups_has_its_dense_cost(rule):
    cost = CostModel((), (), (LayerCost("fc", 1, 1, 0, LinearForm(3), LinearForm(4)),))
    assert apply(rule, cost, {}, Limits(macs=12), {}) == {}
    assert keep_best(cost, {}, {}) == {}
    with pytest.raises(InfeasibleError, match=r"12 \(1.0000\)"):
        apply(rule, cost, {}, Limits(macs=11), {})


# -- by damage, and as the method decided ---------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_joint_damages_are_those_of_nested_sets(width, seed):
    matrix = damages_of(chain([width]), seed)["a"]
    order = np.random.default_rng(seed).permutation(width)
    by_hand = [matrix[np.ix_(order[:m], order[:m])].sum() for m in range(1, width + 1)]
    np.testing.assert_allclose(joint_damages(matrix, order), np.maximum.accumulate(by_hand), atol=1e-12)
    assert joint_damages(matrix, order)[-1] >= 1 - 1e-12, "without any channel nothing is left"


def test_two_channels_that_say_the_same_do_four_times_the_damage():
    assert joint_damages(np.array([[0.25, 0.25], [0.25, 0.25]]), np.array([0, 1])).tolist() == [0.25, 1.0]


def test_the_largest_nested_sets_within_one_theta():
    """Every group keeps the fewest channels whose loss is within θ, and θ is the largest that the limit allows."""
    cost = chain([12, 20, 9])
    scores, matrices = scores_of(cost, 3), damages_of(cost)
    nested = {name: joint_damages(matrices[name], np.argsort(scores[name])) for name in cost.groups}

    def within(theta):
        return {name: max(1, len(each) - int((each <= theta).sum())) for name, each in nested.items()}

    thetas = np.sort(np.concatenate(list(nested.values())))
    for share in (0.2, 0.5, 0.9):
        limit = share * cost.dense_macs
        fitting = [theta for theta in thetas if cost.macs(within(theta)) <= limit]
        widths = apply("aofp", cost, scores, Limits(macs=limit), damages=matrices)
        least, before = within(fitting[0]), within(thetas[np.searchsorted(thetas, fitting[0]) - 1])
        for name in cost.groups:  # Between θ and the step before it: what room is left has been given back.
            assert least[name] <= widths[name] <= max(before[name], least[name])
        assert cost.macs(widths) <= limit


def test_only_the_order_within_a_group_counts_for_aofp():
    cost = chain([12, 20, 9])
    scores, matrices = scores_of(cost, 3), damages_of(cost)
    other = {name: 100 * index + score**3 for index, (name, score) in enumerate(scores.items())}
    limits = Limits(macs=0.5 * cost.dense_macs)
    assert apply("aofp", cost, scores, limits, damages=matrices) == apply("aofp", cost, other, limits, damages=matrices)


def test_what_the_method_decided_goes_and_nothing_else():
    cost = chain([6, 8])
    scores = {"a": np.array([1.0, -1, 0, 2, 3, -2]), "b": np.linspace(-0.5, 0.2, 8)}
    assert apply("learned", cost, scores, Limits(macs=cost.dense_macs)) == {"a": 3, "b": 2}
    assert apply("learned", cost, scores, Limits(macs=cost.dense_macs, min_widths={"b": 4})) == {"a": 3, "b": 4}
    assert apply("learned", cost, scores, Limits(macs=cost.dense_macs, min_widths={}, multiple=4)) == {"a": 4, "b": 4}
    dead = {"a": -np.ones(6), "b": scores["b"]}
    assert apply("learned", cost, dead, Limits(macs=cost.dense_macs)) == {"a": 1, "b": 2}


def test_where_the_decision_costs_too_much_the_ranking_goes_on():
    cost = chain([6, 8])
    scores = {"a": np.array([1.0, -1, 0, 2, 3, -2]), "b": np.linspace(-0.5, 0.2, 8)}
    limits = Limits(macs=cost.macs({"a": 2, "b": 2}))
    assert apply("learned", cost, scores, limits) == remove_least(cost, scores, limits)
    assert cost.macs(apply("learned", cost, scores, limits)) <= limits.macs


def test_few_evaluations_of_large_networks(monkeypatch):
    """Bisection costs about log2(10,000) evaluations, and giving the rest back about one for each of the 20 groups."""
    cost = chain([500] * 20)
    generator = np.random.default_rng(0)
    scores = {name: generator.random(500) for name in cost.groups}
    calls, macs = [], CostModel.macs
    monkeypatch.setattr(CostModel, "macs", lambda self, widths: calls.append(1) or macs(self, widths))
    widths = remove_least(cost, scores, Limits(macs=0.3 * cost.dense_macs))
    assert len(calls) <= 16 + 24
    assert 0.29 < cost.macs_ratio(widths) <= 0.3


@pytest.mark.parametrize("multiple", [0, -8, 1.5, "8"])
def test_a_multiple_is_a_whole_number_of_at_least_one(multiple):
    with pytest.raises(ConfigError, match=r"`multiple`(: there is no choice .8.| must be)"):
        read(NetworkSpec, {"architecture": "resnet20", "multiple": multiple}, where="[network]")
    assert NetworkSpec(architecture="resnet20").multiple == 1
