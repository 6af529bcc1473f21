"""How far filters are from orthogonal, by hand; which layers are meant, and training that makes them so."""

import pytest
import torch
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from autoprune.methods import OrthoReg
from autoprune.methods._orthoreg import orthogonality_gap, share_of_diagonal
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)

PLAN = PhasePlan(TrainSpec(), n_steps=4)


def attached(name, **hyper):
    model = make(name)
    return model, OrthoReg(**hyper).attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PLAN)


def test_two_filters_by_hand():
    """W Wᵀ - I = [[0, .5], [.5, -.5]]; of W Wᵀ, 1 + .5 of 2.5 lie on the diagonal."""
    filters = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert float(orthogonality_gap(filters)) == 1.5
    assert float(share_of_diagonal(filters)) == pytest.approx(0.6)
    assert float(orthogonality_gap(torch.eye(3))) == 0
    assert float(share_of_diagonal(torch.eye(3))) == 1


def test_more_filters_than_numbers_go_by_the_other_product():
    """Three filters of two numbers can't be orthogonal, but the two columns can."""
    columns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert float(orthogonality_gap(columns)) == 0
    assert float(orthogonality_gap(torch.stack([torch.eye(2), 2 * torch.eye(2)]))) == 6


def test_layers_count_by_the_root_of_their_rank():
    """conv1: 8 filters of 9 numbers; conv2: 6 of 72; fc writes the logits."""
    model, hooks = attached("plain", strength=0.5)
    ranks = {"conv1": 8, "conv2": 6}
    total = sum(rank**0.5 for rank in ranks.values())
    gaps = {name: orthogonality_gap(getattr(model, name).weight.flatten(1)) for name in ranks}
    expected = sum(0.5 * rank**0.5 / total * float(gaps[name].detach()) for name, rank in ranks.items())
    assert float(hooks.extra_loss().detach()) == pytest.approx(expected, rel=1e-6)
    assert {name: hooks.weight_decay[f"{name}.weight"] for name in ranks} == {"conv1": 0, "conv2": 0}


def test_depthwise_filters_are_left_alone_and_conv_groups_are_apart():
    model, hooks = attached("depthwise", strength=1.0)
    assert "each.weight" not in hooks.weight_decay
    hooks.extra_loss().backward()
    assert model.each.weight.grad is None
    assert model.grouped.weight.grad.abs().sum() > 0


def test_training_makes_filters_orthogonal():
    model, hooks = attached("residual", strength=1.0)
    names = ("inner1", "outer1", "outer2")
    before = [float(share_of_diagonal(getattr(model, name).weight.detach().flatten(1))) for name in names]
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        hooks.extra_loss().backward()
        optimizer.step()
    after = [float(share_of_diagonal(getattr(model, name).weight.detach().flatten(1))) for name in names]
    assert all(now > 0.9 > then for now, then in zip(after, before, strict=True))


def test_nothing_that_trains_is_refused():
    model = make("plain")
    for module in (model.conv1, model.conv2):
        module.weight.requires_grad_(False)
    with pytest.raises(NetworkError, match="written by filters that train, but none is"):
        OrthoReg().attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PLAN)


def test_it_has_a_part_in_fine_tuning_where_asked():
    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    method = OrthoReg(in_finetune=True)
    assert method.accompanies
    assert not OrthoReg().accompanies
    hooks = method.accompany(model, traced, plan=PLAN)
    assert float(hooks.extra_loss().detach()) > 0
    assert hooks.weight_decay == {}
    assert isinstance(model.conv1, nn.Conv2d)
