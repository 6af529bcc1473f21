"""The log-sum penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty

__all__ = ["LogSum"]


@dataclass(frozen=True)
class LogSum(Penalty):
    """LSP (log-sum penalty): steep near zero, and ever flatter beyond without a limit.

    ``P(x) = strength * log(1 + |x| / bend)``: its slope is ``strength / (bend + |x|)``.

    Args:
        strength: λ, > 0.
        bend: ε, > 0; the ``|x|`` at which the slope is half of that at zero, ``strength / bend``.

    Raises:
        ConfigError: A value out of range.

    References:
        Candès, Wakin and Boyd (2008), Enhancing sparsity by reweighted ℓ1 minimization, arXiv 0711.1612.
    """

    strength: float = option(1e-3, above=0, high=1)
    bend: float = option(0.1, above=0, high=1000, search={"values": (0.01, 0.1, 1.0), "scale": "log"})

    def __post_init__(self) -> None:
        check(self)

    def value(self, x: Tensor) -> Tensor:
        """``strength * sum(log(1 + |x| / bend))``, a scalar."""
        return self.strength * torch.log1p(x.abs() / self.bend).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * sign(x) / (bend + |x|)``, shape (C,)."""
        return self.strength * torch.sign(x) / (self.bend + x.abs())

    def prox(self, x: Tensor, step: float) -> Tensor:
        """The larger root of ``(|x| - z) (bend + z) = step * strength``, or 0 where that is better, shape (C,).

        As ``|x|`` minus what the step takes off, which is no difference of nearly equal numbers.
        """
        strength, size = step * self.strength, x.abs()
        reach = self.bend + size
        root = (reach.square() - 4 * strength).clamp_min(0).sqrt()
        left = (size - 2 * strength / (reach + root)).clamp_min(0)
        worth = (left - size).square() / 2 + strength * torch.log1p(left / self.bend) < size.square() / 2
        return torch.where((reach >= 2 * math.sqrt(strength)) & worth, torch.sign(x) * left, 0.0)
