"""The ℓ1 penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.engine.contracts import Penalty
from autoprune.fields import check, option

__all__ = ["L1"]


@dataclass(frozen=True)
class L1(Penalty):
    """Absolute value: the same pull on every scale, large or small.

    ``P(x) = lam * |x|``

    Args:
        lam: Strength, >= 0; the slope.

    Raises:
        ConfigError: ``lam < 0``.

    Example:
        >>> L1(0.5).value(torch.tensor([-2.0, 1.0]))
        tensor(1.5000)

    References:
        Liu et al. (2017), Learning efficient convolutional networks through network slimming, arXiv 1708.06519.
    """

    lam: float = option(1e-4, low=0)

    def __post_init__(self) -> None:
        check(self)

    def value(self, x: Tensor) -> Tensor:
        """Sum of ``lam * |x|``, a scalar."""
        return self.lam * x.abs().sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``lam * sign(x)``, shape (C,)."""
        return self.lam * torch.sign(x)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Soft thresholding at ``step * lam``, shape (C,)."""
        return torch.sign(x) * (x.abs() - step * self.lam).clamp_min(0)
