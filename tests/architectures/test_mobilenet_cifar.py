"""MobileNets for small images: counts, and groups that hold the depthwise layers."""

import torch

from autoprune.architectures import build
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


def test_v1():
    traced = trace(build("mobilenet_v1", n_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32))
    assert (traced.cost.dense_macs, traced.cost.dense_params) == (46_354_432, 3_217_226)
    assert [group.width for group in traced.groups] == [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    assert traced.group("features.0.0").scales == ("features.0.1", "features.1.0.1")
    assert traced.refused == ()


def test_v2():
    traced = trace(build("mobilenet_v2", n_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32))
    assert (traced.cost.dense_macs, traced.cost.dense_params) == (87_976_448, 2_236_682)
    assert len(traced.groups) == 25
    assert sorted(group.width for group in traced.groups)[-1] == 1280
    narrow = traced.group("features.2.conv.2.0")  # written by both blocks of the stage, added by the second
    assert narrow.width == 24
    assert narrow.scales == ("features.2.conv.2.1", "features.3.conv.2.1")
    assert traced.refused == ()
