"""What is said of layers that are in the way."""

from __future__ import annotations

import torchvision
from torch import nn

from autoprune.pipeline import notes_on


def test_fixed_statistics_are_named() -> None:
    frozen = torchvision.ops.FrozenBatchNorm2d
    network = torchvision.models.resnet18(norm_layer=frozen)
    (note,) = notes_on(network)
    n_norms = sum(isinstance(module, frozen) for module in network.modules())
    assert note.startswith(f"bn1, layer1.0.bn1, layer1.0.bn2 and {n_norms - 3} more are normalisations with fixed ")
    assert "(FrozenBatchNorm2d)" in note


def test_nothing_is_said_of_others() -> None:
    assert notes_on(torchvision.models.resnet18()) == ()
    assert notes_on(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3))) == ()
