"""Group norms against sums written out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.importances import GroupNorm

torch.set_num_threads(1)


def energy(*tensors):
    """Norm of a channel's weights: each tensor has the channels first."""
    return sum(tensor.detach().double().flatten(1).square().sum(1) for tensor in tensors).sqrt().numpy()


def scores(model, shape):
    torch.manual_seed(0)
    return GroupNorm().score(model, trace(model, torch.zeros(shape)), batches=())


def test_numbers_by_hand():
    """Channel 0: 3² + 4² written, 0 read; channel 1: 0 written, 5² read; channel 2: 6² and 8²."""
    model = nn.Sequential(nn.Conv2d(1, 3, (1, 2), bias=True), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 0.0]]).reshape(3, 1, 1, 2))
        model[0].bias.fill_(100.0)
        model[2].weight.copy_(torch.tensor([[0.0, 3.0, 8.0], [0.0, 4.0, 0.0]]).reshape(2, 3, 1, 1))
    assert scores(model, (1, 1, 1, 2))["0"].tolist() == [5.0, 5.0, 10.0]


def test_plain_and_flattened():
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 5),
    )  # fmt: skip
    got = scores(model, (1, 2, 3, 3))
    np.testing.assert_allclose(got["0"], energy(model[0].weight, model[3].weight.transpose(0, 1)), rtol=1e-12)
    columns = model[6].weight.reshape(5, 4, 9).transpose(0, 1)
    np.testing.assert_allclose(got["3"], energy(model[3].weight, columns), rtol=1e-12)


def test_residual_stream():
    """All that writes or reads the stream of stage 2 counts, whatever block it is in."""
    model = build("resnet20", n_classes=10, in_channels=3)
    got = scores(model, (1, 3, 8, 8))
    stage, after = model.layer2, model.layer3[0]
    writers = [stage[0].conv2, stage[0].downsample[0], stage[1].conv2, stage[2].conv2]
    readers = [stage[1].conv1, stage[2].conv1, after.conv1, after.downsample[0]]
    weights = [conv.weight for conv in writers] + [conv.weight.transpose(0, 1) for conv in readers]
    np.testing.assert_allclose(got["layer2.0.conv2"], energy(*weights), rtol=1e-12)
    inner = [stage[1].conv1.weight, stage[1].conv2.weight.transpose(0, 1)]
    np.testing.assert_allclose(got["layer2.1.conv1"], energy(*inner), rtol=1e-12)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_weights_count_once(multiplier):
    width = 4 * multiplier
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, width, 3, padding=1, groups=4), nn.Conv2d(width, 2, 1), nn.Flatten()
    )
    got = scores(model, (1, 3, 5, 5))
    pointwise = model[2].weight.transpose(0, 1).reshape(4, -1)
    expected = energy(model[0].weight, model[1].weight.reshape(4, -1), pointwise)
    np.testing.assert_allclose(got["0"], expected, rtol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 6), (6, 12), (9, 9)])
def test_grouped(inputs, outputs):
    """One channel is the same offset of each of the three conv groups, on both sides of the grouped layer."""
    grouped = nn.Conv2d(inputs, outputs, 3, padding=1, groups=3)
    model = nn.Sequential(nn.Conv2d(2, inputs, 1), grouped, nn.Conv2d(outputs, 4, 1), nn.Flatten())
    got = scores(model, (1, 2, 5, 5))
    a, b, c = (model[i].weight.detach() for i in range(3))
    per_in, per_out = inputs // 3, outputs // 3
    by_group = b.reshape(3, per_out, per_in, 9)
    read = torch.cat([a.reshape(3, per_in, 2).transpose(0, 1).flatten(1), by_group.permute(2, 0, 1, 3).flatten(1)], 1)
    np.testing.assert_allclose(got["0"], energy(read), rtol=1e-12)
    written = torch.cat([by_group.transpose(0, 1).flatten(1), c.reshape(4, 3, per_out).permute(2, 0, 1).flatten(1)], 1)
    np.testing.assert_allclose(got["1"], energy(written), rtol=1e-12)


def test_one_dimension():
    model = nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 3, 3), nn.Flatten())
    expected = energy(model[0].weight, model[2].weight.transpose(0, 1))
    np.testing.assert_allclose(scores(model, (1, 2, 9))["0"], expected, rtol=1e-12)


def test_a_group_without_weights_left_is_all_zeros():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1), nn.Flatten())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert scores(model, (1, 1, 2, 2))["0"].tolist() == [0.0, 0.0, 0.0]
