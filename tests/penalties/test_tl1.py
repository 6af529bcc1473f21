"""TL1: the tables of its gradient and proximal step, both thresholds, and its limits ℓ0 and ℓ1."""

import math

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import L1, TL1
from tests.penalties.brute_force import minimiser, vector

X = vector(-1.5, -0.5, 0.05, 0.2, 0.5, 2.0)
Y = vector(0.15, 0.30, 0.50, 0.80, 1.20, 2.00)


@pytest.mark.parametrize(
    ("bend", "gradient", "value"),
    [
        (1.0, [-0.320000, -0.888889, 1.814059, 1.388889, 0.888889, 0.222222], 0.666667),
        (0.5, [-0.187500, -0.750000, 2.479339, 1.530612, 0.750000, 0.120000], 0.75),
    ],
)
def test_value_and_gradient(bend, gradient, value):
    penalty = TL1(1.0, bend)
    assert penalty.gradient(X).tolist() == pytest.approx(gradient, abs=1e-6)
    assert penalty.value(vector(0.5)).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("bend", [0.1, 1.0, 10.0])
def test_half_of_the_limit_is_reached_at_the_bend_and_the_strength_at_one(bend):
    penalty = TL1(0.25, bend)
    assert penalty.value(vector(bend)).item() == pytest.approx(0.25 * (bend + 1) / 2, rel=1e-12)
    assert penalty.value(vector(1e12)).item() == pytest.approx(0.25 * (bend + 1), rel=1e-9)
    assert penalty.value(vector(1.0)).item() == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(
    ("strength", "bend", "expected"),
    [
        (0.1, 1.0, [0, 0.148331, 0.397610, 0.733440, 1.157014, 1.977440]),
        (0.4, 0.5, [0, 0, 0, 0, 1.079796, 1.950022]),
    ],
)
def test_prox(strength, bend, expected):
    penalty = TL1(strength, bend)
    assert penalty.prox(Y, 1.0).tolist() == pytest.approx(expected, abs=1e-6)
    assert TL1(2 * strength, bend).prox(-Y, 0.5).tolist() == pytest.approx([-z for z in expected], abs=1e-6)
    for y, z in zip(Y.tolist(), expected, strict=True):
        assert minimiser(penalty, y, 1.0) == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize(("strength", "bend", "threshold"), [(0.1, 1.0, 0.2), (0.4, 0.5, 0.845445)])
def test_threshold(strength, bend, threshold):
    below, above = TL1(strength, bend).prox(vector(threshold - 2e-6, threshold + 2e-6), 1.0).tolist()
    assert below == 0
    # A weak penalty lets channels go continuously, a strong one lets them jump.
    jump = 0.0 if strength <= bend**2 / (2 * (bend + 1)) else math.sqrt(2 * strength * (bend + 1)) - bend
    assert above == pytest.approx(jump, abs=1e-5)


def test_the_two_thresholds_meet():
    bend = 0.5
    border = bend**2 / (2 * (bend + 1))
    for strength in (border * (1 - 1e-9), border * (1 + 1e-9)):
        below, above = TL1(strength, bend).prox(vector(bend / 2 - 1e-6, bend / 2 + 1e-6), 1.0).tolist()
        assert below == 0
        assert 0 < above < 2e-3


def test_a_large_bend_is_l1():
    torch.testing.assert_close(TL1(0.25, 1000.0).prox(Y, 1.0), L1(0.25).prox(Y, 1.0), rtol=0, atol=2e-3)
    torch.testing.assert_close(TL1(0.25, 1000.0).gradient(X), L1(0.25).gradient(X), rtol=2e-2, atol=0)


def test_a_small_bend_is_l0():
    """Hard thresholding: what stays is left alone."""
    y = vector(0.3, 0.7, 0.72, 1.5)
    assert TL1(0.25, 1e-6).prox(y, 1.0).tolist() == pytest.approx([0, 0, 0.72, 1.5], abs=1e-5)


def test_a_tiny_step_takes_off_what_the_gradient_says_in_float32():
    """The published form would lose it in the difference of nearly equal numbers."""
    penalty, y = TL1(1e-3, 10.0), torch.linspace(0.25, 2, 1000)
    taken = (y - penalty.prox(y, 0.01)).double()
    assert float(taken.mean()) == pytest.approx(0.01 * float(penalty.gradient(y.double()).mean()), rel=1e-3)


@pytest.mark.parametrize(("key", "value"), [("strength", 0.0), ("bend", 0.0), ("bend", -1.0)])
def test_out_of_range(key, value):
    with pytest.raises(ConfigError, match=rf"`{key}` must be in \(0, 1(000)?\], but got {key}={value}"):
        TL1(**{key: value})
