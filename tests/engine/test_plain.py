"""Parametrisations come off, and the network answers as before."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from autoprune.engine.plain import plain_weights

WAYS = [
    weight_norm, spectral_norm,
    parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal,
]  # fmt: skip


@pytest.mark.parametrize("normed", WAYS)
def test_a_layer_answers_as_before_with_a_plain_weight(normed) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # The older ways are still what many networks were made with.
        model = nn.Sequential(normed(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(3, 6)
    with torch.no_grad():
        before = model(x)
    assert plain_weights(model) is model
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not list(model.buffers())
    with torch.no_grad():
        torch.testing.assert_close(model(x), before)


def test_plain_networks_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    weight = model[0].weight
    assert plain_weights(model)[0].weight is weight
    assert caplog.records == []
