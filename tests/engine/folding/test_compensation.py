"""Readers refitted after a cut, against numbers worked out by hand and against what a cut alone leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.folding import compensate
from autoprune.engine.folding.compensation import refitted
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


def test_two_correlated_inputs_of_which_one_leaves() -> None:
    """W = [1, 2], C = [[1, 1/2], [1/2, 1]]: without the second, W' = 1 + 2 / 2 = 2, and 3/7 of the variance is left."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    raw = (raw - raw.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(raw.T, correction=0))).T
    x = raw @ torch.linalg.cholesky(torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)).T + 3.0
    z = x @ torch.tensor([[1.0], [2.0]], dtype=torch.float64) + 5.0
    weights, bias = refitted(x[:, :1], z)
    assert float(weights[0, 0]) == pytest.approx(2.0, rel=2e-3)
    assert float(bias[0]) == pytest.approx(float(z.mean()) - 2.0 * 3.0, rel=2e-3)
    left = (z - x[:, :1] @ weights.T - bias).var(correction=0) / z.var(correction=0)
    assert float(left) == pytest.approx(3 / 7, rel=2e-3)
    assert float((z - x[:, :1]).var(correction=0) / z.var(correction=0)) == pytest.approx(4 / 7, rel=1e-6)


def test_a_channel_that_another_one_says_as_well_is_not_missed() -> None:
    torch.manual_seed(0)
    first, reader = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    with torch.no_grad():
        first.weight[3], first.bias[3] = 2 * first.weight[1], 2 * first.bias[1]
    model = nn.Sequential(first, nn.ReLU(), reader, nn.Flatten(), nn.Linear(5 * 16, 10)).eval()
    traced = trace(model, torch.zeros(1, 3, 8, 8))
    kept = {"0": np.array([0, 1, 2])}
    inputs = torch.randn(64, 3, 8, 8)
    small = cut(model, traced.groups, kept)
    with torch.no_grad():
        expected, before = model(inputs), small(inputs)
        compensate(small, model, traced, kept=kept, inputs=inputs)
        after = small(inputs)
    assert (before - expected).abs().max() > 0.05
    assert (after - expected).abs().max() < 0.01 * (before - expected).abs().max()
    assert not small.training


@pytest.mark.parametrize("name", ["resnet_digits", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_it_brings_a_network_nearer_to_what_it_said(name: str) -> None:
    torch.manual_seed(0)
    size, channels = (8, 1) if name == "resnet_digits" else (32, 3)
    model = build(name, n_classes=10, in_channels=channels)
    inputs = torch.randn(96, channels, size, size)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(inputs)  # Running statistics of these images.
    model.eval()
    traced = trace(model, inputs[:1])
    generator = np.random.default_rng(0)
    kept = {
        group.name: np.sort(generator.choice(group.width, size=max(1, 3 * group.width // 4), replace=False))
        for group in traced.groups
    }

    def distance(network: nn.Module) -> float:
        network.train()
        with torch.no_grad():
            found = network(inputs)
        network.eval()
        model.eval()
        with torch.no_grad():
            return float((found - model(inputs)).square().mean())

    plain, refit = cut(model, traced.groups, kept), cut(model, traced.groups, kept)
    modes = {name: module.training for name, module in refit.named_modules()}
    compensate(refit, model, traced, kept=kept, inputs=inputs)
    assert {name: module.training for name, module in refit.named_modules()} == modes
    assert distance(refit) < 0.7 * distance(plain)
