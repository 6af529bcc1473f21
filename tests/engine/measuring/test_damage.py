"""Damage at the next layer: one pass must tell what ablating each set of channels would."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.engine.channels import readers_of
from autoprune.engine.measuring import measure_damages
from autoprune.engine.tracing import trace
from autoprune.errors import DataError
from tests.small_networks import NETWORKS, SHAPE, make, sequential

torch.set_num_threads(1)


def batches(n=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, *SHAPE, generator=generator).to(dtype), torch.zeros(6)) for _ in range(n)]


def told(model, name, norm, inputs):
    """What a reader says behind its BatchNorm, in evaluation mode, outputs first."""
    heard = []
    handle = model.get_submodule(norm or name).register_forward_hook(lambda m, a, out: heard.append(out.double()))
    with torch.no_grad():
        for images, _ in inputs:
            model(images)
    handle.remove()
    whole = torch.cat(heard).movedim(1, 0).flatten(1)
    bias = None if norm else model.get_submodule(name).bias
    return whole if bias is None else whole - bias.detach().double()[:, None]


def ablated(model, name, positions, norm, inputs):
    """The same with the inputs at some positions of this reader zeroed, by hand."""
    model = copy.deepcopy(model)
    mask = torch.ones(model.get_submodule(name).weight.shape[1] * getattr(model.get_submodule(name), "groups", 1))
    mask[positions] = 0

    def silence(module, args):
        return (args[0] * mask.view(-1, *[1] * (args[0].dim() - 2)),)

    model.get_submodule(name).register_forward_pre_hook(silence)
    return told(model, name, norm, inputs)


NORM_BEHIND = {
    "conv2": "norm2", "inner1": "inner1_norm", "outer1": "outer1_norm", "inner2": "inner2_norm",
    "outer2": "outer2_norm", "skip": "skip_norm", "project": "project_norm", "grouped": "grouped_norm",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_one_pass_tells_what_ablating_any_set_would(name):
    model = make(name)
    traced, inputs = trace(model, torch.zeros(1, *SHAPE)), batches()
    damages = measure_damages(model, traced, batches=inputs)
    generator = np.random.default_rng(0)
    for group in traced.groups:
        matrix = damages[group.name]
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
        sets = [generator.permutation(group.width)[:m] for m in range(1, group.width + 1)]
        for removed in sets:
            expected = 0.0
            for member in readers_of(model, group):
                norm = NORM_BEHIND.get(member.module)
                before = told(model, member.module, norm, inputs)
                change = before - ablated(model, member.module, member.index[removed].ravel(), norm, inputs)
                if norm is not None:  # Recalibration gives means back.
                    before, change = (x - x.mean(1, keepdim=True) for x in (before, change))
                expected += float(change.square().sum() / before.square().sum())
            assert matrix[np.ix_(removed, removed)].sum() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_without_all_channels_each_reader_loses_all():
    """The residual stream has three readers; 3 is lost of what they say."""
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    damages = measure_damages(model, traced, batches=batches())
    assert {name: round(float(matrix.sum()), 6) for name, matrix in damages.items()} == {
        "stem": 3.0, "inner1": 1.0, "inner2": 1.0, "outer2": 1.0,
    }  # fmt: skip


def test_wide_linear_layers_are_taken_in_parts(monkeypatch):
    """Behind a flattened map of large images the products of all inputs would not fit into memory."""
    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    expected = measure_damages(model, traced, batches=batches())
    largest = []
    monkeypatch.setattr(
        "autoprune.engine.measuring.damage._MOST_BYTES", 8 * 6 * 4 * 4 * 2
    )  # Two of the six channels at a time.
    split = torch.Tensor.split
    monkeypatch.setattr(torch.Tensor, "split", lambda x, size, *rest: largest.append(size) or split(x, size, *rest))
    found = measure_damages(model, traced, batches=batches())
    assert largest[-1] == 2 * 4
    np.testing.assert_allclose(found["conv2"], expected["conv2"], rtol=1e-5, atol=1e-7)


def test_large_maps_are_sampled(monkeypatch):
    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    whole = measure_damages(model, traced, batches=batches(8), n_batches=8)
    monkeypatch.setattr("autoprune.engine.measuring.damage._MOST_SAMPLES", 200)  # of 6 * 64 places
    monkeypatch.setattr("autoprune.engine.measuring.damage._MOST_BYTES", 1)  # one image at a time
    part = measure_damages(model, traced, batches=batches(8), n_batches=8)
    again = measure_damages(model, traced, batches=batches(8), n_batches=8)
    for name, matrix in part.items():
        assert np.array_equal(matrix, again[name])
    assert 0 < np.abs(part["conv1"] - whole["conv1"]).max() < 0.1 * np.abs(whole["conv1"]).max()


def test_no_more_than_the_batches_asked_for():
    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    endless = itertools.cycle(batches())
    assert set(measure_damages(model, traced, batches=endless, n_batches=1)) == {"conv1", "conv2"}
    assert all(not module._forward_pre_hooks for module in model.modules())
    with pytest.raises(DataError, match=r"^damage must be measured on at least one batch"):
        measure_damages(model, traced, batches=[])


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv3d])
def test_maps_of_one_and_three_dimensions(conv):
    n = {nn.Conv1d: 1, nn.Conv3d: 3}[conv]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[n]
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(2, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 5, 3, padding=1, stride=2, dilation=2), norm(5),
        nn.ReLU(), nn.Flatten(), nn.Linear(5 * 2**n, 3),
    ).eval()  # fmt: skip
    shape = (3, 2, *[6] * n)
    traced = trace(model, torch.zeros(1, *shape[1:]))
    inputs = [(torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.zeros(3))]
    matrix = measure_damages(model, traced, batches=inputs)["0"]
    before = told(model, "3", "4", inputs)
    change = before - ablated(model, "3", np.array([1, 3]), "4", inputs)
    before, change = (x - x.mean(1, keepdim=True) for x in (before, change))
    expected = float(change.square().sum() / before.square().sum())
    assert matrix[np.ix_([1, 3], [1, 3])].sum() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_layer_that_reads_constants_only_is_not_damaged(seed):
    """Behind a BatchNorm nothing varies: what float32 leaves of the variance is no share of anything."""
    torch.manual_seed(seed)
    model = sequential(8, 6, size=1)
    with torch.no_grad():
        model[1].weight[:] = 0
        model[1].bias.uniform_(0.5, 3)
    traced = trace(model, torch.zeros(1, *SHAPE))
    assert not measure_damages(model, traced, batches=batches())["0"].any()
    with torch.no_grad():
        model[1].weight[2] = 0.1  # One channel that says something is all that there is.
    found = measure_damages(model, traced, batches=batches())["0"]
    assert found[2, 2] == pytest.approx(1, rel=1e-2)
    assert np.abs(np.delete(np.delete(found, 2, 0), 2, 1)).max() < 1e-2
