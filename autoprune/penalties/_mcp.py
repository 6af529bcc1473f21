"""The minimax concave penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import check, option
from autoprune.engine.contracts import Penalty
from autoprune.errors import ConfigError

__all__ = ["MCP"]


@dataclass(frozen=True)
class MCP(Penalty):
    """MCP (minimax concave penalty): a pull that fades linearly and ends at a knee; its prox is firm shrinkage.

    ``P(x) = strength * (m - m**2 / (2 knee))`` with ``m = min(|x|, knee)``

    Papers write ``a * lam`` for the knee. With the strengths that suit BatchNorm scales, ``a`` would have to be in the
    thousands for the penalty to reach a scale of one half at all; a knee says where it ends.

    Args:
        strength: λ, the slope at zero, > 0.
        knee: κ = aλ, the ``|x|`` from which on nothing pulls; greater than ``strength`` (a > 1).

    Raises:
        ConfigError: A value out of range, or a knee at or below the strength.

    References:
        Zhang (2010), Nearly unbiased variable selection under minimax concave penalty, arXiv 1002.4734. For slimming:
        Bui et al. (2021), Improving network slimming with nonconvex regularization, arXiv 2010.01242.
    """

    strength: float = option(1e-3, above=0, high=1)
    knee: float = option(0.5, above=0, high=1000, search={"values": (0.1, 0.5, 1.0, 2.0), "scale": "log"})

    def __post_init__(self) -> None:
        check(self)
        if self.knee <= self.strength:
            raise ConfigError(
                f"`knee` must be greater than `strength` (a > 1 in a = knee / strength), but got knee={self.knee}, "
                f"strength={self.strength}. Raise the knee: it is the size of a scale that should be left alone."
            )

    @property
    def most_strength(self) -> float:
        """Just below the knee."""
        return min(1.0, 0.99 * self.knee)

    def value(self, x: Tensor) -> Tensor:
        """``strength * sum(m - m**2 / (2 knee))``, a scalar."""
        size = x.abs().clamp_max(self.knee)
        return self.strength * (size - size.square() / (2 * self.knee)).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``strength * sign(x) * max(1 - |x| / knee, 0)``, shape (C,)."""
        return self.strength * torch.sign(x) * (1 - x.abs() / self.knee).clamp_min(0)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Firm shrinkage: 0, then a line steeper than one, then ``x`` itself from the knee on, shape (C,).

        Raises:
            ConfigError: ``step >= knee / strength``: the problem is not convex, and no line leads to the knee.
        """
        share = step * self.strength / self.knee
        if share >= 1:
            raise ConfigError(
                f"the proximal step of MCP needs `knee` above step size × strength = {step * self.strength:g}, but got "
                f"knee={self.knee:g}. Raise the knee, or lower strength or learning rate."
            )
        taken = step * self.strength * (1 - x.abs() / self.knee).clamp_min(0) / (1 - share)
        return torch.sign(x) * (x.abs() - taken).clamp_min(0)
