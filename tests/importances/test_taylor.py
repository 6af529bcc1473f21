"""Taylor scores against gates on the channels, and against the loss itself."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.architectures import build
from autoprune.engine.surgery import masked
from autoprune.engine.tracing import trace
from autoprune.errors import DataError
from autoprune.importances import Taylor

torch.set_num_threads(1)


def batches(shape, n=3, classes=10):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, *shape, generator=generator), torch.randint(classes, (8,), generator=generator))
        for _ in range(n)
    ]


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias):
                    tensor.normal_(0, 0.3)
                for tensor in (module.running_var, module.weight):
                    tensor.uniform_(0.5, 1.5)
    return model.eval()


def scales_and_shifts(model, norms, data):
    """Mean over batches of ``|sum(γ dL/dγ + β dL/dβ)|`` over normalisations that share their channels."""
    total = 0.0
    for inputs, labels in data:
        model.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        total += sum((m.weight * m.weight.grad + m.bias * m.bias.grad) for m in norms).detach().double().abs().numpy()
    model.zero_grad(set_to_none=True)
    return total / len(data)


def test_behind_normalisation_and_relu_it_is_the_gate_on_scale_and_shift():
    model = randomised(
        nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Flatten(), nn.Linear(5 * 4, 10),
        )
    )  # fmt: skip
    data = batches((2, 6, 6))
    scores = Taylor().score(model, trace(model, torch.zeros(1, 2, 6, 6)), batches=data)
    np.testing.assert_allclose(scores["0"], scales_and_shifts(model, [model[1]], data), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scores["3"], scales_and_shifts(model, [model[4]], data), rtol=1e-4, atol=1e-7)


def test_on_a_residual_stream_it_is_the_gate_on_all_that_is_added():
    model = randomised(build("resnet20", n_classes=10, in_channels=3))
    data = batches((3, 8, 8), n=2)
    scores = Taylor().score(model, trace(model, torch.zeros(1, 3, 8, 8)), batches=data)
    stage = model.layer2
    norms = [stage[0].bn2, stage[0].downsample[1], stage[1].bn2, stage[2].bn2]
    expected = scales_and_shifts(model, norms, data)
    np.testing.assert_allclose(scores["layer2.0.conv2"], expected, rtol=1e-3, atol=1e-6)
    inner = scales_and_shifts(model, [stage[1].bn1], data)
    np.testing.assert_allclose(scores["layer2.1.conv1"], inner, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet_digits", "densenet40", "mobilenet_v2"])
def test_it_is_the_slope_of_the_loss_towards_the_masked_network(name):
    model = randomised(build(name, n_classes=10, in_channels=1)).double()
    (inputs, labels), = [(x.double(), y) for x, y in batches((1, 8, 8), n=1)]  # fmt: skip
    traced = trace(model, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    scores = Taylor().score(model, traced, batches=[(inputs, labels)])
    share = 1e-6
    for group in (traced.groups[0], traced.groups[-1]):
        channel = group.width // 2
        silenced = masked(model, traced.groups, {group.name: np.delete(np.arange(group.width), channel)})
        losses = []
        for sign in (-1, 1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                for parameter, goal in zip(moved.parameters(), silenced.parameters(), strict=True):
                    parameter.add_(sign * share * (goal - parameter))
                losses.append(F.cross_entropy(moved(inputs), labels).item())
        slope = abs(losses[1] - losses[0]) / (2 * share)
        assert scores[group.name][channel] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_batches_count_alike_and_do_not_cancel():
    model = randomised(build("resnet_digits", n_classes=10, in_channels=1))
    traced, data = trace(model, torch.zeros(1, 1, 8, 8)), batches((1, 8, 8))
    each = [Taylor().score(model, traced, batches=[batch]) for batch in data]
    together = Taylor().score(model, traced, batches=data)
    for name, score in together.items():
        np.testing.assert_allclose(score, np.mean([one[name] for one in each], axis=0), rtol=1e-12)


def test_parameters_and_their_gradients_are_left_alone():
    model = randomised(build("resnet_digits", n_classes=10, in_channels=1))
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Taylor().score(model, trace(model, torch.zeros(1, 1, 8, 8)), batches=batches((1, 8, 8)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.fc.weight.grad.eq(1).all()
    assert model.layer1[0].conv1.weight.grad is None


def test_without_images_it_is_refused():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    with pytest.raises(DataError, match="at least one batch, but got none"):
        Taylor().score(model, trace(model, torch.zeros(1, 1, 8, 8)), batches=())
