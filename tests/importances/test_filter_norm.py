"""Filter norms: only what writes a channel counts."""

import numpy as np
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.importances import FilterNorm


def norm(*tensors):
    return sum(tensor.detach().double().flatten(1).square().sum(1) for tensor in tensors).sqrt().numpy()


def test_readers_do_not_count():
    model = nn.Sequential(nn.Conv2d(1, 3, (1, 2)), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]).reshape(3, 1, 1, 2))
        model[0].bias.fill_(100.0)
        model[2].weight.fill_(1000.0)
    scores = FilterNorm().score(model, trace(model, torch.zeros(1, 1, 1, 2)), batches=())
    assert scores["0"].tolist() == [5.0, 0.0, 10.0]


def test_all_writers_of_a_residual_stream_count():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    scores = FilterNorm().score(model, trace(model, torch.zeros(1, 1, 8, 8)), batches=())
    block = model.layer2[0]
    expected = norm(block.conv2.weight, block.downsample[0].weight)
    np.testing.assert_allclose(scores["layer2.0.conv2"], expected, rtol=1e-12)


def test_a_depthwise_filter_writes_its_channel():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(8, 2, 1), nn.Flatten())
    scores = FilterNorm().score(model, trace(model, torch.zeros(1, 3, 5, 5)), batches=())
    np.testing.assert_allclose(scores["0"], norm(model[0].weight, model[1].weight.reshape(4, -1)), rtol=1e-12)
