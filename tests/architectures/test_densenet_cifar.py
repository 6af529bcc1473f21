"""The DenseNet: counts, and groups that every later layer reads."""

import torch

from autoprune.architectures import build
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


def test_counts_and_groups():
    model = build("densenet40", n_classes=10, in_channels=3)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    assert traced.cost.dense_macs == 282_917_328
    assert traced.cost.dense_params == 1_059_298 == sum(p.numel() for p in model.parameters())
    layers = [f"features.{place}" for place in range(38) if place not in (12, 25)]
    transitions = ["features.12.conv", "features.25.conv"]
    assert {group.name for group in traced.groups} == {"conv1", *(f"{layer}.conv" for layer in layers), *transitions}
    assert {group.width for group in traced.groups} == {24, 12, 168, 312}
    first = traced.group("features.0.conv")
    assert first.scales == tuple(f"features.{place}.bn" for place in range(1, 13))
    assert first.member("features.5.conv", "in").index.tolist() == [[24 + c] for c in range(12)]
