"""Sizes of channels in one unit: scales where there are some, filters beside their group's mean elsewhere."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.engine.tracing import trace
from autoprune.importances import FilterNorm, ScaleMagnitude
from autoprune.methods._sizes import Units, bare_groups, sizes
from tests.small_networks import NETWORKS, SHAPE, make

torch.set_num_threads(1)


def headed():
    """Two scaled channels of mean |γ| 0.5, and three hidden ones with filters of norms 5, 10 and 0."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.25, -0.75]))
        model[4].weight.copy_(torch.tensor([[3.0, 4.0], [-6.0, 8.0], [0.0, 0.0]]))
    return model, trace(model, torch.zeros(1, 1, 1, 1))


def test_groups_without_scales():
    model, traced = headed()
    assert bare_groups(model, traced) == {"4"}
    for name in NETWORKS:
        network = make(name)
        assert bare_groups(network, trace(network, torch.zeros(1, *SHAPE))) == frozenset()
    network = make("bare")
    assert bare_groups(network, trace(network, torch.zeros(1, *SHAPE))) == {"stem", "inner", "hidden"}


def test_frozen_scales_are_scales_and_factors_that_never_train_are_not():
    model, traced = headed()
    model[1].weight.requires_grad_(False)
    assert bare_groups(model, traced) == {"4"}
    fixed = nn.Identity()
    fixed.register_buffer("weight", torch.ones(2))
    model[1] = fixed
    assert bare_groups(model, traced) == {"0", "4"}


def test_a_channel_is_as_large_beside_scales_as_its_filters_are_beside_those_of_its_layer():
    """Norms 5, 10, 0 have the mean 5 and scales the mean 0.5: ten times as large, so a unit is 10."""
    model, traced = headed()
    units = Units(model, traced)
    assert units.by_channel.tolist() == [1.0, 1.0, 10.0, 10.0, 10.0]
    found = sizes(model, traced, state={})
    assert {name: score.tolist() for name, score in found.items()} == {"0": [0.25, 0.75], "4": [0.5, 1.0, 0.0]}
    assert found["4"].mean() == found["0"].mean() == 0.5


def test_what_was_made_of_a_whole_layer_shows_afterwards():
    model, traced = headed()
    state = {key: value.clone() for key, value in Units(model, traced).state_dict().items()}
    with torch.no_grad():
        model[4].weight.mul_(0.1)
        model[1].weight.mul_(0.5)
    left = sizes(model, traced, state=state)
    np.testing.assert_allclose(left["4"], [0.05, 0.1, 0.0], rtol=1e-6)
    assert left["0"].tolist() == [0.125, 0.375]


def test_without_any_scale_the_mean_is_where_slimming_begins():
    model = make("bare")
    traced = trace(model, torch.zeros(1, *SHAPE))
    found, norms = sizes(model, traced, state={}), FilterNorm().score(model, traced, batches=())
    for group in traced.groups:
        np.testing.assert_allclose(found[group.name], 0.5 * norms[group.name] / norms[group.name].mean(), rtol=1e-6)


def test_a_layer_of_zeros_has_a_unit_all_the_same():
    model, traced = headed()
    with torch.no_grad():
        model[4].weight.zero_()
    assert sizes(model, traced, state={})["4"].tolist() == [0.0, 0.0, 0.0]
    with torch.no_grad():
        model[1].weight.zero_()
    assert all(np.isfinite(score).all() for score in sizes(model, traced, state={}).values())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_where_all_have_scales_these_are_the_sizes(name):
    model = make(name)
    traced = trace(model, torch.zeros(1, *SHAPE))
    found, expected = sizes(model, traced, state={}), ScaleMagnitude().score(model, traced, batches=())
    assert [*found] == [*expected]
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_units_are_taken_up_again():
    model, traced = headed()
    units, other = Units(model, traced), Units(*headed())
    other.by_channel.fill_(3)
    other.load_state_dict(units.state_dict())
    assert torch.equal(other.by_channel, units.by_channel)


def test_no_groups_have_no_units():
    model, traced = headed()
    assert Units(model, dataclasses.replace(traced, groups=())).by_channel.shape == (0,)


def test_filters_in_half_precision_and_of_depthwise_layers_count_as_their_importance_says():
    model = make("depthwise")
    for module in (model.expand_norm, model.each_norm, model.project_norm, model.grouped_norm):
        module.weight = None  # Scales nothing.
    traced = trace(model, torch.zeros(1, *SHAPE))
    units = Units(model, traced).by_channel.split([group.width for group in traced.groups])
    means = [score.mean() for score in FilterNorm().score(model, traced, batches=()).values()]
    np.testing.assert_allclose([unit[0].item() for unit in units], np.divide(means, 0.5), rtol=1e-6)
    assert Units(model.bfloat16(), traced).by_channel.dtype == torch.float32
