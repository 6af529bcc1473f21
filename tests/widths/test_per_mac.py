"""The rule per_mac: the greedy removal by hand, and against one that counts everything anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import CostModel, LayerCost, Limits, LinearForm
from autoprune.widths import WIDTH_RULES, Evidence
from tests.widths.test_rules import chain, damages_of, scores_of


def two_layers(positions):
    """Two convolutions of 3 channels each, over as many positions as given, then one logit."""
    forms = LinearForm(1), LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),)), LinearForm(1)
    layers = [
        LayerCost(name, n, 1, 0, forms[i], forms[i + 1])
        for i, (name, n) in enumerate(zip("ab", positions, strict=True))
    ]
    return CostModel(("a", "b"), (3, 3), (*layers, LayerCost("fc", 0, 1, 1, forms[2], forms[3])))


def widths(cost, scores, damages, limits):
    return WIDTH_RULES["per_mac"].widths(Evidence(cost, scores, measure=lambda: damages), limits)


def test_by_hand():
    """a: 10·w_a, b: w_a·w_b; dense 39. A channel of a saves 10 + w_b = 13, one of b saves w_a = 3."""
    cost = two_layers((10, 1))
    scores = {name: np.array([3.0, 2.0, 1.0]) for name in "ab"}
    damages = {"a": np.diag([100.0, 50.0, 26.0]), "b": np.diag([100.0, 5.0, 3.0])}
    # Per MAC: a 26 / 13 = 2, b 3 / 3 = 1: one of b leaves, which saves 3. Then a 26 / 12 against b 5 / 3: b again.
    assert widths(cost, scores, damages, Limits(macs=37)) == {"a": 3, "b": 2}
    assert widths(cost, scores, damages, Limits(macs=33)) == {"a": 3, "b": 1}
    # Of b the last one stays; a: 26 / 11 leaves 22 MACs, and what fits again comes back: one of b costs 2.
    assert widths(cost, scores, damages, Limits(macs=24)) == {"a": 2, "b": 2}


def test_prices_are_those_of_the_moment():
    """A channel of b saves 3 while a is whole, and 2 once a is thinner."""
    cost = two_layers((1, 1))
    scores = {name: np.array([3.0, 2.0, 1.0]) for name in "ab"}
    damages = {"a": np.diag([100.0, 90.0, 1.0]), "b": np.diag([100.0, 6.0, 5.5])}
    # a saves 1 + 3 = 4: 0.25 a MAC; then a 90 / 4, b 5.5 / 2 = 2.75: b saves 2, then 6 / 2.
    assert widths(cost, scores, damages, Limits(macs=8)) == {"a": 2, "b": 3}
    assert widths(cost, scores, damages, Limits(macs=6)) == {"a": 2, "b": 2}


def greedy(cost, scores, damages, limits):
    """As the rule is worded, with nothing kept between two steps."""
    gone = {name: [] for name in cost.groups}

    def left():
        return {name: width - len(gone[name]) for name, width in zip(cost.groups, cost.dense, strict=True)}

    def harm(name, channels):
        return damages[name][np.ix_(channels, channels)].sum()

    while not limits.keeps(cost, left()):
        prices = {}
        for name in cost.groups:
            if left()[name] > limits.min_widths.get(name, 1):
                order = sorted(range(len(scores[name])), key=lambda c, name=name: (scores[name][c], -c))
                channel = order[len(gone[name])]
                thinner = {**left(), name: left()[name] - 1}
                added = harm(name, [*gone[name], channel]) - harm(name, gone[name])
                prices[name] = (max(added, 0) / (cost.macs(left()) - cost.macs(thinner)), channel)
        name = min(prices, key=lambda each: prices[each][0])
        gone[name].append(prices[name][1])
    return left()


@given(st.integers(0, 10_000), st.floats(0.15, 0.95))
def test_before_anything_comes_back_it_is_the_greedy_removal(seed, share):
    cost = chain((5, 6, 4))
    scores = scores_of(cost, seed)
    damages = {}
    for name, matrix in damages_of(cost, seed).items():
        damages[name] = np.abs(matrix)  # Joint damages then rise with every channel.
    limits = Limits(macs=share * cost.dense_macs)
    expected, found = greedy(cost, scores, damages, limits), widths(cost, scores, damages, limits)
    assert all(found[name] >= width for name, width in expected.items())
    assert limits.keeps(cost, found)
    # What came back is only what fits: one more channel of any group breaks the limit, unless the group is whole.
    for name, dense in zip(cost.groups, cost.dense, strict=True):
        assert found[name] == dense or not limits.keeps(cost, {**found, name: found[name] + 1})


def test_it_cuts_where_macs_are_and_not_where_scores_are_low():
    """a: 100·w_a, b: w_a·w_b. Per MAC both channels of a go first, at 1 / 103; by score two of b do."""
    cost = two_layers((100, 1))
    scores = {"a": np.array([9.0, 8.0, 7.0]), "b": np.array([3.0, 2.0, 1.0])}
    damages, limits = {"a": np.eye(3), "b": np.eye(3) * 0.9}, Limits(macs=202)
    assert widths(cost, scores, damages, limits) == {"a": 1, "b": 3}
    assert WIDTH_RULES["global"].widths(Evidence(cost, scores), limits) == {"a": 2, "b": 1}
