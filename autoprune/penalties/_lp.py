"""The ℓp penalty, 0 < p < 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty

__all__ = ["Lp"]

_NEWTON_STEPS = 12  # Each doubles the correct digits; from the worst start, the threshold, 8 reach float64's last.


@dataclass(frozen=True)
class Lp(Penalty):
    """ℓp (p < 1): the nearer to zero, the stronger the pull; smoothed at zero.

    ``P(x) = strength * ((x**2 + smoothing**2)**(power / 2) - smoothing**power)``

    Without smoothing the slope grows without bound near zero, and a scale that lands there by chance is kicked far off.
    The proximal step has no such trouble: it is that of ``strength * |x|**power``, with exact zeros.

    Args:
        strength: λ, > 0; the penalty at ``|x| = 1``.
        power: p, in (0, 1).
        smoothing: ε, >= 0; the width of the smoothed part in value and gradient. With 0 the gradient at 0 is 0.

    Raises:
        ConfigError: A value out of range.

    References:
        Bui et al. (2021), Improving network slimming with nonconvex regularization, arXiv 2010.01242; the smoothing is
        ours. Proximal step for p = 1/2: Xu et al. (2012), L1/2 regularization, DOI 10.1109/TNNLS.2012.2197412.
    """

    strength: float = option(1e-3, above=0, high=1)
    power: float = option(0.5, above=0, below=1, search={"values": (0.25, 0.5, 0.75)})
    smoothing: float = option(1e-2, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def value(self, x: Tensor) -> Tensor:
        """``strength * sum((x**2 + smoothing**2)**(power / 2) - smoothing**power)``, a scalar."""
        origin = torch.full_like(x, self.smoothing)
        return self.strength * (torch.hypot(x, origin) ** self.power - origin**self.power).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * power * x * (x**2 + smoothing**2)**(power / 2 - 1)``, 0 at 0, shape (C,)."""
        reach = torch.hypot(x, torch.full_like(x, self.smoothing))
        slope = self.strength * self.power * (x / reach) * reach ** (self.power - 1)
        return torch.where(x == 0, 0.0, slope)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """That of ``|x|**power``: 0 up to a threshold and a jump there; closed for p = 1/2, else Newton's iteration."""
        strength, p, size = step * self.strength, self.power, x.abs()
        if strength == 0:
            return x.clone()
        jump = (2 * strength * (1 - p)) ** (1 / (2 - p))  # what the smallest value that stays is left with
        threshold = jump + strength * p * jump ** (p - 1)
        large = size.clamp_min(threshold)
        if p == 0.5:
            # The published (2/3) x (1 + cos(2π/3 - (2/3) arccos v)), as |x| minus what the step takes off.
            half = torch.asin(strength / 4 * (large / 3) ** -1.5) / 3
            left = large - 4 / 3 * large * torch.sin(math.pi / 3 + half) * torch.sin(half)
        else:
            left = large.clone()
            for _ in range(_NEWTON_STEPS):  # z + strength p z**(p - 1) = |x|: convex, so it falls to the larger root.
                pull = strength * p * left ** (p - 1)
                left = left - (left + pull - large) / (1 - (1 - p) * pull / left)
        return torch.where(size > threshold, torch.sign(x) * torch.minimum(left, size), 0.0)
