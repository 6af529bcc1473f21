"""The pre-activation ResNet: counts, and groups that reach through the normalisations of later blocks."""

import torch

from autoprune.architectures import build
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


def test_counts_and_groups():
    model = build("preresnet164", n_classes=10, in_channels=3)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    assert traced.cost.dense_macs == 247_646_720
    assert traced.cost.dense_params == 1_703_258 == sum(p.numel() for p in model.parameters())
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(18)]
    inner = {f"{block}.conv{place}" for block in blocks for place in (1, 2)}
    streams = {"conv1", "layer1.0.conv3", "layer2.0.conv3", "layer3.0.conv3"}
    assert {group.name for group in traced.groups} == inner | streams
    assert traced.refused == ()
    stream = traced.group("layer2.0.conv3")
    assert stream.width == 128
    assert stream.scales == (*(f"layer2.{block}.bn1" for block in range(1, 18)), "layer3.0.bn1")
    assert traced.group("layer2.3.conv1").scales == ("layer2.3.bn2",)
