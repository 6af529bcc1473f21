"""Rankings of the dense network: each importance as a method that prepares nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.config import TrainSpec
from autoprune.engine.contracts import Hooks, PhasePlan
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError
from autoprune.importances import IMPORTANCES, GroupNorm, Random, normalise
from autoprune.methods import METHODS, Ranking

RECIPE = TrainSpec()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build("resnet_digits", n_classes=10, in_channels=1).eval()
    return model, trace(model, torch.zeros(1, 1, 8, 8))


def test_every_importance_is_a_method():
    names = {method.part: name for name, method in METHODS.items() if method.recipe is Ranking}
    assert set(names) == set(IMPORTANCES.values())
    assert names == {kind: name for name, kind in IMPORTANCES.items()} | {GroupNorm: "magnitude"}


def test_magnitude_takes_no_hyper_parameters_and_is_the_group_norm_over_its_mean(network):
    """As in studies from before there were any."""
    model, traced = network
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = methods.build("magnitude", {})
    assert method.trains is False
    assert method.attach(model, traced, plan=PhasePlan(RECIPE, n_steps=100)) == Hooks()
    scores = method.rank(model, traced, state={}, batches=())
    norms = GroupNorm().score(model, traced, batches=())
    assert list(scores) == [group.name for group in traced.groups]
    for name, norm in norms.items():
        assert np.array_equal(scores[name], norm / norm.mean())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert methods.ranges()["magnitude"] == {}


@pytest.mark.parametrize("kind", ["none", "mean", "max", "per_mac"])
def test_normalisation_is_composed_over_any_importance(network, kind):
    model, traced = network
    scores = methods.build("random", {"normalisation": kind, "seed": 5}).rank(model, traced, state={}, batches=())
    expected = normalise(Random(5).score(model, traced, batches=()), kind, traced.cost)
    assert all(np.array_equal(score, expected[name]) for name, score in scores.items())


def test_what_an_importance_needs_is_asked_for_before_the_first_trial():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    traced = trace(plain, torch.zeros(1, 1, 8, 8))
    told = r"BatchNorm with scales behind every prunable channel, but there is none behind 0\. .*`exclude`"
    with pytest.raises(NetworkError, match=told):
        methods.build("scale", {}).attach(plain, traced, plan=PhasePlan(RECIPE, n_steps=100))
    for name in ("magnitude", "filter_norm", "taylor", "random"):
        assert methods.build(name, {}).attach(plain, traced, plan=PhasePlan(RECIPE, n_steps=100)) == Hooks()


@pytest.mark.parametrize(
    ("name", "hyper", "told"),
    [
        ("magnitude", {"normalisation": "means"}, "`normalisation`: there is no choice 'means'; did you mean 'mean'"),
        ("random", {"seed": -1}, "`seed` must be at least 0, but got seed=-1"),
        ("taylor", {"seed": 1}, "there is no key 'seed'"),
    ],
)
def test_wrong_values(name, hyper, told):
    with pytest.raises(ConfigError, match=rf"^\[method\.{name}\]: {told}"):
        methods.build(name, hyper)
