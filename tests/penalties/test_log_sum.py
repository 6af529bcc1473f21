"""The log-sum penalty in closed form, its threshold, and its limit ℓ1."""

import math

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import L1, LogSum
from tests.penalties.brute_force import minimiser, vector

X = vector(-1.5, -0.5, 0.05, 0.2, 0.5, 2.0)
Y = vector(0.15, 0.30, 0.50, 0.80, 1.20, 2.00)


def test_value_and_gradient():
    penalty = LogSum(0.5, 0.25)
    for x in X.tolist():
        assert penalty.value(vector(x)).item() == pytest.approx(0.5 * math.log(1 + abs(x) / 0.25), rel=1e-12)
        assert penalty.gradient(vector(x)).item() == pytest.approx(math.copysign(0.5 / (0.25 + abs(x)), x), rel=1e-12)
    assert penalty.gradient(vector(1e-12, 0.25)).tolist() == pytest.approx([2.0, 1.0], rel=1e-9)


@pytest.mark.parametrize(("strength", "bend"), [(0.01, 0.1), (0.1, 0.1), (0.1, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("step", [1.0, 0.3])
def test_prox(strength, bend, step):
    penalty = LogSum(strength, bend)
    found = penalty.prox(Y, step)
    assert found.tolist() == pytest.approx([minimiser(penalty, y, step) for y in Y.tolist()], abs=1e-5)
    assert torch.equal(penalty.prox(-Y, step), -found)


def test_a_weak_penalty_lets_channels_go_continuously():
    """Up to ``bend**2``: the threshold is the slope at zero."""
    below, above = LogSum(0.04, 0.25).prox(vector(0.16 - 1e-6, 0.16 + 1e-6), 1.0).tolist()
    assert below == 0
    assert 0 < above < 1e-4


def test_a_strong_penalty_lets_them_jump():
    penalty = LogSum(0.1, 0.1)
    found = penalty.prox(torch.linspace(0, 1, 10_001, dtype=torch.float64), 1.0)
    steps = found.diff()
    assert (steps > 0.1).sum() == 1
    assert found[-1].item() == pytest.approx((0.9 + math.sqrt(1.1**2 - 0.4)) / 2, rel=1e-12)


def test_a_large_bend_is_l1():
    """With the slope at zero held."""
    for found, expected in (
        (LogSum(1.0, 100.0).prox(Y, 1.0), L1(0.01).prox(Y, 1.0)),
        (LogSum(1.0, 100.0).gradient(X), L1(0.01).gradient(X)),
    ):
        torch.testing.assert_close(found, expected, rtol=2.5e-2, atol=0)


@pytest.mark.parametrize(("key", "value"), [("strength", 0.0), ("bend", 0.0), ("bend", -1.0)])
def test_out_of_range(key, value):
    with pytest.raises(ConfigError, match=rf"`{key}` must be in \(0, 1(000)?\], but got {key}={value}"):
        LogSum(**{key: value})
