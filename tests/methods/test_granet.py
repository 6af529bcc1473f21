"""The schedule and the exchange by hand, and a phase that ends at its target with the same answers."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from autoprune.config import TrainSpec
from autoprune.cost import Limits
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.images import Preprocess
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, train
from autoprune.methods import GraNet
from autoprune.methods._granet import density_at, exchanged, share_regrown
from autoprune.widths import WIDTH_RULES, Evidence
from tests.contracts.test_methods import Blobs
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)

RUNTIME = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
RECIPE = TrainSpec(epochs=10, batch=8, learning_rate=0.02)  # 40 steps


def test_densities_of_the_schedule():
    found = [density_at(t, last=0.5) for t in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    np.testing.assert_allclose(found, [1, 0.756, 0.608, 0.532, 0.504, 0.5], atol=1e-12)


def test_fewer_and_fewer_are_exchanged():
    assert share_regrown(0, first=0.5) == 0.5
    assert share_regrown(0.5, first=0.5) == pytest.approx((0.5 + 0.005) / 2)
    assert share_regrown(1, first=0.5) == pytest.approx(0.005)
    assert share_regrown(0.3, first=0) == 0


def test_the_smallest_are_exchanged_for_those_that_the_loss_asks_for():
    kept = np.array([True, True, True, True, False, False])
    sizes, growth = np.array([4.0, 1.0, 2.0, 3.0, 9.0, 9.0]), np.array([0.0, 0.5, 0.0, 0.0, 0.1, 0.7])
    assert exchanged(kept, sizes, growth, share=0.25).tolist() == [True, False, True, True, False, True]
    assert exchanged(kept, sizes, growth, share=0.9).tolist() == [True, False, False, True, True, True]
    assert exchanged(kept, sizes, growth, share=0.2).tolist() == kept.tolist()


def phase(network="residual", ratio=0.4, **hyper):
    model = make(network)
    traced = trace(model, torch.zeros(1, *SHAPE))
    method = GraNet(**{"interval": 4, **hyper})
    plan = PhasePlan(RECIPE, n_steps=40, limits=Limits(macs=ratio * traced.cost.dense_macs))
    hooks = method.attach(model, traced, plan=plan)
    seen = []

    def look():
        hooks.after_step()
        is_open = hooks.state.state_dict()["open"]
        parts = is_open.split([group.width for group in traced.groups])
        widths = {group.name: max(1, int(part.sum())) for group, part in zip(traced.groups, parts, strict=True)}
        seen.append((traced.cost.macs_ratio(widths), is_open.clone()))

    own = dataclasses.replace(hooks, after_step=look)
    train(model, ImageFeed(Blobs()), RECIPE, runtime=RUNTIME, seed=0, hooks=own)
    return model.eval(), traced, method, hooks, seen


@pytest.mark.parametrize("network", ["residual", "concatenated", "depthwise"])
def test_it_ends_at_its_target_and_answers_the_same_once_gates_are_folded(network):
    model, traced, method, hooks, seen = phase(network)
    ratios = [ratio for ratio, _ in seen]
    assert ratios[2] == 1.0  # Before the first update.
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(ratios))
    assert ratios[-1] <= 0.4
    assert ratios[27] == ratios[-1]  # 0.7 of 40 steps.
    state = hooks.state.state_dict()
    images = torch.randn(4, *SHAPE)
    with torch.no_grad():
        before = model(images)
        hooks.fold(())
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-6)
    scores = method.rank(model, traced, state=state, batches=())
    limits = Limits(macs=0.4 * traced.cost.dense_macs)
    widths = WIDTH_RULES["learned"].widths(Evidence(traced.cost, scores), limits)
    assert traced.cost.macs_ratio(widths) == pytest.approx(ratios[-1])


def test_shut_channels_are_opened_again_only_where_it_regrows():
    def n_opened(seen):
        return sum(int((after > before).sum()) for (_, before), (_, after) in itertools.pairwise(seen))

    assert n_opened(phase(regrow=0.0)[-1]) == 0
    assert n_opened(phase(regrow=0.5)[-1]) > 0
    assert n_opened(phase(regrow=0.5, growth="random")[-1]) > 0


def test_the_gradient_of_a_shut_gate_is_what_opening_it_would_do():
    """A derivative by differences of the loss, at a channel that is shut."""
    model = make("plain").double()
    traced = trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64))
    plan = PhasePlan(RECIPE, n_steps=40, limits=Limits(macs=0.5 * traced.cost.dense_macs))
    hooks = GraNet().attach(model, traced, plan=plan)
    gates = hooks.state._gates
    images = torch.randn(4, *SHAPE, dtype=torch.float64)
    values = {}
    for value in (0.0, 1e-4):
        with torch.no_grad():
            gates["conv1"][2] = value
        loss = model(images).square().mean()
        values[value] = loss.item()
        if not value:
            loss.backward()
            slope = gates["conv1"].grad[2].item()
    assert slope == pytest.approx((values[1e-4] - values[0.0]) / 1e-4, rel=1e-2)
    hooks.transform_gradients()
    assert hooks.state.state_dict()["growth"][2].item() > 0
