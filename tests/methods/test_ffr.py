"""The path of the features by hand, what of a network lies on it, and training that makes it shorter."""

import copy

import pytest
import torch
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from autoprune.methods import FFR
from autoprune.methods._flow import Flow, aligned, flow_curvature, flow_length
from tests.small_networks import SHAPE, make, sequential

torch.set_num_threads(1)

PLAN = PhasePlan(TrainSpec(), n_steps=4)


def test_length_and_curvature_of_three_points():
    """x⁰ = (0, 0), x¹ = (1, 2), x² = (2, 1): |1| + |2| + |1| + |-1| = 5 and |0| + |-3| = 3, over two elements."""
    path = [torch.tensor([point], dtype=torch.float64) for point in ([0.0, 0.0], [1.0, 2.0], [2.0, 1.0])]
    assert 2 * float(flow_length(path)) == 5
    assert 2 * float(flow_curvature(path)) == 3
    assert float(flow_curvature(path[:2])) == 0


def test_maps_of_unequal_shapes_are_averaged_and_filled_up():
    large, small = torch.arange(16.0).reshape(1, 1, 4, 4), torch.full((1, 2, 2, 2), 3.0)
    first, second = aligned([large, small])
    assert first[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert first[0, 1].eq(0).all()
    assert torch.equal(second, small)
    flat, _ = aligned([large, torch.zeros(1, 1)])
    assert flat.tolist() == [[7.5]]
    windows, _ = aligned([torch.tensor([[[1.0]], [[3.0]]]), torch.zeros(1, 1, 1)])
    assert windows.tolist() == [[[2.0]]]


def path_of(model, x):
    traced = trace(model.eval(), torch.zeros(1, *SHAPE))
    flow = Flow(model, traced)
    model.train()(x)
    found = flow.take()
    flow.close()
    return found


def test_what_lies_inside_a_branch_is_not_on_the_path():
    """Stem → [inner1, outer1] → inner2 and skip read the stream, fc the sum behind them."""
    path = path_of(make("residual"), torch.rand(2, *SHAPE))
    assert [tuple(x.shape[1:]) for x in path] == [(6, 8, 8), (6, 8, 8), (6, 8, 8), (7,)]


def test_a_chain_is_its_own_path():
    assert [x.shape[1] for x in path_of(make("plain"), torch.rand(2, *SHAPE))] == [8, 24]


def test_evaluation_is_not_listened_to():
    model = make("plain")
    flow = Flow(model, trace(model, torch.zeros(1, *SHAPE)))
    model(torch.zeros(2, *SHAPE))
    assert flow.take() == []
    assert flow.n_points() == 2


def test_the_penalty_is_that_of_the_path_and_its_gradient_reaches_the_filters():
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    hooks = FFR(length=0.5, curvature=0.25).attach(model, traced, plan=PLAN)
    x = torch.rand(4, *SHAPE)
    model.train()(x)
    loss = hooks.extra_loss()
    hooks.fold(())
    path = path_of(copy.deepcopy(model), x)
    expected = 0.5 * flow_length(path) + 0.25 * flow_curvature(path)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.outer1.weight.grad.abs().sum() > 0
    assert hooks.extra_loss().item() == 0  # Nothing was heard since.


def test_one_place_is_no_path():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    with pytest.raises(NetworkError, match="at two places one behind the other, but are at 1"):
        FFR().attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PLAN)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_step_along_it_makes_the_path_shorter():
    model = sequential(6, 6)
    traced, x = trace(model, torch.zeros(1, *SHAPE)), torch.rand(8, *SHAPE)
    hooks = FFR(length=1.0, curvature=0.0).attach(model, traced, plan=PLAN)
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(10):
        model.train()(x)
        loss = hooks.extra_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.8 * found[0]
