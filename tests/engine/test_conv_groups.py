"""Conv groups by the weights: found where they are there, of exact cost, and in networks that go on as any other."""

import numpy as np
import pytest
import torch
from torch import nn

import autoprune
from autoprune.engine.conv_groups import RegroupedConv2d, group_convolutions, grouped_by_importance
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError
from tests.small_networks import SHAPE

torch.set_num_threads(1)


def hidden(n_out, n_in, n_groups, *, noise=0.0, seed=0):
    """Importance that lies in groups, which nobody can see; and which connections these are."""
    generator = np.random.default_rng(seed)
    outputs, inputs = (generator.permutation(np.arange(n) * n_groups // n) for n in (n_out, n_in))
    within = outputs[:, None] == inputs
    return within * generator.uniform(0.5, 1.5, (n_out, n_in)) + noise * generator.random((n_out, n_in)), within


@pytest.mark.parametrize(("n_out", "n_in", "n_groups"), [(8, 8, 2), (12, 8, 4), (32, 16, 8), (64, 64, 4)])
def test_groups_that_are_there_are_found(n_out, n_in, n_groups):
    importance, within = hidden(n_out, n_in, n_groups, noise=0.05)
    outputs, inputs = grouped_by_importance(importance, n_groups)
    assert np.bincount(outputs).tolist() == [n_out // n_groups] * n_groups
    assert np.bincount(inputs).tolist() == [n_in // n_groups] * n_groups
    found = outputs[:, None] == inputs
    assert importance[found].sum() >= 0.9 * importance[within].sum()


def test_more_is_kept_than_by_lot():
    importance = np.random.default_rng(0).exponential(size=(32, 32))
    outputs, inputs = grouped_by_importance(importance, 4)
    assert importance[outputs[:, None] == inputs].sum() > 1.15 * importance.sum() / 4


def network(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, stride=2, groups=groups), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


def test_a_convolution_whose_groups_are_hidden_answers_as_before():
    model, generator = network(), torch.Generator().manual_seed(1)
    outputs, inputs = (torch.randperm(n, generator=generator) % 2 for n in (12, 8))
    with torch.no_grad():
        model[3].weight *= (outputs[:, None] == inputs)[:, :, None, None]
    grouped, images = group_convolutions(model, ["3"], n_groups=2), torch.randn(4, *SHAPE)
    assert isinstance(grouped[3], RegroupedConv2d)
    assert (grouped[3].conv.groups, grouped[3].conv.stride) == (2, (2, 2))
    with torch.no_grad():
        torch.testing.assert_close(grouped(images), model(images), rtol=1e-5, atol=1e-6)
    assert isinstance(model[3], nn.Conv2d)


def test_its_cost_is_that_of_a_grouped_convolution():
    model = network()
    grouped = group_convolutions(model, ["3"], n_groups=4)
    dense, small = (trace(each, torch.zeros(1, *SHAPE)).cost for each in (model, grouped))
    assert dense.dense_macs - small.dense_macs == 8 * 12 * 9 * 16 * 3 // 4
    assert small.dense_macs == trace(network(groups=4), torch.zeros(1, *SHAPE)).cost.dense_macs
    assert small.dense_params == sum(parameter.numel() for parameter in grouped.parameters())


def test_a_network_is_cut_then_grouped_trained_and_exported(tmp_path):
    images = torch.randn(2, *SHAPE)
    pruned = autoprune.prune(network(), images, macs_ratio=0.7, multiple=4)
    small = autoprune.group_convolutions(pruned.network, ["3"], n_groups=4)
    cost = trace(small, images[:1]).cost
    assert cost.dense_macs < pruned.macs
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    small.train()(images).square().sum().backward()
    assert small[3].conv.weight.grad.abs().sum() > 0
    optimizer.step()
    exported = torch.export.export(small.eval(), (images,))
    torch.export.save(exported, tmp_path / "small.pt2")
    with torch.no_grad():
        answer = torch.export.load(tmp_path / "small.pt2").module()(images)
        torch.testing.assert_close(answer, small(images))


def test_what_cannot_be_grouped_is_refused():
    with pytest.raises(ConfigError, match="divide the channels of '3', 8 in and 12 out, but is 8"):
        group_convolutions(network(), ["3"], n_groups=8)
    with pytest.raises(NetworkError, match="without conv groups, but '3' is Conv2d with 2"):
        group_convolutions(network(groups=2), ["3"], n_groups=2)
    with pytest.raises(NetworkError, match="but '1' is BatchNorm2d"):
        group_convolutions(network(), ["1"], n_groups=2)
    with pytest.raises(ConfigError, match="there is no layer '4x'"):
        group_convolutions(network(), ["4x"], n_groups=2)
