"""The ℓ1 penalty in closed form."""

import pytest

from autoprune.errors import ConfigError
from autoprune.penalties import L1
from tests.penalties.brute_force import minimiser, vector


@pytest.mark.parametrize("x", [-1.5, -0.5, 0.05, 0.2, 0.5, 2.0])
def test_value_and_gradient(x):
    assert L1(1.0).value(vector(x)).item() == abs(x)
    assert L1(1.0).gradient(vector(x)).item() == (1.0 if x > 0 else -1.0)


def test_the_value_is_a_sum():
    assert L1(0.5).value(vector(-2.0, 1.0, 0.0)).item() == 1.5
    assert L1(0.5).value(vector()).item() == 0.0


@pytest.mark.parametrize(("y", "z"), [(0.15, 0.0), (0.30, 0.05), (0.50, 0.25), (0.80, 0.55), (1.20, 0.95), (2.0, 1.75)])
def test_prox(y, z):
    """Soft thresholding at 0.25, however strength and step share it."""
    for strength, step in ((0.25, 1.0), (0.5, 0.5), (1.0, 0.25)):
        assert L1(strength).prox(vector(y, -y), step).tolist() == pytest.approx([z, -z], abs=1e-12)
    assert minimiser(L1(0.25), y, 1.0) == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize("strength", [0.0, -1e-9, 1.5, float("nan"), float("inf")])
def test_strength_out_of_range(strength):
    with pytest.raises(ConfigError, match=rf"`strength` must be in \(0, 1\], but got strength={strength}"):
        L1(strength)
