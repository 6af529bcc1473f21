"""Every method on networks of which parts are frozen: it works on what trains, or says what it needs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.config import TrainSpec
from autoprune.cost import Limits
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.folding import fold_constants
from autoprune.engine.images import Preprocess
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, Samples, train
from autoprune.errors import NetworkError
from autoprune.methods import METHODS
from autoprune.widths import keep_best, remove_least
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)

RECIPE = TrainSpec(epochs=2, batch=8, learning_rate=0.02)
RUNTIME = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
SHRINKING = sorted(name for name in METHODS if name.startswith("slimming") or name in ("halo", "implicit"))
SCALE = "must have a BatchNorm scale that trains or, without a BatchNorm, filters that train, but the weights of "
SHIFT = "must have a BatchNorm scale or shift that trains, but all are frozen"
FILTERS = "written by filters that train"
SITES = "must be written by convolutions without conv groups .* and have a BatchNorm right behind, but "
NONE = "there must be a BatchNorm with scales behind every prunable channel, but there is none behind "


class Noise:
    shape = SHAPE

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(32) % 4
        self.images = torch.randint(0, 256, (32, *SHAPE), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return 32

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


BATCHES = Samples(Noise(), RUNTIME, 32, seed=0)


def frozen(model, *kinds, spared=(), parts=("weight", "bias")):
    """The network with layers of these kinds frozen, but for some."""
    for name, module in model.named_modules():
        if isinstance(module, kinds) and name not in spared:
            for part, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(part not in parts)
    return model


def resnet():
    torch.manual_seed(0)
    return build("resnet_digits", n_classes=4, in_channels=1).eval()


NORMS, CONVS = nn.BatchNorm2d, nn.Conv2d
NETWORKS = {
    "norms": lambda: frozen(resnet(), NORMS),
    "scales": lambda: frozen(resnet(), NORMS, parts=("weight",)),
    "some norms": lambda: frozen(resnet(), NORMS, spared=("layer2.0.bn1",)),
    "norms, hidden layer": lambda: frozen(make("headed"), NORMS),
    "filters": lambda: frozen(resnet(), CONVS),
    "some filters": lambda: frozen(resnet(), CONVS, spared=("layer1.0.conv1", "layer3.0.conv2")),
    "all but the classifier": lambda: frozen(resnet(), CONVS, NORMS),
    "no norms": lambda: make("bare"),
    "no norms, filters": lambda: frozen(make("bare"), CONVS),
    "no norms, all but the classifier": lambda: frozen(make("bare"), CONVS, nn.Linear, spared=("fc",)),
}
REFUSED = {
    **dict.fromkeys([(name, n) for name in SHRINKING for n in ("norms", "scales", "all but the classifier")], SCALE),
    **dict.fromkeys([(name, "no norms, all but the classifier") for name in SHRINKING], SCALE),
    **dict.fromkeys([("bwcp", n) for n in ("norms", "all but the classifier")], SHIFT),
    **dict.fromkeys([(name, n) for name in ("resrep", "bwcp") for n in NETWORKS if n.startswith("no norms")], SITES),
    **dict.fromkeys([(name, "norms, hidden layer") for name in ("resrep", "bwcp")], SITES),
    **dict.fromkeys([("orthoreg", n) for n in ("filters", *(n for n in NETWORKS if "classifier" in n))], FILTERS),
    **dict.fromkeys([("scale", n) for n in NETWORKS if n.startswith("no norms") or n.endswith("hidden layer")], NONE),
}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_works_or_says_what_it_needs(name, network):
    model = NETWORKS[network]()
    traced, before = trace(model, torch.zeros(1, *SHAPE)), copy.deepcopy(model.state_dict())
    method = methods.build(name, {})
    plan = PhasePlan(RECIPE, n_steps=8, limits=Limits(macs=0.5 * traced.cost.dense_macs))
    if (told := REFUSED.get((name, network))) is not None:
        with pytest.raises(NetworkError, match=told):
            method.attach(model, traced, plan=plan)
        return
    hooks = method.attach(model, traced, plan=plan)
    if method.trains:
        train(model, ImageFeed(Noise()), RECIPE, runtime=RUNTIME, seed=0, hooks=hooks)
        merged = hooks.fold is not None and name != "aofp"
        for key, parameter in model.named_parameters():
            assert parameter.requires_grad or torch.equal(parameter, before[key]), f"{key} is frozen"
        model.eval()
        if hooks.fold is not None:
            hooks.fold(BATCHES)
        assert merged or any(
            not torch.equal(parameter, before[key])
            for key, parameter in model.named_parameters()
            if parameter.requires_grad
        )
    state = {} if hooks.state is None else hooks.state.state_dict()
    scores = method.rank(model.eval(), traced, state=state, batches=BATCHES)
    assert all(np.isfinite(score).all() for score in scores.values())
    kept = keep_best(traced.cost, scores, remove_least(traced.cost, scores, plan.limits))
    small = cut(fold_constants(model, traced, kept, silence=method.silence), traced.groups, kept)
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert {key: parameter.requires_grad for key, parameter in small.named_parameters()} == flags
    with torch.no_grad():
        assert small(next(iter(BATCHES))[0]).isfinite().all()


def test_every_refusal_is_expected_of_a_method_that_there_is():
    assert {name for name, _ in REFUSED} <= set(METHODS)
    assert {network for _, network in REFUSED} <= set(NETWORKS)


@pytest.mark.parametrize("name", ["slimming", "halo"])
@pytest.mark.parametrize("network", ["filters", "all but the classifier", "no norms, all but the classifier"])
def test_norms_of_frozen_filters_are_nothing_to_act_on(name, network):
    model = NETWORKS[network]()
    traced = trace(model, torch.zeros(1, *SHAPE))
    with pytest.raises(NetworkError, match=r"must have filters that train, but the weights of '.*' and .* are frozen"):
        methods.build(name, {"acts_on": "norms"}).attach(model, traced, plan=PhasePlan(RECIPE, n_steps=8))


def test_frozen_shifts_are_not_clamped_by_bwcp():
    model = frozen(make("plain"), NORMS, spared=("norm2",))
    with torch.no_grad():
        model.norm1.bias.fill_(-5.0)
        model.norm2.bias.fill_(-5.0)
    hooks = methods.build("bwcp", {}).attach(
        model, trace(model, torch.zeros(1, *SHAPE)), plan=PhasePlan(RECIPE, n_steps=8)
    )
    hooks.shrink(0.1)
    assert model.norm1.bias.tolist() == [-5.0] * 8
    assert model.norm2.bias.tolist() == [-3.0] * 6
