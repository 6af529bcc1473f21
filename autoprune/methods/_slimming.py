"""Network slimming: a penalty on BatchNorm scales while training, channels ranked by what is left of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from autoprune.engine.contracts import Hooks, Method, Scores
from autoprune.engine.groups import Traced
from autoprune.errors import NetworkError
from autoprune.fields import check, option
from autoprune.importances import ScaleMagnitude
from autoprune.penalties import L1

__all__ = ["Slimming"]


@dataclass(frozen=True)
class Slimming(Method):
    """ℓ1 penalty on the scales γ of prunable channels, added to their gradient (so it passes through momentum).

    Args:
        strength: λ, the slope of the penalty, > 0.
        scale_decay: Weight decay of γ, >= 0; it pulls on top of the penalty, so it is chosen apart.

    References:
        Liu et al. (2017), arXiv 1708.06519. Only γ of prunable groups is penalised; the reference
        penalises every BatchNorm.
    """

    name: ClassVar[str] = "slimming"

    strength: float = option(1e-3, above=0, high=1, search={"low": 1e-4, "high": 1e-2, "scale": "log", "points": 5})
    scale_decay: float = option(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced) -> Hooks:
        """Find the scales; the network itself is not changed.

        Raises:
            NetworkError: No prunable channel passes through a BatchNorm.
        """
        names = sorted({f"{scale}.weight" for group in traced.groups for scale in group.scales})
        if not names:
            raise NetworkError(
                "slimming penalises BatchNorm scales, but no prunable channel passes through a BatchNorm. "
                "Use a method that ranks by filter norms."
            )
        scales = [model.get_parameter(name) for name in names]
        penalty = L1(self.strength)

        @torch.no_grad()
        def transform_gradients() -> None:
            for scale in scales:
                if scale.grad is not None:
                    scale.grad.add_(penalty.gradient(scale.float()).to(scale.grad.dtype))

        decay = dict.fromkeys(names, self.scale_decay)
        return Hooks(transform_gradients=transform_gradients, weight_decay=decay)

    def rank(self, model: nn.Module, traced: Traced) -> Scores:
        """``|γ|`` by group."""
        return {group.name: ScaleMagnitude().score(model, group) for group in traced.groups}
