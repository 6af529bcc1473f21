"""What ranks channels after sparse training."""

import numpy as np
import pytest
import torch

from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError
from autoprune.importances import Damage, FilterNorm, ScaleMagnitude
from autoprune.methods import Halo, Implicit, build
from autoprune.methods._sizes import Units, sizes
from tests.small_networks import SHAPE, UNSCALED, make

METHODS = {"slimming": lambda **hyper: build("slimming", hyper), "halo": Halo, "implicit": Implicit}
SCORES = [
    *((name, {}, ScaleMagnitude) for name in METHODS),
    *((name, {"acts_on": "norms"}, FilterNorm) for name in ("slimming", "halo")),
    *((name, {"scored_by": "damage"}, Damage) for name in METHODS),
]


def images():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, *SHAPE, generator=generator), torch.zeros(8, dtype=torch.int64)) for _ in range(2)]


@pytest.mark.parametrize(("name", "hyper", "importance"), SCORES)
def test_ranks_by_size_unless_told(name, hyper, importance):
    model = make("residual").eval()
    traced = trace(model, torch.zeros(1, *SHAPE))
    scores = METHODS[name](**hyper).rank(model, traced, state={}, batches=images())
    expected = importance().score(model, traced, batches=images())
    assert {group: score.tolist() for group, score in scores.items()} == {g: s.tolist() for g, s in expected.items()}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("network", sorted(UNSCALED))
def test_without_scales_size_is_that_of_filters_in_the_unit_of_the_phase(name, network):
    model = make(network).eval()
    traced = trace(model, torch.zeros(1, *SHAPE))
    state = Units(model, traced).state_dict()
    with torch.no_grad():
        model.hidden.weight.mul_(0.5)
    scores = METHODS[name]().rank(model, traced, state=state, batches=images())
    expected = sizes(model, traced, state=state)
    assert all(np.array_equal(score, expected[group]) for group, score in scores.items())
    norms = FilterNorm().score(model, traced, batches=())["hidden"]
    np.testing.assert_allclose(scores["hidden"], norms / state["unit"].numpy()[-len(norms) :], rtol=1e-6)


def test_damage_sees_a_large_scale_that_nobody_reads():
    model = make("plain").eval()
    traced = trace(model, torch.zeros(1, *SHAPE))
    with torch.no_grad():
        model.norm1.weight[:] = 1.0
        model.norm1.weight[2] = 9.0
        model.conv2.weight[:, 2] = 0
    by_size, by_damage = (
        build("slimming", {"scored_by": name}).rank(model, traced, state={}, batches=images())["conv1"]
        for name in ("size", "damage")
    )
    assert int(np.argmax(by_size)) == 2 == int(np.argmin(by_damage))
    assert by_damage[2] == 0


def test_others_are_refused():
    with pytest.raises(ConfigError, match=r"`scored_by`: there is no choice 'lambda'. Valid: damage, size"):
        build("slimming", {"scored_by": "lambda"})
