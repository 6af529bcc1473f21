"""Damage after compensation, against numbers by hand and against readers that are refitted for real."""

import numpy as np
import pytest
import torch

from autoprune.engine.measuring import measure_damages, measure_removals
from autoprune.engine.measuring.surgeon import Read, Reader, added_damage, removals
from autoprune.engine.tracing import trace
from autoprune.importances import OBS
from tests.small_networks import SHAPE, make, sequential

torch.set_num_threads(1)


def two_inputs():
    moments = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    return Reader.of(torch.tensor([[1.0, 2.0]], dtype=torch.float64), moments).of_group(torch.arange(2)[:, None])


def test_two_correlated_inputs_of_which_one_leaves():
    """W = [1, 2], C = [[1, 1/2], [1/2, 1]], so ‖z‖² = 7: without the second 3/7 are left, without the first 3/28."""
    damage = added_damage(two_inputs(), torch.tensor([True, True]))
    np.testing.assert_allclose(damage.numpy(), [3 / 28, 3 / 7], rtol=3e-3)  # A thousandth is ridge.
    assert added_damage(two_inputs(), torch.tensor([True, False])).tolist()[1] == torch.inf


def test_the_last_channel_takes_all_that_is_left():
    """First the first, 3/28; then 25/28: its reader had taken up a half of it, W' = 2.5."""
    order, added = removals([two_inputs()], np.zeros((2, 2)))
    assert order.tolist() == [0, 1]
    np.testing.assert_allclose(added, [3 / 28, 25 / 28], rtol=3e-3)


def test_what_else_a_layer_reads_makes_up_for_a_group():
    """The group is the second input alone: the first stays, and takes up what it can, so 3/7 are left."""
    moments = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    read = Reader.of(torch.tensor([[1.0, 2.0]], dtype=torch.float64), moments).of_group(torch.tensor([[1]]))
    assert isinstance(read, Read)
    assert read.weight.shape == (1, 1)
    assert added_damage(read, torch.tensor([True])).tolist() == pytest.approx([3 / 7], rel=3e-3)


def test_fixed_damages_count_beside_it():
    fixed = np.array([[1.0, -0.25], [-0.25, 0.0]])
    order, added = removals([two_inputs()], fixed)
    assert order.tolist() == [1, 0]
    np.testing.assert_allclose(added, [3 / 7, 4 / 7 + 0.5], rtol=3e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_what_a_refit_leaves(bias):
    """The reader's answers, refitted to the first channels that stay by least squares on the same places."""
    torch.manual_seed(0)
    model = sequential(6, 4)
    if bias:
        model[3].bias = torch.nn.Parameter(torch.randn(4))
    images = torch.randn(16, *SHAPE)
    traced = trace(model, images[:1])
    order, added = measure_removals(model, traced, batches=[(images, None)])["0"]
    heard = {}
    model[3].register_forward_hook(lambda module, args, out: heard.update(x=args[0], z=out))
    with torch.no_grad():
        model(images)
    x = torch.nn.functional.unfold(heard["x"], 3, padding=1).transpose(1, 2).reshape(-1, 6, 9).double()
    z = heard["z"].flatten(2).transpose(1, 2).reshape(-1, 4).double()
    x, z = x - x.mean(0), z - z.mean(0)
    gain = (model[4].weight / (model[4].running_var + model[4].eps).sqrt()).detach()
    z = z * gain  # What the BatchNorm makes of it.
    for n_gone in (1, 3):
        stays = x[:, np.sort(order[n_gone:])].flatten(1)
        left = z - stays @ torch.linalg.lstsq(stays, z, driver="gelsd").solution
        share = float(left.square().sum() / z.square().sum())
        assert float(added[:n_gone].sum()) == pytest.approx(share, rel=0.05, abs=2e-3)


def test_less_is_lost_than_by_a_plain_cut_and_rules_add_it_up():
    model = make("residual")
    images = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0))
    traced, batches = trace(model, images[:1]), [(images, torch.arange(24) % 4)]
    plain = measure_damages(model, traced, batches=batches)
    scores, damages = (ask(model, traced, batches=batches) for ask in (OBS().score, OBS().damages))
    for name, (order, added) in measure_removals(model, traced, batches=batches).items():
        first = order[: len(order) // 2]
        assert added[: len(first)].sum() <= plain[name][np.ix_(first, first)].sum() + 3e-3  # What is ridge.
        assert scores[name][order].tolist() == np.cumsum(added).tolist()
        assert damages[name][np.ix_(first, first)].sum() == pytest.approx(added[: len(first)].sum())
