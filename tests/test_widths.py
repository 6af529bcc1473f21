"""Width rules: never above the target, on allowed widths, by the order that they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import CostModel, LayerCost, LinearForm, allowed_widths, fit
from autoprune.errors import InfeasibleError
from autoprune.widths import RULES, global_ranking, keep_best, uniform


def chain(dense=(16, 32, 24), steps=None):
    """Convolutions that read one another, then 10 logits."""
    names = tuple("abcdef"[: len(dense)])
    layers, fan_in = [], LinearForm(3)
    for index, name in enumerate(names):
        fan_out = LinearForm(0, ((index, 1),))
        layers.append(LayerCost(name, 9 * 64, 9, 0, fan_in, fan_out))
        fan_in = fan_out
    layers.append(LayerCost("fc", 1, 1, 1, fan_in, LinearForm(10)))
    return CostModel(names, tuple(dense), steps or (1,) * len(dense), tuple(layers))


def scores_of(model, seed):
    generator = np.random.default_rng(seed)
    return {name: generator.random(width) for name, width in zip(model.groups, model.dense, strict=True)}


def least_of(model, multiple, smallest=1):
    return {
        name: int(allowed_widths(dense, step, multiple, min(dense, smallest))[0])
        for name, dense, step in zip(model.groups, model.dense, model.steps, strict=True)
    }


def test_allowed_widths_by_hand():
    assert allowed_widths(20, 1, 8, 1).tolist() == [8, 16, 20]
    assert allowed_widths(16, 1, 8, 9).tolist() == [16]
    assert allowed_widths(6, 1, 8, 1).tolist() == [1, 2, 3, 4, 5, 6]  # a group too narrow for the multiple
    assert allowed_widths(24, 6, 4, 1).tolist() == [12, 24]


@pytest.mark.parametrize("rule", sorted(RULES))
@given(
    st.lists(st.integers(2, 70), min_size=1, max_size=5), st.sampled_from([1, 2, 4, 8, 16]), st.floats(0, 1),
    st.integers(0, 10**6),
)  # fmt: skip
def test_rounded_widths_are_allowed_and_never_cost_more_than_the_target(rule, dense, multiple, share, seed):
    model = chain(dense)
    least = least_of(model, multiple)
    floor = model.macs(least)
    macs = floor + share * (model.dense_macs - floor)
    widths = RULES[rule](model, scores_of(model, seed), macs=macs, min_widths=least, multiple=multiple)
    assert model.macs(widths) <= macs
    for name, full in zip(model.groups, dense, strict=True):
        assert widths[name] in allowed_widths(full, 1, multiple, least[name])
    for name, full in zip(model.groups, dense, strict=True):  # and none can grow
        ladder = allowed_widths(full, 1, multiple, 1).tolist()
        if widths[name] < full and (multiple > 1 or rule == "uniform"):
            wider = ladder[ladder.index(widths[name]) + 1]
            assert model.macs({**widths, name: wider}) > macs


def test_without_a_multiple_the_ranking_alone_decides():
    model = chain((4, 4))
    scores = {"a": np.array([0.9, 0.1, 0.8, 0.7]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    macs = model.macs({"a": 3, "b": 3})
    widths = global_ranking(model, scores, macs=macs, min_widths={"a": 1, "b": 1})
    # The two least scores are a's 0.1 and b's 0.2.
    assert widths == {"a": 3, "b": 3}
    kept = keep_best(model, scores, widths)
    assert {name: indices.tolist() for name, indices in kept.items()} == {"a": [0, 2, 3], "b": [1, 2, 3]}


def test_a_rounded_ranking_keeps_the_shape_of_the_ranking():
    model = chain((64, 64))
    # b's channels are all worse than a's, but for its best sixteen.
    scores = {"a": np.linspace(2, 3, 64), "b": np.concatenate([np.full(16, 4.0), np.linspace(0, 1, 48)])}
    macs = model.macs({"a": 64, "b": 19})
    plain = global_ranking(model, scores, macs=macs, min_widths={"a": 1, "b": 1})
    rounded = global_ranking(model, scores, macs=macs, min_widths={"a": 8, "b": 8}, multiple=8)
    assert plain == {"a": 64, "b": 19}
    assert rounded == {"a": 64, "b": 16}  # 24 would cost more than the target
    assert rounded == fit(model, macs=macs, shape={"a": 1.0, "b": 19 / 64}, multiple=8)


def test_the_target_of_the_dense_network_keeps_widths_that_are_no_multiple():
    model = chain((20, 36))
    for rule in RULES.values():
        widths = rule(model, scores_of(model, 0), macs=model.dense_macs, min_widths=least_of(model, 8), multiple=8)
        assert widths == {"a": 20, "b": 36}


@pytest.mark.parametrize("rule", [uniform, global_ranking])
def test_a_target_below_the_rounded_minimum_is_refused(rule):
    model = chain((64, 64))
    least = least_of(model, 16)
    with pytest.raises(InfeasibleError, match="Raise"):
        rule(model, scores_of(model, 0), macs=model.macs(least) - 1, min_widths=least, multiple=16)
    assert rule(model, scores_of(model, 0), macs=model.macs(least), min_widths=least, multiple=16) == least
