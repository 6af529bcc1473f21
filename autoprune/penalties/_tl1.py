"""The transformed ℓ1 penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty

__all__ = ["TL1"]


@dataclass(frozen=True)
class TL1(Penalty):
    """TL1 (transformed ℓ1): steep near zero, ever flatter beyond; between ℓ0 and ℓ1.

    ``P(x) = strength * (bend + 1) |x| / (bend + |x|)``: near ℓ0 for a small ``bend``, near ℓ1 for a large one.

    Args:
        strength: λ, > 0; the penalty at ``|x| = 1``.
        bend: a, > 0; the ``|x|`` at which half of the limit ``strength * (bend + 1)`` is reached.

    Raises:
        ConfigError: A value out of range.

    References:
        Zhang and Xin (2018), Minimization of transformed L1 penalty, arXiv 1411.5735; its proximal step is from (2017),
        Transformed Schatten-1 iterative thresholding algorithms, arXiv 1506.04444. For slimming: Bui et al. (2021),
        Improving network slimming with nonconvex regularization, arXiv 2010.01242.
    """

    strength: float = option(1e-3, above=0, high=1)
    bend: float = option(1.0, above=0, high=1000, search={"values": (0.1, 0.5, 1.0, 10.0), "scale": "log"})

    def __post_init__(self) -> None:
        check(self)

    def value(self, x: Tensor) -> Tensor:
        """``strength * sum((bend + 1) |x| / (bend + |x|))``, a scalar."""
        size = x.abs()
        return self.strength * ((self.bend + 1) * size / (self.bend + size)).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * bend * (bend + 1) * sign(x) / (bend + |x|)**2``, shape (C,)."""
        return self.strength * self.bend * (self.bend + 1) * torch.sign(x) / (self.bend + x.abs()).square()

    def prox(self, x: Tensor, step: float) -> Tensor:
        """The root of a cubic in closed form; 0 up to a threshold, where it jumps if the penalty is strong.

        The published form, ``(2/3) (a + |x|) cos(φ/3) - 2a/3 + |x|/3`` with ``cos φ = 1 - 2u``, is the difference of
        nearly equal numbers for a small step. Here it is ``|x|`` minus what the step takes off.
        """
        strength, bend, size = step * self.strength, self.bend, x.abs()
        if strength <= bend**2 / (2 * (bend + 1)):
            threshold = strength * (bend + 1) / bend
        else:
            threshold = math.sqrt(2 * strength * (bend + 1)) - bend / 2
        reach = bend + size
        u = (27 / 4 * strength * bend * (bend + 1) / reach**3).clamp_max(1)
        left = size - 4 / 3 * reach * torch.sin(torch.asin(u.sqrt()) / 3).square()
        return torch.where(size > threshold, torch.sign(x) * left.clamp_min(0), 0.0)
