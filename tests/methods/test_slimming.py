"""The penalty reaches the scales of prunable channels, nothing else, and in full precision."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.engine.data import Preprocess
from autoprune.engine.groups import trace
from autoprune.engine.training import Bench, train
from autoprune.errors import ConfigError, NetworkError
from autoprune.methods import Slimming
from autoprune.spec import TrainSpec

torch.set_num_threads(1)


class Noise:
    shape = (1, 8, 8)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(32) % 4
        self.images = torch.randint(0, 256, (32, 1, 8, 8), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return 32

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build("resnet_digits", n_classes=4, in_channels=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(-1, 1, module.num_features))
    return model


def bench(precision="float32"):
    return Bench(torch.device("cpu"), precision, Preprocess((0.5,), (0.25,)))


def scales(model):
    return {
        name: module.weight.detach().clone() for name, module in model.named_modules() if type(module) is nn.BatchNorm2d
    }


def after_training(model, method, spec, exclude=()):
    copied = copy.deepcopy(model)
    hooks = method.attach(copied, trace(copied, torch.zeros(1, 1, 8, 8), exclude=exclude)) if method else None
    train(copied, Noise(), spec, bench=bench(), seed=0, hooks=hooks)
    return scales(copied)


def added(method, model, traced):
    """What the method adds to a gradient of zeros, by parameter."""
    copied = copy.deepcopy(model)
    hooks = method.attach(copied, traced)
    for parameter in copied.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    return {name: parameter.grad for name, parameter in copied.named_parameters()}


def test_one_step_moves_gamma_by_the_slope(model):
    """Plain SGD without momentum: one step differs from one without penalty by rate × λ × sign."""
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0)
    plain = after_training(model, None, spec)
    slim = after_training(model, Slimming(strength=0.01), spec)
    start = scales(model)
    for name, gamma in slim.items():
        torch.testing.assert_close(plain[name] - gamma, 0.1 * 0.01 * start[name].sign(), rtol=0, atol=3e-7)
    assert sum(float((slim[name] - start[name]).abs().max()) for name in slim) > 0.01


def test_gamma_shrinks_in_training(model):
    spec = TrainSpec(epochs=10, batch=8, learning_rate=0.01, schedule="constant", weight_decay=0.0)
    plain, slim = after_training(model, None, spec), after_training(model, Slimming(strength=0.05), spec)
    start, left, shrunk = (sum(float(g.abs().sum()) for g in found.values()) for found in (scales(model), plain, slim))
    assert left / start == pytest.approx(1.0, abs=0.1)
    assert shrunk / start < 0.75


def test_only_prunable_channels_are_penalised(model):
    traced = trace(model, torch.zeros(1, 1, 8, 8), exclude=["layer2.0.conv1"])
    gradients = added(Slimming(strength=0.25), model, traced)
    spared = [name for name, gradient in gradients.items() if not gradient.any()]
    penalised = {name for name in gradients if name not in spared}
    assert penalised == {f"{name}.weight" for name in scales(model)} - {"layer2.0.bn1.weight"}
    for name in penalised:
        assert torch.equal(gradients[name], 0.25 * model.get_parameter(name).detach().sign())


def test_only_their_places_within_a_concatenation_are_penalised():
    torch.manual_seed(0)
    model = build("densenet40", n_classes=4, in_channels=1)
    shape = torch.zeros(1, 1, 8, 8)
    whole, part = trace(model, shape), trace(model, shape, exclude=["conv1"])
    name = whole.group("conv1").scales[1]
    all_places, places = (added(Slimming(strength=0.5), model, t)[f"{name}.weight"] for t in (whole, part))
    excluded = whole.group("conv1").member(name).index.ravel()
    kept = np.setdiff1d(np.arange(len(places)), excluded)
    assert (len(excluded), len(kept)) == (24, 12)
    assert torch.equal(all_places, torch.full_like(all_places, 0.5))
    assert places[excluded].eq(0).all()
    assert places[kept].eq(0.5).all()


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 1.0), (0.5, 0.95)])
def test_weight_decay_of_gamma_is_its_own(model, decay, expected):
    """Against a recipe's 0.2: with a frozen loss, one step of rate 0.1 multiplies γ by 1 - 0.1 × decay."""

    class Silent(Noise):
        def __init__(self):
            super().__init__()
            self.labels = torch.zeros(32, dtype=torch.int64)

    copied = copy.deepcopy(model)
    for parameter in copied.fc.parameters():
        nn.init.zeros_(parameter)  # No gradient reaches the layers before it.
    hooks = Slimming(strength=1e-12, scale_decay=decay).attach(copied, trace(copied, torch.zeros(1, 1, 8, 8)))
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.2)
    train(copied, Silent(), spec, bench=bench(), seed=0, hooks=hooks)
    for name, gamma in scales(copied).items():
        torch.testing.assert_close(gamma, scales(model)[name] * expected, rtol=1e-6, atol=1e-9)
    weight = copied.layer1[0].conv1.weight
    torch.testing.assert_close(weight, model.layer1[0].conv1.weight * (1 - 0.1 * 0.2), rtol=1e-6, atol=1e-9)
    assert set(hooks.weight_decay) == {f"{name}.weight" for name in scales(model)}


def test_arithmetic_is_float32_under_autocast(model):
    """bfloat16 holds 1e-3 as 9.995e-4 and loses it beside a gradient of 1."""
    copied = copy.deepcopy(model)
    hooks = Slimming(strength=1e-3).attach(copied, trace(copied, torch.zeros(1, 1, 8, 8)))
    for parameter in copied.parameters():
        parameter.grad = torch.ones_like(parameter)
    with bench("bfloat16").autocast():
        hooks.transform_gradients()
    gamma = copied.bn1.weight
    assert gamma.grad.dtype == torch.float32
    assert torch.equal(gamma.grad, torch.ones(16) + torch.tensor(1e-3) * gamma.detach().sign())


def test_frozen_scales_are_left_alone(model):
    copied = copy.deepcopy(model)
    copied.bn1.weight.requires_grad_(False)
    hooks = Slimming(strength=0.1).attach(copied, trace(copied, torch.zeros(1, 1, 8, 8)))
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1)
    train(copied, Noise(), spec, bench=bench(), seed=0, hooks=hooks)
    assert torch.equal(copied.bn1.weight, model.bn1.weight)


def test_ranks_by_magnitude(model):
    scores = Slimming().rank(model, trace(model, torch.zeros(1, 1, 8, 8)))
    assert scores["layer1.0.conv1"].tolist() == torch.linspace(-1, 1, 16).double().abs().tolist()


def test_groups_without_normalisation_are_refused_before_training():
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    traced = trace(plain, torch.zeros(1, 1, 8, 8))
    assert [group.name for group in traced.groups] == ["0", "3"]
    with pytest.raises(NetworkError, match=r"BatchNorm behind every prunable channel, but 3 has none.*`exclude`"):
        Slimming().attach(plain, traced)
    Slimming().attach(plain, trace(plain, torch.zeros(1, 1, 8, 8), exclude=["3"]))


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"strength": 0.0}, r"`strength` must be in \(0, 1\], but got strength=0.0"),
        ({"strength": 1.5}, r"`strength` must be in \(0, 1\], but got strength=1.5"),
        ({"scale_decay": -0.1}, r"`scale_decay` must be in \[0, 1\], but got scale_decay=-0.1"),
        ({"strength": "much"}, r"`strength` must be a number, but got 'much'"),
    ],
)
def test_values_out_of_range(hyper, told):
    with pytest.raises(ConfigError, match=rf"^\[method\.slimming\]: {told}"):
        methods.build("slimming", hyper)


def test_default_range_of_the_strength():
    assert methods.ranges()["slimming"].keys() == {"strength"}
    assert methods.ranges()["slimming"]["strength"].grid == (1e-4, 0.000316228, 1e-3, 0.00316228, 1e-2)
