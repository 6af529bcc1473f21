"""Factors where channels are read: 0 does what removing does, and dropping leaves means as they are."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.gating import channels_dropped, gate_readers, silence_readers
from autoprune.engine.images import Preprocess
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime
from autoprune.engine.training.loop import Training
from autoprune.errors import NetworkError
from tests.contracts.test_methods import Blobs
from tests.small_networks import NETWORKS, SHAPE, UNSCALED, make

torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted({**NETWORKS, **UNSCALED}))
def test_a_factor_of_zero_does_what_removing_does(name):
    model, images = make(name), torch.randn(3, *SHAPE)
    traced = trace(model, images[:1])
    factors = {group.name: (torch.arange(group.width) % 2).float() for group in traced.groups}
    kept = {group: np.flatnonzero(factor.numpy()) for group, factor in factors.items()}
    with torch.no_grad():
        small = cut(model, traced.groups, kept)(images)
        handles = gate_readers(model, traced, lambda group, n: factors[group].expand(n, -1))
        gated = model(images)
        for handle in handles:
            handle.remove()
        silence_readers(model, traced, {group: factor == 0 for group, factor in factors.items()})
        silenced = model(images)
    torch.testing.assert_close(gated, small, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(silenced, small, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rows_that_are_no_examples_are_refused():
    model = make("plain")
    gate_readers(
        model, trace(model, torch.zeros(1, *SHAPE)), lambda group, n: torch.ones(2, 8 if group == "conv1" else 6)
    )
    with pytest.raises(NetworkError, match="it has 3 rows for 2 examples"):
        model(torch.zeros(3, *SHAPE))


class Passing(nn.Module):
    """What is read is what is said."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return self.second(self.first(x))


def test_dropping_leaves_the_mean_and_evaluation_as_they_are():
    torch.manual_seed(0)
    model = Passing()
    traced = trace(model.eval(), torch.zeros(1, 2))
    x = torch.tensor([[1.0, -2.0]]).expand(10_000, -1)
    expected = model(x[:1])
    with channels_dropped(model, traced, 0.3):
        assert torch.equal(model(x[:1]), expected)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(x[:1]), expected)
        dropped = model(x)
        assert dropped.unique().numel() == 8  # Each of three channels is there or not.
        each = (model.second.weight * model.first(x[:1])).detach()
        noise = float((each.square().sum() * 0.3 / 0.7 / 10_000).sqrt())
        assert abs(float(dropped.detach().mean()) - float(expected.detach())) < 4 * noise
    assert torch.equal(model(x[:1]), expected)


def test_a_phase_that_drops_can_pause():
    def training():
        model = make("residual")
        recipe = TrainSpec(epochs=1, batch=8, learning_rate=0.02)
        runtime = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
        dropping = channels_dropped(model, trace(model, torch.zeros(1, *SHAPE)), 0.25)
        return model, dropping, Training(model, ImageFeed(Blobs()), recipe, runtime=runtime, seed=0)

    one, dropping, whole = training()
    with dropping:
        whole.run()
    _, dropping, part = training()
    with dropping:
        part.run(until=2)
    other, dropping, rest = training()
    rest.load_state_dict(part.state_dict())
    with dropping:
        rest.run()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
