"""Compactors between BatchNorm and activation: where they fit, that they can be folded, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.engine.contracts import Compactor
from autoprune.engine.folding import fold_compactors, insert, sites
from autoprune.engine.folding.compaction import Site
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from tests.small_networks import SHAPE, make, sequential

torch.set_num_threads(1)


class Mixing(Compactor):
    def __init__(self, matrix):
        super().__init__()
        self.weight = nn.Parameter(matrix)

    def forward(self, x, norm):
        return F.conv2d(x, self.weight[:, :, None, None])

    def matrix(self):
        return self.weight.detach()


def inputs(seed=1, dtype=torch.float32):
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_compactors(name, dtype=torch.float32, **options):
    model = make(name).to(dtype)
    traced = trace(model, torch.zeros(1, *SHAPE, dtype=dtype), **options)
    generator = torch.Generator().manual_seed(3)
    made = [
        (
            Mixing(torch.randn(group.width, group.width, generator=generator).to(dtype) / 2),
            sites(model, traced)[group.name],
        )
        for group in traced.groups
    ]
    before = model(inputs(dtype=dtype))
    return model, traced, insert(model, made), before


def test_every_branch_of_a_residual_sum_is_a_site():
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    assert sites(model, traced) == {
        "stem": (Site("stem", "stem_norm"), Site("outer1", "outer1_norm")),
        "inner1": (Site("inner1", "inner1_norm"),),
        "inner2": (Site("inner2", "inner2_norm"),),
        "outer2": (Site("outer2", "outer2_norm"), Site("skip", "skip_norm")),
    }


def test_depthwise_layers_hand_channels_on():
    model = make("depthwise")
    traced = trace(model, torch.zeros(1, *SHAPE), exclude=["project", "grouped"])
    assert sites(model, traced) == {"expand": (Site("expand", "expand_norm"),)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["plain", "residual", "depthwise"])
def test_folding_changes_no_answer(name, dtype):
    """One compactor for all branches, at borders too: the convolutions pad."""
    plain = make(name).to(dtype)
    model, _, inserted, before = with_compactors(
        name, dtype, exclude=["project", "grouped"] if name == "depthwise" else []
    )
    trained = model(inputs(dtype=dtype))
    assert not torch.allclose(trained, before, rtol=0.01)
    fold_compactors(model, inserted, [(inputs(seed, dtype), torch.zeros(4)) for seed in range(3)])
    with torch.no_grad():
        after = model(inputs(dtype=dtype))
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert (after - trained).abs().max() <= tolerance * trained.abs().max()
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in plain.state_dict().items()
    }
    assert all(not module._forward_hooks for module in model.modules())


def test_in_a_network_that_is_a_sequential():
    """It calls all of its children in turn, so nothing may be added to them."""
    model = sequential(6, 5)
    traced = trace(model, torch.zeros(1, *SHAPE))
    before, names = model(inputs()), set(model.state_dict())
    places = sites(model, traced)
    inserted = insert(model, [(Mixing(torch.eye(g.width).flip(0)), places[g.name]) for g in traced.groups])
    mixed = model(inputs())
    assert not torch.allclose(mixed, before, rtol=0.01)
    fold_compactors(model, inserted, [(inputs(2), torch.zeros(4))])
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(inputs()), mixed, rtol=1e-4, atol=1e-5)


def test_statistics_after_folding_are_those_of_the_data():
    """Training can go on: in training mode the answers are nearly those of evaluation mode, on the measured images."""
    model, _, inserted, _ = with_compactors("plain")
    fold_compactors(model, inserted, [(inputs(5), torch.zeros(4))])
    with torch.no_grad():
        evaluated = model.eval()(inputs(5))
        trained = model.train()(inputs(5))
    assert (evaluated - trained).abs().max() <= 1e-2 * evaluated.abs().max()


def test_a_copy_has_compactors_of_its_own():
    model, _, inserted, _ = with_compactors("plain")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        inserted[0].compactor.weight.zero_()
    assert torch.equal(copied(inputs()), copied(inputs()))
    assert not torch.allclose(copied(inputs()), model(inputs()))
    assert f"{inserted[0].prefix}weight" in dict(model.named_parameters())


@pytest.mark.parametrize(("name", "group"), [("concatenated", "left"), ("depthwise", "project")])
def test_groups_without_a_place_are_refused(name, group):
    """Branches that are normalised together; channels that a grouped convolution ties."""
    model = make(name)
    told = rf"^channels of group '{group}' must be written by convolutions .*, but '{group}' is not so\. Add '{group}'"
    with pytest.raises(NetworkError, match=told):
        sites(model, trace(model, torch.zeros(1, *SHAPE)))
