"""SCAD: the tables of its gradient and proximal step, its plateau, and what it refuses."""

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import L1, SCAD
from tests.penalties.brute_force import minimiser, vector

PENALTY = SCAD(0.25, 3.7 * 0.25)  # λ = 0.25, a = 3.7
X = vector(-1.5, -0.5, 0.05, 0.2, 0.5, 2.0)
Y = vector(0.15, 0.30, 0.50, 0.80, 1.20, 2.00)


def test_value_and_gradient():
    assert PENALTY.gradient(X).tolist() == pytest.approx([0, -0.157407, 0.25, 0.25, 0.157407, 0], abs=1e-6)
    assert PENALTY.value(vector(0.5)).item() == pytest.approx(0.113426, abs=1e-6)
    assert PENALTY.value(vector(0.2)).item() == pytest.approx(0.05, abs=1e-12)
    assert [PENALTY.value(vector(x)).item() for x in (0.925, 2.0)] == pytest.approx([0.146875] * 2, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1.0, [0, 0.05, 0.25, 0.726471, 1.2, 2]),
        (0.5, [0.025, 0.175, 0.403409, 0.771591, 1.2, 2]),
    ],
)
def test_prox(step, expected):
    assert PENALTY.prox(Y, step).tolist() == pytest.approx(expected, abs=1e-6)
    for y, z in zip(Y.tolist(), expected, strict=True):
        assert minimiser(PENALTY, y, step) == pytest.approx(z, abs=1e-5)


def test_up_to_the_first_bend_it_is_l1():
    y = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64)
    torch.testing.assert_close(PENALTY.prox(y, 1.0), L1(0.25).prox(y, 1.0), rtol=0, atol=1e-15)


def test_beyond_the_knee_nothing_is_taken_off():
    x = vector(0.925, -0.93, 400.0)
    assert torch.equal(PENALTY.prox(x, 1.0), x)


@pytest.mark.parametrize("knee", [0.5, 0.25])
def test_a_knee_within_twice_the_strength_is_refused(knee):
    told = rf"`knee` must be greater than 2 × `strength` \(a > 2 .*\), but got knee={knee}, strength=0.25\. Raise"
    with pytest.raises(ConfigError, match=told):
        SCAD(0.25, knee)


def test_a_step_as_long_as_a_minus_one_is_refused():
    told = r"proximal step of SCAD needs `knee` above \(1 \+ step size\) × strength = 0.95, but got knee=0.925"
    with pytest.raises(ConfigError, match=told):
        PENALTY.prox(Y, 2.8)
    assert PENALTY.prox(Y, 2.69).isfinite().all()
