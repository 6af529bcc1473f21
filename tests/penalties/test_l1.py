"""The ℓ1 penalty in closed form."""

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import L1


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


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
    for lam, step in ((0.25, 1.0), (0.5, 0.5), (25.0, 0.01)):
        assert L1(lam).prox(vector(y, -y), step).tolist() == pytest.approx([z, -z], abs=1e-12)


def test_no_strength_is_no_penalty():
    x = vector(-1.0, 0.0, 3.0)
    assert L1(0.0).value(x).item() == 0.0
    assert L1(0.0).gradient(x).tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(L1(0.0).prox(x, 1.0), x)


@pytest.mark.parametrize("lam", [-1e-9, float("nan"), float("inf")])
def test_strength_out_of_range(lam):
    with pytest.raises(ConfigError, match=r"`lam` must be at least 0, but got lam=(-1e-09|nan|inf)"):
        L1(lam)
