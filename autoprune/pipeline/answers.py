"""What a network answers, and that it answers the same after a change that must not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.engine.asking import Forward, answers, ask
from autoprune.errors import TrialError

__all__ = ["answers_of", "assert_same"]


def answers_of(model: nn.Module, inputs: Any, forward: Forward = ask) -> list[Tensor]:
    """What a network answers in evaluation mode, in float64 on the CPU.

    Args:
        model: Left in evaluation mode.
        inputs: On its device.
        forward: Runs it.
    """
    # In full float32: what TensorFloat-32 leaves out is more than what is compared here.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = answers(forward(model.eval(), inputs))
    return [tensor.cpu().double() for tensor in found]  # Not every device has float64.


def assert_same(before: Sequence[Tensor], after: Sequence[Tensor], *, tolerance: float, what: str) -> float:
    """The largest difference of the answers, over the largest number in them.

    Raises:
        TrialError: It is above ``tolerance``.
    """
    scale = max([float(tensor.abs().max()) for tensor in before if tensor.numel()], default=0.0)
    apart = [float((one - other).abs().max()) for one, other in zip(before, after, strict=True) if one.numel()]
    difference = _largest(apart) / max(scale, 1e-12)
    if not difference <= tolerance:
        raise TrialError(
            f"{what} must not change the network's answers, but they differ by {difference:.2e} of the largest logit "
            f"(allowed {tolerance:.0e}). This is a bug of the engine; please report it with the study file."
        )
    return difference


def _largest(values: Sequence[float]) -> float:
    return next((value for value in values if value != value), max(values, default=0.0))  # Not a number stays so.
