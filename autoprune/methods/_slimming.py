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
        Liu et al. (2017), arXiv 1708.06519. Only γ of prunable channels is penalised; the reference
        penalises every BatchNorm. ``scale_decay`` is that of each BatchNorm that has such a channel.
    """

    name: ClassVar[str] = "slimming"

    strength: float = option(1e-3, above=0, high=1, search={"low": 1e-4, "high": 1e-2, "scale": "log", "points": 5})
    scale_decay: float = option(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced) -> Hooks:
        """Find the scales; the network itself is not changed.

        Raises:
            NetworkError: The channels of a group pass through no BatchNorm.
        """
        unscaled = [group.name for group in traced.groups if not group.scales]
        if unscaled:
            raise NetworkError(
                f"slimming needs a BatchNorm behind every prunable channel, but {', '.join(unscaled[:3])} has none. "
                "Add it to [network] `exclude`, or use a method that ranks by filter norms."
            )
        positions: dict[str, set[int]] = {}
        for group in traced.groups:
            for scale in group.scales:
                positions.setdefault(f"{scale}.weight", set()).update(group.member(scale).index.ravel().tolist())
        penalised = []
        for name, places in positions.items():
            gamma = model.get_parameter(name)
            prunable = torch.zeros(gamma.shape, device=gamma.device)
            prunable[sorted(places)] = 1.0
            penalised.append((gamma, prunable))
        penalty = L1(self.strength)

        @torch.no_grad()
        def transform_gradients() -> None:
            for gamma, prunable in penalised:
                if gamma.grad is not None:
                    gamma.grad.add_(penalty.gradient(gamma.float()).mul_(prunable).to(gamma.grad.dtype))

        decay = dict.fromkeys(positions, self.scale_decay)
        return Hooks(transform_gradients=transform_gradients, weight_decay=decay)

    def rank(self, model: nn.Module, traced: Traced) -> Scores:
        """``|γ|`` by group."""
        return {group.name: ScaleMagnitude().score(model, group) for group in traced.groups}
