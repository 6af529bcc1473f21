"""What every method keeps: it attaches without a trace in the answers, ranks every group, and knows its own ranges."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.engine.contracts import Hooks, Method
from autoprune.engine.data import Preprocess
from autoprune.engine.groups import trace
from autoprune.engine.training import Bench, train
from autoprune.errors import ConfigError
from autoprune.methods import METHODS
from autoprune.spec import Range, TrainSpec

torch.set_num_threads(1)


class Blobs:
    """Two classes of noisy images."""

    shape = (1, 8, 8)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(32) % 2
        noise = torch.randint(0, 100, (32, 1, 8, 8), generator=generator)
        self.images = (noise + 120 * self.labels[:, None, None, None]).to(torch.uint8)

    def __len__(self):
        return 32

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build("resnet_digits", n_classes=10, in_channels=1).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
                module.bias.copy_(0.1 * torch.randn_like(module.bias))
                module.running_mean.copy_(0.1 * torch.randn_like(module.bias))
    return model, trace(model, torch.zeros(1, 1, 8, 8))


@pytest.fixture(params=sorted(METHODS))
def name(request):
    return request.param


def trained(method, network, epochs=2.0):
    model, traced = copy.deepcopy(network[0]), network[1]
    hooks = method.attach(model, traced)
    bench = Bench(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
    train(model, Blobs(), TrainSpec(epochs=epochs, batch=8, learning_rate=0.01), bench=bench, seed=0, hooks=hooks)
    return model.eval()


def test_builds_from_its_defaults_and_is_frozen(name):
    method = METHODS[name]()
    assert isinstance(method, Method)
    assert method.name == name
    assert type(method).__dataclass_params__.frozen
    assert method == methods.build(name, {})
    assert method == methods.build(name, dataclasses.asdict(method))
    assert {field.metadata.keys() >= {"search"} for field in dataclasses.fields(method)} <= {True}


def test_attaching_changes_no_answer(name, network):
    model, traced = copy.deepcopy(network[0]), network[1]
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(inputs)
        hooks = METHODS[name]().attach(model, traced)
        after = model.eval()(inputs)
    assert isinstance(hooks, Hooks)
    assert float((before - after).abs().max()) <= 1e-6 * float(before.abs().max())


def test_only_parameters_of_the_network_have_their_own_weight_decay(name, network):
    model, traced = copy.deepcopy(network[0]), network[1]
    hooks = METHODS[name]().attach(model, traced)
    assert set(hooks.weight_decay) <= {name for name, _ in model.named_parameters()}
    assert all(decay >= 0 for decay in hooks.weight_decay.values())


def test_ranks_every_group_after_training(name, network):
    method, traced = METHODS[name](), network[1]
    model = trained(method, network) if method.trains else copy.deepcopy(network[0])
    before = copy.deepcopy(model.state_dict())
    scores = method.rank(model, traced)
    assert set(scores) == {group.name for group in traced.groups}
    for group in traced.groups:
        assert scores[group.name].shape == (group.width,)
        assert scores[group.name].dtype == np.float64
        assert np.isfinite(scores[group.name]).all()
        assert len(np.unique(scores[group.name])) > 1
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())


def test_training_repeats_itself(name, network):
    if not METHODS[name].trains:
        pytest.skip("has no sparsify phase")
    one, other = (trained(METHODS[name](), network, epochs=1.0).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def ends(found):
    values = found.grid or (found.low, found.high)
    return values[0], values[-1]


def test_both_ends_of_every_range_are_valid(name):
    ranges = methods.ranges()[name]
    assert set(ranges) <= {field.name for field in dataclasses.fields(METHODS[name])}
    for corner in itertools.product(*(ends(found) for found in ranges.values())):
        hyper = dict(zip(ranges, corner, strict=True))
        method = methods.build(name, hyper)
        assert {key: getattr(method, key) for key in hyper} == hyper


def test_every_method_has_its_ranges():
    assert set(methods.ranges()) == set(METHODS)
    assert all(isinstance(found, Range) for ranges in methods.ranges().values() for found in ranges.values())


def test_unknown_hyper_parameters_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^\[method\.{name}\]: there is no key 'strenght'"):
        methods.build(name, {"strenght": 1.0})


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError, match=r"^there is no method 'sliming'; did you mean 'slimming'\? Valid: "):
        methods.build("sliming", {})
