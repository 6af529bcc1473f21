"""The ℓ1 penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty

__all__ = ["L1"]


@dataclass(frozen=True)
class L1(Penalty):
    """ℓ1: the same pull on every channel, large or small.

    ``P(x) = strength * |x|``

    Args:
        strength: λ, the slope, > 0.

    Raises:
        ConfigError: A value out of range.

    Example:
        >>> L1(0.5).value(torch.tensor([-2.0, 1.0]))
        tensor(1.5000)

    References:
        Liu et al. (2017), Learning efficient convolutional networks through network slimming, arXiv 1708.06519.
    """

    least_steps: ClassVar[int | None] = 1_400  # Before, most of the range of strengths moves the scales by little.

    strength: float = option(1e-3, above=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def value(self, x: Tensor) -> Tensor:
        """``strength * sum |x|``, a scalar."""
        return self.strength * x.abs().sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * sign(x)``, shape (C,)."""
        return self.strength * torch.sign(x)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Soft thresholding at ``step * strength``, shape (C,)."""
        return torch.sign(x) * (x.abs() - step * self.strength).clamp_min(0)
