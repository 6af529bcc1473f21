"""Channels that say the same are taken over by their partners: exactly where they are a linear function of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.engine.channels import Member
from autoprune.engine.folding import absorb
from autoprune.engine.folding.absorption import partners
from autoprune.engine.measuring import ChannelMoments, measure_channel_moments
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


def moments_of(samples):
    """Of channels, shape (C, n)."""
    member = Member("reader", "in", np.arange(len(samples))[:, None])
    return ChannelMoments(member, samples.mean(1), np.cov(samples, bias=True))


def test_slope_and_shift_of_a_noisy_pair():
    """v = .5 u + .3 + N(0, .01²), u uniform in (0, 2): a and b come back, and ρ is almost 1."""
    generator = np.random.default_rng(0)
    u = generator.uniform(0, 2, 200_000)
    moments = moments_of(np.stack([u, 0.5 * u + 0.3 + generator.normal(0, 0.01, len(u))]))
    (partner,) = partners(moments, np.array([0]), least=0.8)
    assert (partner.channel, partner.other) == (1, 0)
    assert partner.slope == pytest.approx(0.5, abs=2e-3)
    assert partner.shift == pytest.approx(0.3, abs=2e-3)
    assert moments.correlations[0, 1] == pytest.approx(0.9994, abs=1e-4)


def test_partners_are_alike_enough_and_constants_need_none():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 10_000))
    moments = moments_of(np.stack([one, -2 * one, other, np.full(10_000, 4.0)]))
    found = {each.channel: each for each in partners(moments, np.array([0]), least=0.8)}
    assert found.keys() == {1, 3}  # The third is another's business.
    assert found[1].slope == pytest.approx(-2)
    assert found[1].shift == pytest.approx(0, abs=1e-9)
    assert (found[3].slope, found[3].shift) == (0, 4)


class Pair(nn.Module):
    """The last channel is half the first one, plus .3, where they are read."""

    def __init__(self, padding, *, norm=False, reader=None):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.reader = reader or nn.Conv2d(4, 3, 3, padding=padding, bias=not norm)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        with torch.no_grad():
            self.first.bias.fill_(5.0)  # No ReLU is shut.
            self.first.weight[3], self.first.bias[3] = 0.5 * self.first.weight[0], 0.5 * self.first.bias[0] + 0.3

    def forward(self, x):
        return self.norm(self.reader(torch.relu(self.first(x))))


def answers(model, padding_or_model, kept):
    inputs = torch.rand(64, 2, 9, 9, dtype=torch.float64)
    traced = trace(model.eval(), inputs[:1])
    absorbed = absorb(model, traced, {"first": np.array(kept)}, batches=[(inputs, None)])
    with torch.no_grad():
        return model(inputs), cut(absorbed, traced.groups, {"first": np.array(kept)})(inputs)


@pytest.mark.parametrize("norm", [False, True])
def test_a_linear_pair_through_a_convolution_is_exact_but_for_padded_borders(norm):
    for padding in (0, 1):
        torch.manual_seed(0)
        before, after = answers(Pair(padding, norm=norm).double(), padding, [0, 1, 2])
        inner = slice(padding, -padding or None)
        assert (before - after)[..., inner, inner].abs().max() < 1e-12
        if padding:
            assert (before - after).abs().max() > 0.01


def test_each_place_of_a_flattened_map_turns_to_its_partners():
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Flatten(), nn.Linear(4 * 81, 3))
    before, after = answers(Pair(0, reader=reader).double(), 0, [0, 1, 2])
    assert (before - after).abs().max() < 1e-12


def test_without_a_partner_the_cut_is_as_it_was():
    torch.manual_seed(0)
    model = Pair(0).double()
    inputs = torch.rand(64, 2, 9, 9, dtype=torch.float64)
    traced = trace(model.eval(), inputs[:1])
    kept = {"first": np.array([1, 2])}
    absorbed = absorb(model, traced, kept, batches=[(inputs, None)], least=1.0)
    assert all(torch.equal(tensor, absorbed.state_dict()[name]) for name, tensor in model.state_dict().items())
    moments = measure_channel_moments(model, traced, batches=[(inputs, None)])["first"]
    assert [each.member.module for each in moments] == ["reader"]
