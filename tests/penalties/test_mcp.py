"""MCP: the tables of its gradient and proximal step, its plateau, and what it refuses."""

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import L1, MCP
from tests.penalties.brute_force import minimiser, vector

PENALTY = MCP(0.25, 4 * 0.25)  # λ = 0.25, a = 4
X = vector(-1.5, -0.5, 0.05, 0.2, 0.5, 2.0)
Y = vector(0.15, 0.30, 0.50, 0.80, 1.20, 2.00)


def test_value_and_gradient():
    assert PENALTY.gradient(X).tolist() == pytest.approx([0, -0.125, 0.2375, 0.2, 0.125, 0], abs=1e-12)
    assert PENALTY.value(vector(0.5)).item() == pytest.approx(0.09375, abs=1e-12)
    assert [PENALTY.value(vector(x)).item() for x in (1.0, 2.0, -50.0)] == pytest.approx([0.125] * 3, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1.0, [0, 0.066667, 0.333333, 0.733333, 1.2, 2]),
        (0.5, [0.028571, 0.2, 0.428571, 0.771429, 1.2, 2]),
    ],
)
def test_prox(step, expected):
    assert PENALTY.prox(Y, step).tolist() == pytest.approx(expected, abs=1e-6)
    for y, z in zip(Y.tolist(), expected, strict=True):
        assert minimiser(PENALTY, y, step) == pytest.approx(z, abs=1e-5)


def test_beyond_the_knee_nothing_is_taken_off():
    x = vector(1.0, -1.0, 1.7, 400.0)
    assert torch.equal(PENALTY.prox(x, 1.0), x)
    assert PENALTY.gradient(x).tolist() == [0, 0, 0, 0]


def test_a_far_knee_is_l1():
    torch.testing.assert_close(MCP(0.25, 1000.0).prox(Y, 1.0), L1(0.25).prox(Y, 1.0), rtol=0, atol=1e-3)


def test_a_knee_of_half_a_scale_is_what_the_papers_call_thousands():
    """a = knee / strength; with the papers' default of 1 the penalty would end at a scale of 1e-4."""
    assert MCP(1e-4, 0.5).gradient(vector(0.25)).item() == pytest.approx(0.5e-4, rel=1e-12)


@pytest.mark.parametrize("knee", [0.25, 0.1])
def test_a_knee_within_the_strength_is_refused(knee):
    told = rf"`knee` must be greater than `strength` \(a > 1 .*\), but got knee={knee}, strength=0.25\. Raise the knee"
    with pytest.raises(ConfigError, match=told):
        MCP(0.25, knee)


@pytest.mark.parametrize("step", [4.0, 5.0])
def test_a_step_as_long_as_a_is_refused(step):
    with pytest.raises(ConfigError, match=r"proximal step of MCP needs `knee` above step size × strength = 1"):
        PENALTY.prox(Y, step)
    assert PENALTY.prox(Y, 3.99).isfinite().all()
