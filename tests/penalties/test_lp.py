"""ℓp: the tables of its gradient and proximal step, its threshold, and calm at zero."""

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import Lp
from tests.penalties.brute_force import minimiser, vector

X = vector(-1.5, -0.5, 0.05, 0.2, 0.5, 2.0)
Y = vector(0.15, 0.30, 0.50, 0.80, 1.20, 2.00)
HALF = [-0.408248, -0.707107, 2.236068, 1.118034, 0.707107, 0.353553]
THREE_QUARTERS = [-0.677702, -0.891905, 1.586057, 1.121512, 0.891905, 0.630672]
SMOOTH = [-0.408235, -0.706895, 2.171251, 1.115942, 0.706895, 0.353547]


@pytest.mark.parametrize(
    ("power", "smoothing", "gradient", "value"),
    [(0.5, 0.0, HALF, 0.707107), (0.75, 0.0, THREE_QUARTERS, 0.594604), (0.5, 0.01, SMOOTH, 0.707177)],
)
def test_value_and_gradient(power, smoothing, gradient, value):
    penalty = Lp(1.0, power, smoothing)
    assert penalty.gradient(X).tolist() == pytest.approx(gradient, abs=1e-6)
    # The table's value is not shifted to be 0 at 0.
    assert penalty.value(vector(0.5)).item() + smoothing**power == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 1e-4, 1e-2])
def test_finite_at_zero(smoothing, dtype):
    tiny = torch.tensor([0.0, -0.0, 1e-30, -1e-38], dtype=dtype)
    gradient = Lp(1.0, 0.5, smoothing).gradient(tiny)
    assert gradient.isfinite().all()
    assert gradient[:2].tolist() == [0.0, 0.0]
    if smoothing:
        assert gradient.abs().max() < 1e-20
    assert Lp(1.0, 0.5, smoothing).value(tiny[:2]).item() == 0.0


def test_smoothing_bounds_the_gradient():
    """It is steepest at ``smoothing / sqrt(1 - power)``."""
    x = torch.logspace(-6, 1, 100_001, dtype=torch.float64)
    for smoothing in (1e-4, 1e-3, 1e-2):
        gradient = Lp(1.0, 0.5, smoothing).gradient(x)
        assert x[gradient.argmax()].item() == pytest.approx(smoothing * 2**0.5, rel=1e-3)
        assert gradient.max().item() == pytest.approx(0.5 * 2**0.5 * 3**-0.75 * smoothing**-0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (0.5, [0, 0, 0.423135, 0.741953, 1.153444, 1.964325]),
        (0.75, [0, 0.185758, 0.406045, 0.718539, 1.127212, 1.936421]),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_prox(power, smoothing, expected):
    assert Lp(0.1, power, smoothing).prox(Y, 1.0).tolist() == pytest.approx(expected, abs=1e-6)
    assert Lp(0.2, power, smoothing).prox(-Y, 0.5).tolist() == pytest.approx([-z for z in expected], abs=1e-6)
    for y, z in zip(Y.tolist(), expected, strict=True):
        assert minimiser(Lp(0.1, power, 0.0), y, 1.0) == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize(("power", "threshold"), [(0.5, 0.323165), (0.75, 0.227571)])
def test_threshold(power, threshold):
    below, above = Lp(0.1, power).prox(vector(threshold - 1e-6, threshold + 1e-6), 1.0).tolist()
    assert below == 0
    assert above == pytest.approx((0.2 * (1 - power)) ** (1 / (2 - power)), abs=1e-5)


@pytest.mark.parametrize("power", [0.1, 0.25, 0.5 + 1e-12, 0.75, 0.9, 0.99])
def test_newton_reaches_a_root_in_float64(power):
    """Also just above the threshold, where the root is nearly a double one."""
    y = torch.cat([torch.linspace(0.01, 3, 500, dtype=torch.float64)])
    for strength in (1e-6, 1e-3, 0.1, 1.0):
        z = Lp(strength, power).prox(y, 1.0)
        stays = z > 0
        assert stays.any()
        left = z[stays] + strength * power * z[stays] ** (power - 1)
        torch.testing.assert_close(left, y[stays], rtol=1e-14, atol=0)


def test_iteration_and_closed_form_agree():
    y = torch.linspace(0.33, 3, 500, dtype=torch.float64)
    torch.testing.assert_close(Lp(0.1, 0.5).prox(y, 1.0), Lp(0.1, 0.5 + 1e-13).prox(y, 1.0), rtol=1e-11, atol=0)


def test_a_step_of_length_zero_leaves_everything():
    for power in (0.3, 0.5):
        assert torch.equal(Lp(0.1, power).prox(Y, 0.0), Y)


@pytest.mark.parametrize(
    ("key", "value", "interval"),
    [("power", 0.0, r"\(0, 1\)"), ("power", 1.0, r"\(0, 1\)"), ("smoothing", -1e-3, r"\[0, 1\]")],
)
def test_out_of_range(key, value, interval):
    with pytest.raises(ConfigError, match=rf"`{key}` must be in {interval}, but got {key}={value}"):
        Lp(**{key: value})
