import numpy as np
import pytest
import torch

from autoprune.engine.measuring import measure_damages
from autoprune.engine.tracing import trace
from autoprune.importances import Damage
from autoprune.importances._damage import order_of_damage
from autoprune.methods import build
from autoprune.widths import joint_damages
from tests.small_networks import SHAPE, make


def test_twins_are_not_both_dispensable():
    """Channels 0 and 1 say the same, 2 says a little less: alone each of the twins seems the cheaper to lose."""
    said = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.1, 0], [0, 0, 3.0]])
    matrix = said @ said.T
    # Without 0: 1. Then without 1 as well (2·1)² = 4, or without 2 as well 1 + 1.21.
    assert order_of_damage(matrix).tolist() == [1, 2, 0, 3]
    assert joint_damages(matrix, order_of_damage(matrix)).tolist() == pytest.approx([1.0, 2.21, 5.21, 14.21])


def test_ties_leave_from_the_end():
    assert order_of_damage(np.eye(4)).tolist() == [3, 2, 1, 0]


def test_every_step_adds_the_least():
    generator = np.random.default_rng(0)
    said = generator.normal(size=(7, 5))
    matrix = said @ said.T
    order = order_of_damage(matrix)
    for place in range(7):
        before = order[:place]
        costs = {c: matrix[np.ix_([*before, c], [*before, c])].sum() for c in range(7) if c not in set(before.tolist())}
        assert order[place] == min(costs, key=costs.get)


def test_the_score_is_the_joint_damage_of_all_that_leave_before():
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    batches = [(torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.zeros(8))]
    scores = Damage().score(model, traced, batches=batches)
    for name, matrix in measure_damages(model, traced, batches=batches).items():
        order = np.argsort(scores[name], kind="stable")
        np.testing.assert_allclose(scores[name][order], joint_damages(matrix, order), rtol=1e-12)


def test_scores_of_different_groups_compare_as_they_are():
    assert build("damage", {}).normalisation == "none"
    assert build("magnitude", {}).normalisation == "mean"
