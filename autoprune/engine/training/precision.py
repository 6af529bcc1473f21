"""What is computed in more than the network's own precision."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["wide"]


def wide(values: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
