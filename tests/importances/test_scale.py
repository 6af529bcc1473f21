"""Scales of coupled, grouped and concatenated normalisations, and the refusal where there are none."""

import itertools

import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.errors import NetworkError
from autoprune.importances import ScaleMagnitude


def scores(model, shape):
    return ScaleMagnitude().score(model, trace(model, torch.zeros(shape)), batches=())


def test_mean_over_coupled_normalisations():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    with torch.no_grad():
        model.layer2[0].bn1.weight.copy_(torch.linspace(-1, 1, 32))
        model.layer2[0].bn2.weight.copy_(torch.arange(32.0))
        model.layer2[0].downsample[1].weight.copy_(-torch.arange(32.0) - 4)
    got = scores(model, (1, 1, 8, 8))
    assert got["layer2.0.conv1"].tolist() == torch.linspace(-1, 1, 32).double().abs().tolist()
    assert got["layer2.0.conv2"].tolist() == [channel + 2.0 for channel in range(32)]


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)
        self.left_norm, self.norm = nn.BatchNorm2d(2), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        x = self.norm(torch.cat([self.left_norm(self.left(x)), self.right(x)], 1))
        return self.fc(x.mean((2, 3)))


def test_places_within_a_concatenation():
    model = Concatenated()
    with torch.no_grad():
        model.left_norm.weight.copy_(torch.tensor([1.0, -2.0]))
        model.norm.weight.copy_(torch.tensor([3.0, 4.0, -5.0, 6.0, 7.0]))
    got = scores(model, (1, 1, 2, 2))
    assert {name: score.tolist() for name, score in got.items()} == {"left": [2.0, 3.0], "right": [5.0, 6.0, 7.0]}


def test_places_in_each_conv_group():
    """Channel c of two conv groups is channels c and 3 + c of the normalisation between them."""
    grouped = [nn.Conv2d(4, 6, 1, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2)]
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), *grouped, nn.Flatten())
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 5.0, -6.0, 9.0]))
    assert scores(model, (1, 1, 2, 2))["2"].tolist() == [3.0, 4.0, 6.0]


def test_half_precision_scales_are_compared_exactly():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Flatten())
    traced = trace(model, torch.zeros(1, 1, 2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.1, -0.2, 0.3]))
    scores = ScaleMagnitude().score(model.to(torch.bfloat16), traced, batches=())
    assert scores["0"].tolist() == torch.tensor([0.1, -0.2, 0.3]).bfloat16().double().abs().tolist()


def test_a_group_without_normalisation_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    told = (
        r"^there must be a BatchNorm with scales behind every prunable channel, but there is none behind 0\. Add what "
        r"has none to \[network\] `exclude`, or use a method that looks at filters, such as magnitude\.$"
    )
    with pytest.raises(NetworkError, match=told):
        scores(model, (1, 1, 2, 2))


def test_normalisations_without_scales_are_none():
    layers = [[nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False), nn.ReLU()] for _ in range(4)]
    model = nn.Sequential(*itertools.chain(*layers), nn.Conv2d(3, 2, 1), nn.Flatten())
    with pytest.raises(NetworkError, match=r"but there is none behind 0, 3, 6 and 1 more\. Add"):
        scores(model, (1, 3, 2, 2))


def test_frozen_scales_rank_as_well():
    model = build("resnet_digits", n_classes=10, in_channels=1).requires_grad_(False)
    with torch.no_grad():
        model.layer2[0].bn1.weight.copy_(torch.linspace(-1, 1, 32))
    assert scores(model, (1, 1, 8, 8))["layer2.0.conv1"].tolist() == torch.linspace(-1, 1, 32).double().abs().tolist()
