"""The contract of penalties, tried on numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.engine.contracts import Penalty
from autoprune.errors import ConfigError
from autoprune.testing._holding import hold

__all__ = ["check_penalty"]

_X = torch.tensor([0.0, 1e-3, 0.02, 0.1, 0.25, 0.4, 0.7, 1.0, 1.5, 3.0], dtype=torch.float64)
_SPREAD = 1e-6
_N_TRIED = 20_001


def check_penalty(penalty: Penalty, *, steps: tuple[float, ...] = (1e-3, 0.05), smoothing: float = 0.0) -> None:
    """Hold a penalty against its contract: value, sub-gradient and proximal step belong together.

    Args:
        penalty: With the hyper-parameters to be tried.
        steps: Lengths of proximal steps, > 0; one that the penalty refuses with ConfigError is left out.
        smoothing: The size of ``x`` below which value and gradient are smoothed while the proximal step is not; the
            proximal step is then not compared with the value.

    Raises:
        AssertionError: Something does not hold.
    """
    x = torch.cat([-_X[1:].flip(0), _X])
    value, gradient = penalty.value(x), penalty.gradient(x)
    hold(value.shape == () and bool(value >= 0), "the value must be a scalar >= 0")
    hold(gradient.shape == x.shape, "the gradient must have the shape of x")
    hold(bool((gradient[x == 0] == 0).all()), "the gradient must be 0 where x is 0")
    hold(torch.allclose(gradient, -penalty.gradient(-x)), "the penalty must treat x and -x alike")
    hold(bool((gradient * x >= 0).all()), "the gradient must pull toward 0")
    _compare_slopes(penalty, x[x.abs() > max(smoothing, 1e-2)])
    for kind in (torch.float32, torch.float64):
        hold(penalty.gradient(x.to(kind)).dtype == kind, f"the gradient of {kind} must be {kind}")
    for step in steps:
        try:
            moved = penalty.prox(x, step)
        except ConfigError:
            continue
        hold(moved.shape == x.shape, "the proximal step must keep the shape of x")
        hold(bool((moved.abs() <= x.abs() + 1e-12).all() and (moved * x >= 0).all()), "it must move x toward 0")
        hold(bool((moved[x == 0] == 0).all()), "the proximal step must leave 0 at 0")
        if not smoothing:
            _compare_minimum(penalty, x, moved, step)


def _compare_slopes(penalty: Penalty, x: Tensor) -> None:
    for at in x:
        ends = [penalty.value((at + shift).reshape(1)) for shift in (-_SPREAD, _SPREAD)]
        slope = (ends[1] - ends[0]) / (2 * _SPREAD)
        found = penalty.gradient(at.reshape(1))[0]
        near = torch.stack([penalty.gradient((at + shift).reshape(1))[0] for shift in (-1e-4, 1e-4)])
        room = 1e-5 + 1e-3 * abs(float(found)) + float(near.max() - near.min())  # A kink has more than one slope.
        hold(abs(float(slope - found)) <= room, f"the gradient at {float(at):g} must be the slope of the value")


def _compare_minimum(penalty: Penalty, x: Tensor, moved: Tensor, step: float) -> None:
    for at, to in zip(x, moved, strict=True):
        tried = torch.cat([torch.linspace(0, float(at), _N_TRIED, dtype=torch.float64), to.reshape(1)])
        penalties = torch.stack([penalty.value(each.reshape(1)) for each in tried[-1:]])
        best = _objective(penalty, tried[:-1], at, step).min()
        own = (to - at) ** 2 / 2 + step * penalties[0]
        aim = f"the proximal step from {float(at):g} must minimise (z - x)**2 / 2 + step * value(z), step {step:g}"
        hold(bool(own <= best + 1e-9), aim)


def _objective(penalty: Penalty, z: Tensor, at: Tensor, step: float) -> Tensor:
    values = torch.func.vmap(penalty.value)(z[:, None])
    return (z - at) ** 2 / 2 + step * values
