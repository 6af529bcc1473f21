"""A network after surgery answers as the silenced one did, and costs what the cost model says."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from autoprune.architectures import build
from autoprune.engine.folding import fold_constants
from autoprune.engine.surgery import cut, masked, narrowed
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError

torch.set_num_threads(1)

QUICK = ["resnet18", "densenet121", "mobilenet_v3_small", "squeezenet1_1", "googlenet", "regnet_y_400mf"]
SLOW = [
    "alexnet", "vgg16_bn", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "inception_v3", "mobilenet_v2",
    "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "convnext_tiny", "shufflenet_v2_x1_0",
]  # fmt: skip


def widths_of(kept, traced):
    return {group.name: len(kept.get(group.name, range(group.width))) for group in traced.groups}


def randomise(model, seed=0):
    """Normalisations, biases and layer scales at random: fresh ones are alike and would hide a wrong index."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like):
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.3 * draw(module.running_mean))
                module.running_var.copy_(0.5 + draw(module.running_var).abs())
                module.weight.copy_(0.5 + draw(module.weight).abs())
        for parameter in model.parameters():
            if parameter.dim() in (1, 3):
                parameter.add_(0.3 * draw(parameter))
    return model


def count(model, x):
    """MACs and parameters by hooks on the layers themselves: no part of the cost model is used."""
    macs = 0

    def add(module, args, output):
        nonlocal macs
        if isinstance(module, nn.modules.conv._ConvNd):
            macs += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += output[0].numel() * module.weight.shape[1]

    handles = [module.register_forward_hook(add) for module in model.modules()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return macs, sum(parameter.numel() for parameter in model.parameters())


def draw_kept(groups, seed):
    generator = np.random.default_rng(seed)
    return {
        group.name: np.sort(generator.choice(group.width, size=generator.integers(1, group.width + 1), replace=False))
        for group in groups
        if generator.random() < 0.9
    }


def check(model, traced, x, seed, tolerance):
    """Surgery equals silencing to rounding; attributes and counts fit."""
    kept = draw_kept(traced.groups, seed)
    small = cut(model, traced.groups, kept)
    with torch.no_grad():
        expected, got = masked(model, traced.groups, kept)(x), small(x)
    assert expected.isfinite().all()
    assert float((expected - got).abs().max()) <= tolerance * float(expected.abs().max())
    widths = widths_of(kept, traced)
    assert count(small, x[:1]) == (traced.cost.macs(widths), traced.cost.params(widths))
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups), name
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), name
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == module.running_var.shape == (module.num_features,), name


def torchvision(name):
    size = 96 if name == "inception_v3" else 64
    torch.manual_seed(0)
    model = randomise(build(f"torchvision/{name}", n_classes=10, in_channels=3)).eval()
    return model, torch.randn(2, 3, size, size)


# -- silenced equals cut --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_torchvision_networks(name):
    model, x = torchvision(name)
    traced = trace(model, x)
    assert len(traced.groups) >= 7
    assert traced.refused == ()
    turned = trace(model, x.contiguous(memory_format=torch.channels_last))
    assert [(g.name, g.width) for g in turned.groups] == [(g.name, g.width) for g in traced.groups]
    check(model, traced, x, 0, 1e-4)
    check(model.double(), traced, x.double(), 1, 1e-10)


@pytest.mark.parametrize("name", QUICK)
def test_cut_twice_is_cut_once(name):
    """The groups of a smaller network are those of the dense one, moved."""
    model, _ = torchvision(name)
    traced = trace(model, torch.randn(1, 3, 64, 64))
    first = draw_kept(traced.groups, 0)
    small, known = cut(model, traced.groups, first), narrowed(model, traced, first)
    assert [group.name for group in known.groups] == [group.name for group in traced.groups]
    assert known.cost.dense_macs == traced.cost.macs(widths_of(first, traced))
    second = draw_kept(known.groups, 1)
    both = {
        group.name: first.get(group.name, np.arange(group.width))[second.get(group.name, slice(None))]
        for group in traced.groups
    }
    once, twice = cut(model, traced.groups, both).state_dict(), cut(small, known.groups, second).state_dict()
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[key], twice[key]) for key in once)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK + SLOW)
def test_torchvision_networks_in_full(name):
    model, x = torchvision(name)
    traced = trace(model, x)
    assert len(traced.groups) >= 7
    if name == "convnext_tiny":
        assert len(traced.groups) == 18
        assert all("LayerNorm" in refusal.reason for refusal in traced.refused)
        assert traced.refused[0].layers[0] == "features.0.0"
    elif name == "shufflenet_v2_x1_0":
        assert {group.name for group in traced.groups} == {"conv1.0", "conv5.0"} | {
            f"stage{stage}.{unit}.branch2.0" for stage, units in ((2, 4), (3, 8), (4, 4)) for unit in range(units)
        }
        assert any("stage2.1.branch2.5" in refusal.layers for refusal in traced.refused)
        assert all("removed" in refusal.reason for refusal in traced.refused)
    else:
        assert traced.refused == ()

    @settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1))
    def single(seed):
        check(model, traced, x, seed, 1e-4)

    @settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1))
    def double(seed):
        check(wide, traced, x.double(), seed, 1e-10)

    single()
    wide = model.double()
    double()


class Mixed(nn.Module):
    """Concatenation, residual, depthwise, grouped, gated, squeeze-excitation, PReLU, flattened maps."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(16, 6, 1), nn.Conv2d(8, 10, 3, padding=2, dilation=2)
        self.bn2 = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Linear(4, 12)
        self.gated = nn.Conv2d(12, 24, 1)
        self.head, self.bn3, self.fc = nn.Linear(12 * 16, 20), nn.BatchNorm1d(20), nn.Linear(20, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        y = F.silu(self.bn(self.depthwise(x)))
        y = F.relu(self.bn2(torch.cat([self.left(y), self.right(x)], 1)))
        y = self.grouped(y)
        scale = F.adaptive_avg_pool2d(y, 1)
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(scale)).flatten(1)))[:, :, None, None]
        a, b = self.gated(y).chunk(2, dim=1)
        y = F.interpolate(F.max_pool2d(y + a * b.tanh(), 2), scale_factor=0.5)
        return self.fc(F.relu(self.bn3(self.head(y.reshape(len(y), -1)))))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_users_network(seed):
    torch.manual_seed(0)
    model, x = randomise(Mixed()).eval().double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    traced = trace(model, x)
    assert traced.refused == ()
    # the two conv groups of `grouped` tie channel i of `left` with i + 2 of `right`, and i of `right` with i + 8
    assert {group.name: group.width for group in traced.groups} == {
        "stem": 8, "left": 6, "right": 2, "grouped": 6, "squeeze": 4, "head": 20
    }  # fmt: skip
    check(model, traced, x, seed, 1e-10)


def test_channels_last_float32_and_flags_survive():
    model = build("resnet_digits", n_classes=10, in_channels=1).to(memory_format=torch.channels_last)
    model.conv1.weight.requires_grad_(False)
    model.layer1.eval()
    groups = trace(model, torch.zeros(1, 1, 8, 8)).groups
    small = cut(model, groups, {"conv1": np.arange(4), "layer2.0.conv1": np.array([0, 31])})
    assert small.layer2[0].conv1.weight.shape == (2, 4, 3, 3)
    assert small.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert small.layer2[0].bn1.running_var.shape == (2,)
    assert not small.conv1.weight.requires_grad
    assert small.fc.weight.requires_grad
    assert small.training
    assert not small.layer1.training
    assert isinstance(small.layer2[0].conv1.weight, nn.Parameter)
    assert model.layer2[0].conv1.weight.shape == (32, 16, 3, 3)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121"])
def test_weights_given_aside_are_cut_as_if_they_were_loaded(name):
    model, x = torchvision(name)
    traced = trace(model, x)
    kept = draw_kept(traced.groups, 0)
    with torch.device("meta"):
        skeleton = build(f"torchvision/{name}", n_classes=10, in_channels=3).eval()
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected, got = cut(model, traced.groups, kept), cut(skeleton, traced.groups, kept, tensors=tensors)
    assert list(got.state_dict()) == list(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(got.state_dict()[key], tensor)
    with torch.no_grad():
        assert torch.equal(got(x), expected(x))
        for tensor in got.state_dict().values():  # it shares nothing with what it was cut from
            tensor.zero_()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in model.state_dict().items())
    del tensors["features.0.0.weight" if name.startswith("mobile") else "features.conv0.weight"]
    assert cut(model, traced.groups, kept, tensors=tensors)(x).shape == (2, 10)


def test_weights_of_another_network_are_refused():
    model = build("resnet20", n_classes=10, in_channels=3)
    groups = trace(model.eval(), torch.zeros(1, 3, 32, 32)).groups
    other = build("resnet20", n_classes=7, in_channels=3).state_dict()
    with pytest.raises(ConfigError, match=r"has shape \(10, 64\), but got \(7, 64\)\. Give the dense weights"):
        cut(model, groups, {}, tensors=other)


def test_all_kept_is_the_same_network():
    model = randomise(build("resnet_digits", n_classes=10, in_channels=1)).eval()
    x = torch.randn(2, 1, 8, 8)
    groups = trace(model, x).groups
    for kept in ({}, {group.name: np.arange(group.width) for group in groups}):
        assert cut(model, groups, kept)(x).equal(model(x))
        assert masked(model, groups, kept)(x).equal(model(x))


def test_a_cut_network_can_be_traced_and_cut_again():
    model = randomise(build("mobilenet_v2", n_classes=10, in_channels=3)).eval().double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for seed in range(2):
        groups = trace(model, x).groups
        kept = {g.name: np.sort(np.random.default_rng(seed).permutation(g.width)[: g.width // 2]) for g in groups}
        expected = masked(model, groups, kept)(x)
        model = cut(model, groups, kept)
        torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"conv9": np.arange(3)}, "no channel group 'conv9'; did you mean 'conv1'"),
        (
            {"conv1": np.array([], dtype=int)},
            r"kept channels of 'conv1' must be rising integers in 0 \.\. 15, at least one",
        ),
        ({"conv1": np.array([1, 0])}, "must be rising integers"),
        ({"conv1": np.array([0, 0])}, "must be rising integers"),
        ({"conv1": np.array([-1, 3])}, "must be rising integers"),
        ({"conv1": np.array([3, 16])}, r"but got \[3, 16\]"),
        ({"conv1": np.array([0.0, 1.0])}, "must be rising integers"),
    ],
)
def test_wrong_channels_are_refused(kept, message):
    model = build("resnet_digits", n_classes=10, in_channels=1)
    groups = trace(model, torch.zeros(1, 1, 8, 8)).groups
    with pytest.raises(ConfigError, match=message):
        cut(model, groups, kept)


# -- optimizer state ------------------------------------------------------------------------------------------------


# -- folding constants ----------------------------------------------------------------------------------------------


def folding_case(model, shape, dead, seed=0):
    """A network whose channels `dead` of group `0` have a scale of zero, and all that the fold needs."""
    torch.manual_seed(seed)
    model = randomise(model).eval().double()
    with torch.no_grad():
        model[1].weight[dead] = 0
        model[1].bias[dead] = torch.tensor([0.7, 1.3, -0.4], dtype=torch.float64)
    x = torch.randn(2, *shape, dtype=torch.float64)
    traced = trace(model, x)
    kept = {"0": np.setdiff1d(np.arange(traced.group("0").width), dead)}
    return model, x, traced, kept


def error(one, other):
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Sequential(nn.SiLU(), nn.AvgPool2d(2))])
@pytest.mark.parametrize("bias", [True, False])
def test_constants_fold_exactly_without_padding(activation, bias):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        activation,
        nn.Conv2d(8, 5, 3, bias=bias),
        nn.BatchNorm2d(5),
        nn.Flatten(),
    )
    net.append(nn.Linear(5 * (9 if isinstance(activation, nn.Sequential) else 64), 3))
    model, x, traced, kept = folding_case(net, (3, 12, 12), [1, 4, 6])
    folded = fold_constants(model, traced, kept)
    small = cut(folded, traced.groups, kept)
    assert error(small(x), model(x)) <= 1e-12
    assert error(cut(model, traced.groups, kept)(x), model(x)) > 1e-2
    assert sum(p.numel() for p in small.parameters()) == traced.cost.params(widths_of(kept, traced))
    if not bias:
        assert not folded[4].running_mean.equal(model[4].running_mean)


def test_with_padding_the_interior_is_exact():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1), nn.ReLU()
    )
    model, x, traced, kept = folding_case(net, (3, 9, 9), [1, 4, 6])
    small = cut(fold_constants(model, traced, kept), traced.groups, kept)
    got, expected = small(x), model(x)
    assert error(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1]) <= 1e-12
    assert error(got, expected) > 1e-3


def test_constants_fold_through_flatten_and_concatenation_and_grouped_readers():
    class Net(nn.Sequential):
        def forward(self, x):
            x = F.relu(self[1](self[0](x)))
            return self[4](torch.cat([self[2](x), x], 1).flatten(1)) + self[3](x).mean((2, 3))

    net = Net(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(8, 3, 1), nn.Linear(12 * 16, 3)
    )
    torch.manual_seed(0)
    model, x = randomise(net).eval().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight[[1, 5]] = 0  # the two channels at offset 1 of the conv groups
    traced = trace(model, x)
    kept = {"0": np.array([0, 2, 3])}
    small = cut(fold_constants(model, traced, kept), traced.groups, kept)
    assert error(small(x), model(x)) <= 1e-12


def test_channels_that_are_not_constant_are_left_alone(caplog):
    class Net(nn.Sequential):
        def forward(self, x):
            return self[3](F.relu(self[1](self[0](x)) + self[2](x)))

    model, _, traced, kept = folding_case(
        Net(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), (3, 5, 5), [1, 4, 6]
    )
    folded = fold_constants(model, traced, kept)
    assert all(value.equal(folded.state_dict()[name]) for name, value in model.state_dict().items())
    assert "3 channels of group '0' have a size of zero but do not arrive as constants at '3'" in caplog.text


def test_folding_without_dead_channels_or_shape():
    model = randomise(build("resnet_digits", n_classes=10, in_channels=1)).eval()
    x = torch.randn(1, 1, 8, 8)
    traced = trace(model, x)
    kept = {"conv1": np.arange(8)}
    assert fold_constants(model, traced, kept)(x).equal(model(x))
    with torch.no_grad():
        for name in traced.group("conv1").scales:
            model.get_submodule(name).weight[12] = 0
    shapeless = type(traced)(traced.groups, traced.refused, traced.cost)
    with pytest.raises(NetworkError, match="knows its example; trace the network again"):
        fold_constants(model, shapeless, kept)
