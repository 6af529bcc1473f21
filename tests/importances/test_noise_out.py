"""Channels in the order in which others make them superfluous, by hand."""

import numpy as np
import torch
from torch import nn

from autoprune.engine.tracing import trace
from autoprune.importances import NoiseOut
from autoprune.importances._noise_out import order_of_redundancy

torch.set_num_threads(1)


def test_of_the_most_alike_pair_the_one_that_varies_less_leaves():
    alike = np.array([[1, 0.9, 0.2], [0.9, 1, 0.5], [0.2, 0.5, 1]])
    order, lost = order_of_redundancy(alike, np.array([2.0, 1.0, 3.0]))
    assert order.tolist() == [1, 0, 2]  # Then 0 and 2 are left, which are alike by 0.2.
    np.testing.assert_allclose(lost, [0.1, 0.8, 1.0])


def test_constants_leave_first_and_cost_nothing():
    alike = np.ones((3, 3))
    alike[0, 2] = alike[2, 0] = 0.3
    order, lost = order_of_redundancy(alike, np.array([1.0, 0.0, 2.0]))
    assert order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(lost, [0.0, 0.7, 1.0])
    assert order_of_redundancy(np.ones((1, 1)), np.zeros(1))[1].tolist() == [0.0]


def test_a_copy_scores_nothing_and_its_original_stays():
    torch.manual_seed(0)
    first = nn.Conv2d(1, 5, 3)
    with torch.no_grad():
        first.weight[4], first.bias[4] = 0.5 * first.weight[1], 0.5 * first.bias[1]
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(5, 3, 3), nn.Flatten(), nn.Linear(48, 2)).eval()
    inputs = torch.randn(16, 1, 8, 8)
    score = NoiseOut().score(model, trace(model, inputs[:1]), batches=[(inputs, None)])["0"]
    assert score[4] < 1e-6
    assert score[1] > 0.01
    assert score.max() == 1
