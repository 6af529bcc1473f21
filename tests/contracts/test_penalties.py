"""What every penalty keeps: its value, gradient and proximal step belong to one function, which shrinks channels."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.engine.contracts import Penalty
from autoprune.penalties import PENALTIES
from tests.penalties.brute_force import minimiser, objective

torch.set_num_threads(1)

GRID = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-6, 0.4, 400, dtype=torch.float64)])
POINTS = torch.cat([GRID[50::7], -GRID[53::7]])  # away from the kink at 0
STEPS = (1.0, 0.5, 0.01)


@pytest.fixture(params=sorted(PENALTIES))
def penalty(request):
    return PENALTIES[request.param]()


def elementwise(penalty, x):
    return torch.func.vmap(penalty.value)(x[:, None])


def unsmoothed(penalty, **changes):
    """What the proximal step belongs to: a penalty that is smoothed at zero has it of its sharp form."""
    sharp = {"smoothing": 0.0} if hasattr(penalty, "smoothing") else {}
    return dataclasses.replace(penalty, **sharp, **changes)


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


@pytest.mark.parametrize("strength", [1e-4, 0.01, 0.15])
def test_prox_is_the_minimiser(penalty, strength):
    sharp = unsmoothed(penalty, strength=strength)
    for step in STEPS:
        for y in (0.004, 0.02, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0):
            (z,) = dataclasses.replace(penalty, strength=strength).prox(torch.tensor([y], dtype=torch.float64), step)
            assert z.item() == pytest.approx(minimiser(sharp, y, step), abs=1e-5)


@given(
    name=st.sampled_from(sorted(PENALTIES)),
    strength=st.floats(1e-6, 0.15),
    step=st.floats(0, 1),
    values=st.lists(st.floats(-3, 3), min_size=1, max_size=20),
)
def test_prox_is_never_worse_than_zero_or_staying(name, strength, step, values):
    penalty, y = PENALTIES[name](strength=strength), torch.tensor(values, dtype=torch.float64)
    z, sharp = penalty.prox(y, step), unsmoothed(penalty, strength=strength)
    reached = objective(sharp, z, y, step)
    rounding = 1e-14 * (1 + reached)
    assert (reached <= objective(sharp, torch.zeros_like(y), y, step) + rounding).all()
    assert (reached <= objective(sharp, y, y, step) + rounding).all()
    assert (z * y >= 0).all()
    assert (z.abs() <= y.abs()).all()


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


def test_arithmetic_is_float32_under_autocast(penalty):
    x = torch.cat([GRID, -GRID]).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = [penalty.value(x), penalty.gradient(x), penalty.prox(x, 0.5)]
    expected = [penalty.value(x), penalty.gradient(x), penalty.prox(x, 0.5)]
    assert all(
        torch.equal(one, other) and one.dtype == torch.float32 for one, other in zip(found, expected, strict=True)
    )


def test_float32_agrees_with_float64(penalty):
    x = GRID.float()
    for step in STEPS:
        exact = penalty.prox(x.double(), step)
        stays = (penalty.prox(x, step) > 0) & (exact > 0)  # at a jump, rounding may decide
        assert ((penalty.prox(x, step) > 0) == (exact > 0)).float().mean() >= 0.99
        torch.testing.assert_close(penalty.prox(x, step)[stays].double(), exact[stays], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(penalty.gradient(x).double(), penalty.gradient(x.double()), rtol=1e-5, atol=0)


def test_strength_is_a_factor_that_is_searched_where_a_space_asks_for_it(penalty):
    """Unasked, a method searches how far the strength comes within its phase."""
    field = next(field for field in dataclasses.fields(penalty) if field.name == "strength")
    assert field.metadata["search"] is None
    assert penalty.strength == field.default
