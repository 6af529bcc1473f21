"""Normalisation divides each group by one number: which one, and what it leaves alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.errors import ConfigError
from autoprune.importances import NORMALISATIONS, normalise

# 9 × 64 MACs for each pair of channels, 3 → a → b → 10 classes.
COST = CostModel(
    ("a", "b"), (4, 8),
    (
        LayerCost("a", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),))),
        LayerCost("b", 9 * 64, 9, 0, LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),))),
        LayerCost("fc", 1, 1, 1, LinearForm(0, ((1, 1),)), LinearForm(10)),
    ),
)  # fmt: skip
SCORES = {"a": np.array([1.0, 2.0, 3.0, 6.0]), "b": np.array([0.5] * 6 + [4.5, 4.5])}


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        ("none", 1.0, 1.0),
        ("mean", 3.0, 1.5),
        ("max", 6.0, 4.5),
        # What one channel costs: 3 inputs and 8 outputs of 576 MACs; 4 inputs of 576 and 10 classes.
        ("per_mac", 576.0 * (3 + 8), 576.0 * 4 + 10),
    ],
)
def test_divisors(kind, a, b):
    found = normalise(SCORES, kind, COST)
    np.testing.assert_allclose(found["a"], SCORES["a"] / a, rtol=1e-15)
    np.testing.assert_allclose(found["b"], SCORES["b"] / b, rtol=1e-15)


@pytest.mark.parametrize("kind", NORMALISATIONS)
@given(values=st.lists(st.floats(0, 1e6), min_size=4, max_size=4))
def test_the_order_within_a_group_stays_and_zeros_are_zeros(kind, values):
    scores = {"a": np.array(values), "b": np.zeros(8)}
    found = normalise(scores, kind, COST)
    assert np.isfinite(found["a"]).all()
    order = np.argsort(scores["a"], kind="stable")
    assert (np.diff(found["a"][order]) >= 0).all()
    assert found["b"].tolist() == [0.0] * 8
    assert scores["a"].tolist() == values


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match=r"there is no normalisation 'means'; did you mean 'mean'\?"):
        normalise(SCORES, "means", COST)


def test_isomorphic_groups_compete_with_each_other_only():
    # Two blocks of one structure, whose scores differ by a factor of ten, and a stream of another one.
    one = LinearForm(1)

    def form(place):
        return LinearForm(0, ((place, 1),))

    cost = CostModel(
        ("a", "b", "stream"),
        (2, 2, 3),
        (
            LayerCost("stem", 9, 9, 0, one, form(2)),
            LayerCost("a.in", 9, 9, 0, form(2), form(0)), LayerCost("a.out", 9, 9, 0, form(0), form(2)),
            LayerCost("b.in", 36, 9, 0, form(2), form(1)), LayerCost("b.out", 36, 9, 0, form(1), form(2)),
        ),
    )  # fmt: skip
    scores = {"a": np.array([1.0, 3.0]), "b": np.array([20.0, 2.0]), "stream": np.array([7.0, 5.0, 5.0])}
    found = normalise(scores, "isomorphic", cost)
    assert found["a"].tolist() == [0.25, 0.75]
    assert found["b"].tolist() == [1.0, 0.5]
    assert found["stream"].tolist() == pytest.approx([1.0, 2 / 3, 2 / 3])
