"""The Fisher matrix by the gradients of single images, by hand, and as what the loss rises by."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autoprune import methods
from autoprune.architectures import build
from autoprune.engine.measuring import measure_fisher
from autoprune.engine.tracing import trace
from autoprune.errors import DataError
from autoprune.importances import Fisher
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *SHAPE, generator=generator), torch.arange(n) % 4


def gates_of(model, name, x):
    """One gate a channel of a group of the residual network, by hand, and the answers through them."""
    gate = torch.ones(7 if name == "outer2" else 5, requires_grad=True)
    stem = F.relu(model.stem_norm(model.stem(x)))
    inner = F.relu(model.inner1_norm(model.inner1(stem)))
    inner = inner * gate[:, None, None] if name == "inner1" else inner
    stream = F.relu(stem + model.outer1_norm(model.outer1(inner)))
    branch = model.outer2_norm(model.outer2(F.relu(model.inner2_norm(model.inner2(stream)))))
    out = F.relu(model.skip_norm(model.skip(stream)) + branch)
    out = out * gate[:, None, None] if name == "outer2" else out
    return gate, model.fc(out.mean((2, 3)))


@pytest.mark.parametrize("name", ["inner1", "outer2"])
def test_it_is_made_of_the_gradients_of_single_images(name):
    model, (images, labels) = make("residual"), batch()
    rows = []
    for image, label in zip(images, labels, strict=True):
        gate, logits = gates_of(model, name, image[None])
        rows.append(torch.autograd.grad(F.cross_entropy(logits, label[None]), gate)[0])
    own = torch.stack(rows).double()
    expected = (own.T @ own / (2 * len(own))).numpy()
    halves = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    for batches in ([(images, labels)], halves):
        found = measure_fisher(model, trace(model, images[:1]), batches=batches)[name]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_a_channel_behind_a_depthwise_layer_and_in_conv_groups_counts():
    model, (images, labels) = make("depthwise"), batch()
    found = measure_fisher(model, trace(model, images[:1]), batches=[(images, labels)])
    assert all(np.diag(matrix).max() > 0 for matrix in found.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_width_rules_go_by_it():
    model, (images, labels) = make("plain"), batch()
    traced, batches = trace(model, images[:1]), [(images, labels)]
    method = methods.build("fisher", {})
    found = method.damages(model, traced, batches=batches)
    assert {name: matrix.shape for name, matrix in found.items()} == {"conv1": (8, 8), "conv2": (6, 6)}
    assert method.normalisation == "none"
    assert methods.build("magnitude", {}).damages(model, traced, batches=batches) is None
    scores = Fisher().score(model, traced, batches=batches)
    assert scores["conv1"].min() == np.diag(found["conv1"]).min()  # The first one goes alone.


def test_images_stop_when_there_are_enough():
    model, (images, labels) = build("resnet_digits", n_classes=4, in_channels=1).eval(), batch()
    traced = trace(model, images[:1])
    one = measure_fisher(model, traced, batches=[(images, labels)])
    more = measure_fisher(model, traced, batches=[(images, labels), (5 * images, labels)], n_images=6)
    assert all(np.array_equal(one[name], more[name]) for name in one)
    with pytest.raises(DataError, match="at least one batch"):
        measure_fisher(model, traced, batches=())
