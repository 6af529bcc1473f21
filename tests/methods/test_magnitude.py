"""Magnitude ranks the dense network by its filters and prepares nothing."""

import numpy as np
import torch

from autoprune.architectures import build
from autoprune.engine.contracts import Hooks
from autoprune.engine.groups import trace
from autoprune.importances import FilterNorm
from autoprune.methods import Magnitude


def test_ranks_by_filter_norms_without_training():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert Magnitude.trains is False
    assert Magnitude().attach(model, traced) == Hooks()
    scores = Magnitude().rank(model, traced)
    assert list(scores) == [group.name for group in traced.groups]
    for group in traced.groups:
        assert np.array_equal(scores[group.name], FilterNorm().score(model, group))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
