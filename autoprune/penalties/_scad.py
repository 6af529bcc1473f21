"""The smoothly clipped absolute deviation penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty
from autoprune.errors import ConfigError

__all__ = ["SCAD"]


@dataclass(frozen=True)
class SCAD(Penalty):
    """SCAD (smoothly clipped absolute deviation): ℓ1 at first, then fading, and flat from a knee on.

    ``P(x) = strength * (min(|x|, strength) + u - u**2 / (2 (knee - strength)))`` with
    ``u = min(max(|x| - strength, 0), knee - strength)``

    Papers write ``a * lam`` for the knee; see `MCP` for why it is named here.

    Args:
        strength: λ, > 0; the slope at zero, and the ``|x|`` from which on it fades.
        knee: κ = aλ, the ``|x|`` from which on nothing pulls; greater than ``2 * strength`` (a > 2).

    Raises:
        ConfigError: A value out of range, or a knee at or below twice the strength.

    References:
        Fan and Li (2001), Variable selection via nonconcave penalized likelihood and its oracle properties, DOI
        10.1198/016214501753382273. For slimming: Bui et al. (2021), Improving network slimming with nonconvex
        regularization, arXiv 2010.01242.
    """

    strength: float = option(1e-3, above=0, high=1)
    knee: float = option(0.5, above=0, high=1000, search={"values": (0.1, 0.5, 1.0, 2.0), "scale": "log"})

    def __post_init__(self) -> None:
        check(self)
        if self.knee <= 2 * self.strength:
            raise ConfigError(
                f"`knee` must be greater than 2 × `strength` (a > 2 in a = knee / strength), but got knee={self.knee}, "
                f"strength={self.strength}. Raise the knee: it is the size of a scale that should be left alone."
            )

    @property
    def most_strength(self) -> float:
        """Just below half of the knee."""
        return min(1.0, 0.49 * self.knee)

    def value(self, x: Tensor) -> Tensor:
        """The sum over ``x``, a scalar."""
        size, fading = x.abs(), self.knee - self.strength
        beyond = (size - self.strength).clamp(0, fading)
        return self.strength * (size.clamp_max(self.strength) + beyond - beyond.square() / (2 * fading)).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * sign(x)`` times a factor that falls from 1 at ``strength`` to 0 at ``knee``, shape (C,)."""
        factor = ((self.knee - x.abs()) / (self.knee - self.strength)).clamp(0, 1)
        return self.strength * torch.sign(x) * factor

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Soft thresholding, then a line steeper than one, then ``x`` itself from the knee on, shape (C,).

        Raises:
            ConfigError: ``step >= knee / strength - 1``: the problem is not convex, and no line leads to the knee.
        """
        pull, fading = step * self.strength, self.knee - self.strength
        if pull >= fading:
            raise ConfigError(
                f"the proximal step of SCAD needs `knee` above (1 + step size) × strength = {pull + self.strength:g}, "
                f"but got knee={self.knee:g}. Raise the knee, or lower strength or learning rate."
            )
        taken = pull * ((self.knee - x.abs()) / (fading - pull)).clamp(0, 1)
        return torch.sign(x) * (x.abs() - taken).clamp_min(0)
