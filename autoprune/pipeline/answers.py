"""What a network answers, and that it answers the same after a change that must not show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import TrialError

__all__ = ["assert_same", "logits_of"]


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits in evaluation mode, in float64 on the CPU."""
    # In full float32: what TensorFloat-32 leaves out is more than what is compared here.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits: Tensor = model.eval()(inputs)
    return logits.cpu().double()  # Not every device has float64.


def assert_same(before: Tensor, after: Tensor, *, tolerance: float, what: str) -> float:
    """The largest difference of the logits, over the largest logit.

    Raises:
        TrialError: It is above ``tolerance``.
    """
    scale = before.abs().max().clamp_min(1e-12)
    difference = float(((before - after).abs().max() / scale).item())
    if not difference <= tolerance:
        raise TrialError(
            f"{what} must not change the network's answers, but they differ by {difference:.2e} of the largest logit "
            f"(allowed {tolerance:.0e}). This is a bug of the engine; please report it with the study file."
        )
    return difference
