"""Firm shrinkage is the proximal step of MCP."""

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.penalties import MCP, firm
from tests.penalties.brute_force import vector


def test_it_is_mcp():
    assert firm(0.25, curvature=0.5) == MCP(0.25, 1 / (2 * 0.5 * 0.25) * 0.25)


def test_shrinkage():
    b, zeta = 0.25, 0.5
    x = vector(0.1, 0.25, 0.3, 0.5, 0.8, 1.0, 1.7)
    expected = torch.where(x <= b, 0.0, torch.where(x <= 1 / (2 * zeta), (x - b) / (1 - 2 * b * zeta), x))
    torch.testing.assert_close(firm(b, curvature=zeta).prox(x, 1.0), expected, rtol=0, atol=1e-15)
    assert expected.tolist() == pytest.approx([0, 0, 0.066667, 0.333333, 0.733333, 1.0, 1.7], abs=1e-6)


def test_value_and_gradient():
    penalty, x = firm(0.25, curvature=0.5), vector(0.4)
    assert penalty.value(x).item() == pytest.approx(0.25 * (0.4 - 0.5 * 0.4**2), rel=1e-12)
    assert penalty.value(vector(7.0)).item() == pytest.approx(0.25 / (4 * 0.5), rel=1e-12)
    assert penalty.gradient(x).item() == pytest.approx(0.25 * (1 - 2 * 0.5 * 0.4), rel=1e-12)


@pytest.mark.parametrize("curvature", [0.0, -1.0, float("nan")])
def test_no_curvature_is_refused(curvature):
    with pytest.raises(ConfigError, match=r"`curvature` must be greater than 0, but got .* With 0 it is L1"):
        firm(0.25, curvature=curvature)
