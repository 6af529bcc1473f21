"""VGGs for small images: published MACs, parameters and the channel groups."""

import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "layers", "macs", "params", "scales"),
    [("vgg16", 13, 313_201_664, 14_724_042, 4_224), ("vgg19", 16, 398_136_320, 20_035_018, 5_504)],
)
def test_published_counts_and_groups(name, layers, macs, params, scales):
    model = build(name, n_classes=10, in_channels=3)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    assert (traced.cost.dense_macs, traced.cost.dense_params) == (macs, params)
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == layers
    assert [group.name for group in traced.groups] == convs
    assert sum(group.width for group in traced.groups) == scales
    assert all(len(group.scales) == 1 for group in traced.groups)
    assert sum(model.get_submodule(conv).weight.numel() for conv in convs) == params - 2 * scales - 5130
