"""What every penalty keeps: its value, gradient and proximal step belong to one function, which shrinks channels."""

import dataclasses

import pytest
import torch

from autoprune.engine.contracts import Penalty
from autoprune.penalties import PENALTIES

torch.set_num_threads(1)

GRID = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-6, 0.4, 400, dtype=torch.float64)])
POINTS = torch.cat([GRID[50::7], -GRID[53::7]])  # away from the kink at 0
STEPS = (1.0, 0.5, 0.01)


@pytest.fixture(params=sorted(PENALTIES))
def penalty(request):
    return PENALTIES[request.param]()


def elementwise(penalty, x):
    return torch.func.vmap(penalty.value)(x[:, None])


def test_builds_from_its_defaults_and_is_frozen(penalty):
    assert isinstance(penalty, Penalty)
    for field in dataclasses.fields(penalty):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{field.name}'"):
            setattr(penalty, field.name, 0.0)
    assert penalty == type(penalty)(**dataclasses.asdict(penalty))


def test_value_is_zero_at_zero_even_and_rises(penalty):
    values = elementwise(penalty, GRID)
    assert values[0].item() == 0.0
    assert torch.equal(values, elementwise(penalty, -GRID))
    assert (values.diff() >= 0).all()
    assert values[-1] > 0


def test_value_is_the_sum_over_channels(penalty):
    assert penalty.value(POINTS).shape == ()
    torch.testing.assert_close(penalty.value(POINTS), elementwise(penalty, POINTS).sum(), rtol=1e-12, atol=0)


def test_gradient_equals_central_differences(penalty):
    h, gradient = 1e-6, penalty.gradient(POINTS)
    slopes = (elementwise(penalty, POINTS + h) - elementwise(penalty, POINTS - h)) / (2 * h)
    assert gradient.shape == POINTS.shape
    # Relative to the steepest slope too, which a weak default would hide below the absolute bound.
    assert float((gradient - slopes).abs().max()) <= 1e-6 * min(1.0, float(gradient.abs().max()))


def test_gradient_equals_that_of_autograd(penalty):
    x = POINTS.clone().requires_grad_()
    (automatic,) = torch.autograd.grad(penalty.value(x), x)
    torch.testing.assert_close(penalty.gradient(POINTS), automatic, rtol=1e-10, atol=1e-15)


def test_gradient_at_zero_is_zero(penalty):
    assert penalty.gradient(torch.zeros(3, dtype=torch.float64)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("step", STEPS)
def test_prox_is_the_minimiser(penalty, step):
    y = torch.cat([GRID[::9], torch.tensor([0.15, 0.3, 0.5, 0.8, 1.2, 2.0], dtype=torch.float64)])
    z = penalty.prox(y, step)
    assert z.shape == y.shape

    def objective(z, y):
        return (z - y) ** 2 / 2 + step * elementwise(penalty, z)

    reached = objective(z, y)
    rounding = 1e-14 * (1 + reached)
    assert (reached <= objective(torch.zeros_like(y), y) + rounding).all()
    assert (reached <= objective(y, y) + rounding).all()
    share = torch.linspace(-0.2, 1.2, 14_001, dtype=torch.float64)
    for goal, found, best in zip(y.tolist(), z.tolist(), reached.tolist(), strict=True):
        tried = objective(share * goal, torch.tensor(goal, dtype=torch.float64))
        assert best <= tried.min().item() * (1 + 1e-12) + 1e-20
        assert abs(found - share[tried.argmin()].item() * goal) <= 1e-4 * goal + 1e-12


@pytest.mark.parametrize("step", STEPS)
def test_prox_is_odd_and_keeps_the_order(penalty, step):
    z = penalty.prox(GRID, step)
    assert torch.equal(penalty.prox(-GRID, step), -z)
    assert z[0].item() == 0.0
    assert (z.diff() >= 0).all()
    assert (z <= GRID).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_and_argument_are_kept(penalty, dtype):
    x = torch.tensor([-0.5, 0.0, 0.7], dtype=dtype)
    before = x.clone()
    assert {penalty.value(x).dtype, penalty.gradient(x).dtype, penalty.prox(x, 0.5).dtype} == {dtype}
    assert torch.equal(x, before)
