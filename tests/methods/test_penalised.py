"""Scales and filter norms: values, gradients and assignments on coupled, concatenated, grouped and depthwise layers."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from autoprune.methods._penalised import FilterNorms, GroupScales, Scales, penalised
from autoprune.penalties import L1
from tests.small_networks import NETWORKS, SHAPE, make

torch.set_num_threads(1)


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    model = make(request.param).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # scales of either sign
    return model, trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64))


@pytest.fixture(params=[Scales, GroupScales, FilterNorms])
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
    torch.testing.assert_close(total, energy_by_channel(model, traced, kind is not FilterNorms).detach())
    if kind is not Scales:
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
        energy_by_channel(model, traced, of_scales=kind is GroupScales).sqrt().pow(3).sum().backward()
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


def test_the_scales_of_a_residual_channel_are_pulled_together():
    """γ = (.3, .4): a slope of 1 by their norm, .5, is (.6, .8)."""
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    assert traced.group("stem").scales == ("stem_norm", "outer1_norm")
    with torch.no_grad():
        model.stem_norm.weight[2], model.outer1_norm.weight[2] = 0.3, 0.4
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    target = penalised(model, traced, acts_on="group_scales")
    assert type(target) is GroupScales
    assert target.values()[2].item() == pytest.approx(0.5)
    target.add_gradient(L1(1.0).gradient(target.values()))
    assert model.stem_norm.weight.grad[2].item() == pytest.approx(0.6)
    assert model.outer1_norm.weight.grad[2].item() == pytest.approx(0.8)
    target.assign(L1(1.0).prox(target.values(), 0.5))
    assert (model.stem_norm.weight[2].item(), model.outer1_norm.weight[2].item()) == (0, 0)


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


# -- each where it counts -------------------------------------------------------------------------------------------


def traced_of(model):
    return trace(model, torch.zeros(1, *SHAPE, dtype=next(model.parameters()).dtype))


def test_where_all_have_scales_these_are_acted_on_and_nothing_need_be_saved():
    for name in NETWORKS:
        model = make(name)
        found = penalised(model, traced_of(model), acts_on="scales")
        assert type(found) is Scales
        assert (found.scales, found.units) == (found.names, None)
        found = penalised(model, traced_of(model), acts_on="norms")
        assert type(found) is FilterNorms
        assert (found.scales, found.units) == ((), None)


def test_scales_where_there_are_some_and_filters_elsewhere():
    model = make("headed").double()
    traced = traced_of(model)
    target = penalised(model, traced, acts_on="scales")
    assert target.names == ("norm1.weight", "norm2.weight", "hidden.weight")
    assert target.scales == ("norm1.weight", "norm2.weight")
    assert target.channels.tolist() == list(range(8 + 6 + 10))
    scales = torch.cat([model.norm1.weight, model.norm2.weight]).detach()
    norms = model.hidden.weight.detach().norm(dim=1)
    torch.testing.assert_close(
        target.values(), torch.cat([scales, norms / norms.mean() * scales.mean()]), rtol=1e-6, atol=0
    )
    assert target.values().dtype == torch.float64
    assert target.units.state_dict()["unit"].tolist()[:14] == [1.0] * 14


@pytest.mark.parametrize("name", ["headed", "bare"])
def test_the_gradient_is_that_of_a_loss_that_counts_each_group_by_the_square_of_its_unit(name):
    model = make(name).double()
    traced = traced_of(model)
    target = penalised(model, traced, acts_on="scales")
    unit = target.units.by_channel.double()[target.channels[-7:]].clone()  # of the last linear layer that is prunable
    last = model.hidden.weight[-7:]
    (unit.square() * (last.norm(dim=1) / unit).pow(3)).sum().backward()
    expected = model.hidden.weight.grad[-7:].clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    target.add_gradient(3 * target.values() * target.values().abs())
    torch.testing.assert_close(model.hidden.weight.grad[-7:], expected)


@pytest.mark.parametrize("name", ["headed", "bare"])
def test_a_step_moves_all_numbers_alike(name):
    """Of SGD with a slope of one: each number by the rate, however small the filters of its layer are."""
    model = make(name).double()
    with torch.no_grad():
        model.hidden.weight.mul_(0.01)
    target = penalised(model, traced_of(model), acts_on="scales")
    before = target.values()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    target.add_gradient(torch.ones_like(before))
    torch.optim.SGD(model.parameters(), 1e-3).step()
    torch.testing.assert_close(before - target.values(), torch.full_like(before, 1e-3), rtol=1e-6, atol=0)


def test_assigning_reads_back_and_changes_nothing_else():
    model = make("headed")
    target = penalised(model, traced_of(model), acts_on="scales")
    before = copy.deepcopy(model.state_dict())
    wanted = target.values() / 2
    wanted[::4] = 0
    target.assign(wanted)
    torch.testing.assert_close(target.values(), wanted)
    assert (target.values()[::4] == 0).all()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == set(target.names)


def test_the_proximal_step_is_that_of_the_same_loss():
    """Brute force over the norm r of one filter: ½ (r - ‖w‖)² + step · u² · P(r / u)."""
    model, step, penalty = make("headed").double(), 0.3, L1(0.4)
    target = penalised(model, traced_of(model), acts_on="scales")
    norm = model.hidden.weight[3].detach().norm().clone()
    unit = target.units.by_channel[-10].double()
    tried = torch.linspace(0, 2 * float(norm), 400_001, dtype=torch.float64)
    loss = (tried - norm).square() / 2 + step * unit.square() * 0.4 * tried / unit
    target.assign(penalty.prox(target.values(), step))
    assert model.hidden.weight[3].norm().item() == pytest.approx(tried[loss.argmin()].item(), abs=1e-5)


def test_the_vgg_with_its_hidden_layer():
    torch.manual_seed(0)
    model = build("vgg16", n_classes=4, in_channels=1)
    traced = trace(model, torch.zeros(1, 1, 16, 16))
    assert len(Scales(model, traced).values()) == 4224
    model.classifier = nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 4))
    target = penalised(model, trace(model, torch.zeros(1, 1, 16, 16)), acts_on="scales")
    assert len(target.scales) == 13
    assert target.names == (*target.scales, "classifier.0.weight")
    assert target.values().shape == (4224 + 32,)
    assert target.values()[:4224].unique().tolist() == [1.0]  # fresh scales
    assert target.values()[4224:].mean().item() == pytest.approx(1.0, rel=1e-5)


# -- what is frozen -------------------------------------------------------------------------------------------------


def freeze(model, *names):
    for name in names:
        model.get_parameter(f"{name}.weight").requires_grad_(False)
    return model


NEEDED = (
    r"^some prunable channel must have a BatchNorm scale that trains or, without a BatchNorm, filters that train, but "
)


def refused(model, told, acts_on="scales"):
    with pytest.raises(NetworkError, match=told):
        penalised(model, traced_of(model), acts_on=acts_on)


def test_frozen_scales_are_no_reason_to_shrink_filters_whose_size_changes_nothing():
    advice = r"Let some of them train, or use a method that ranks the network as it is, such as magnitude\.$"
    found = "the weights of 'norm1', 'norm2' are frozen \\(`requires_grad` is False\\)\\. "
    refused(freeze(make("plain"), "norm1", "norm2"), NEEDED + found + advice)
    residual = make("residual")
    norms = [name for name, module in residual.named_modules() if isinstance(module, nn.BatchNorm2d)]
    refused(
        freeze(residual, *norms), NEEDED + "the weights of 'stem_norm', 'outer1_norm', 'inner1_norm' and 3 more are"
    )
    model = freeze(make("plain"), "norm1")
    assert penalised(model, traced_of(model), acts_on="scales").names == ("norm2.weight",)


def test_where_all_scales_are_frozen_a_hidden_layer_may_still_train():
    model = freeze(make("headed"), "norm1", "norm2")
    target = penalised(model, traced_of(model), acts_on="scales")
    assert (target.names, target.scales) == (("hidden.weight",), ())
    assert target.channels.tolist() == list(range(14, 24))
    refused(freeze(model, "hidden"), NEEDED + "the weights of 'norm1', 'norm2', 'hidden' are frozen")


def test_normalisations_without_scales():
    """Before one the size of a filter changes nothing, so it is no more acted on than before one with frozen scales."""
    model = make("headed")
    model.norm1, model.norm2 = nn.BatchNorm2d(8, affine=False).eval(), nn.BatchNorm2d(6, affine=False).eval()
    assert penalised(model, traced_of(model), acts_on="scales").names == ("hidden.weight",)
    told = "the weights of 'hidden' are frozen .* and there are no scales in 'norm1', 'norm2'. Let some"
    refused(freeze(model, "hidden"), NEEDED + told)
    plain = make("plain")
    plain.norm1, plain.norm2 = nn.BatchNorm2d(8, affine=False).eval(), nn.BatchNorm2d(6, affine=False).eval()
    refused(plain, NEEDED + r"there are no scales in 'norm1', 'norm2'\. Use a method that ranks the network as it is")


def test_frozen_filters():
    model = freeze(make("bare"), "stem", "outer", "inner")
    assert penalised(model, traced_of(model), acts_on="scales").names == ("hidden.weight",)
    refused(freeze(model, "hidden"), NEEDED + "the weights of 'stem', 'outer', 'inner' and 1 more are frozen")
    told = "^some prunable channel must have filters that train, but the weights of 'conv1', 'conv2' are frozen"
    refused(freeze(make("plain"), "conv1", "conv2"), told, acts_on="norms")


def test_channels_whose_filters_are_all_frozen_have_no_number():
    """A λ of HALO, for one, would forget them."""
    model = freeze(make("plain"), "conv1")
    target = FilterNorms(model, traced_of(model))
    assert target.channels.tolist() == list(range(8, 14))
    before = model.conv2.weight.detach().flatten(1).norm(dim=1).clone()
    torch.testing.assert_close(target.values(), model.conv2.weight.detach().flatten(1).norm(dim=1))
    target.assign(target.values() / 4)
    torch.testing.assert_close(model.conv2.weight.detach().flatten(1).norm(dim=1), before / 4)


def test_no_channel_at_all():
    model = make("plain")
    traced = dataclasses.replace(traced_of(model), groups=())
    for acts_on in ("scales", "norms"):
        with pytest.raises(NetworkError, match=r"^some prunable channel must have"):
            penalised(model, traced, acts_on=acts_on)
