"""Scales and filter norms: values, gradients and assignments on coupled, concatenated, grouped and depthwise layers."""

import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from autoprune.methods._penalised import FilterNorms, Scales
from tests.small_networks import NETWORKS, SHAPE, make

torch.set_num_threads(1)


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    model = make(request.param).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # scales of either sign
    return model, trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64))


@pytest.fixture(params=[Scales, FilterNorms])
def kind(request):
    return request.param


def energy_by_channel(model, traced, of_scales):
    """Sum of the squared numbers of each channel of each group, straight from the members; differentiable."""
    found = []
    for group in traced.groups:
        for channel in range(group.width):
            total = torch.zeros((), dtype=torch.float64)
            for member in group.members:
                module = model.get_submodule(member.module)
                is_norm = isinstance(module, nn.BatchNorm2d)
                if member.axis == "out" and is_norm == of_scales:
                    total = total + module.weight[torch.from_numpy(member.index[channel])].square().sum()
            found.append(total)
    return torch.stack(found)


def test_values(network, kind):
    model, traced = network
    target = kind(model, traced)
    assert target.n_channels == sum(group.width for group in traced.groups)
    assert target.values().dtype == torch.float64
    total = torch.zeros(target.n_channels, dtype=torch.float64)
    total.index_add_(0, target.channels, target.values().square())
    torch.testing.assert_close(total, energy_by_channel(model, traced, kind is Scales).detach())
    if kind is FilterNorms:
        assert target.channels.tolist() == list(range(target.n_channels))


def test_gradients_are_those_of_autograd(network, kind):
    """Of the sum of cubes: a slope of 3 x² (with the sign for scales, which are what they are)."""
    model, traced = network
    target = kind(model, traced)
    if kind is Scales:
        parts = [
            model.get_submodule(name).weight[torch.from_numpy(group.member(name).index)].abs().pow(3).sum()
            for group in traced.groups
            for name in group.scales
        ]
        torch.stack(parts).sum().backward()
    else:
        energy_by_channel(model, traced, of_scales=False).sqrt().pow(3).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(expected) == set(target.names)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    x = target.values()
    target.add_gradient(3 * x * x.abs())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 1 + expected.get(name, torch.zeros_like(parameter)))


def test_assigned_values_are_read_back_and_nothing_else_changes(network, kind):
    model, traced = network
    target = kind(model, traced)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = 0.5 * target.values()
    wanted[::3] = 0
    target.assign(wanted)
    torch.testing.assert_close(target.values(), wanted)
    assert (target.values()[::3] == 0).all()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(target.names)
    if kind is FilterNorms:  # The direction of every filter stays.
        for name in target.names:
            ratio = model.get_parameter(name) / before[name]
            halved, gone, kept = ((ratio - share).abs() < 1e-12 for share in (0.5, 0.0, 1.0))
            assert (halved | gone | kept).all()


def test_zero_norms_stay_zero():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    target = FilterNorms(model, trace(model, torch.zeros(1, 1, 2, 2)))
    with torch.no_grad():
        model[0].weight[1] = 0
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    target.add_gradient(torch.ones(3))
    assert model[0].weight.grad[1].item() == 0
    assert model[0].weight.grad[[0, 2]].abs().flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    target.assign(torch.ones(3))
    assert target.values().tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)


def test_excluded_channels_of_a_shared_normalisation_are_left_alone():
    model = make("concatenated")
    whole, part = (trace(model, torch.zeros(1, *SHAPE), exclude=names) for names in ([], ["left"]))
    assert len(Scales(model, whole).values()) == 10 + 15
    target = Scales(model, part)
    assert len(target.values()) == 6 + 11
    target.assign(torch.zeros(17))
    assert model.norm.weight.eq(0).tolist() == [False] * 4 + [True] * 6
    assert model.all_norm.weight.eq(0).tolist() == [False] * 4 + [True] * 11


def test_frozen_parameters_are_left_out():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    model.bn1.weight.requires_grad_(False)
    model.conv1.weight.requires_grad_(False)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    assert "bn1.weight" not in Scales(model, traced).names
    assert "conv1.weight" not in FilterNorms(model, traced).names
    assert "layer1.0.conv2.weight" in FilterNorms(model, traced).names


def test_parameters_without_gradient_are_left_alone():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    for kind in (Scales, FilterNorms):
        target = kind(model, traced)
        target.add_gradient(torch.ones_like(target.values()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_half_precision_is_read_in_float32():
    model = build("resnet_digits", n_classes=10, in_channels=1).to(torch.bfloat16)
    traced = trace(model, torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16))
    for kind in (Scales, FilterNorms):
        target = kind(model, traced)
        assert target.values().dtype == torch.float32
        target.assign(target.values() / 2)
        assert model.conv1.weight.dtype == model.bn1.weight.dtype == torch.bfloat16


def test_scales_need_a_normalisation_everywhere():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    traced = trace(plain, torch.zeros(1, 1, 8, 8))
    with pytest.raises(NetworkError, match="BatchNorm behind every prunable channel, but 0 has none"):
        Scales(plain, traced)
    assert FilterNorms(plain, traced).values().shape == (4,)
