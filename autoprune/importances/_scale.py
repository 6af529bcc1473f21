"""Importance by BatchNorm scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.engine.contracts import Importance
from autoprune.engine.groups import ChannelGroup
from autoprune.errors import NetworkError

__all__ = ["ScaleMagnitude"]


@dataclass(frozen=True)
class ScaleMagnitude(Importance):
    """Mean of ``|γ|`` over all scales of a channel: what slimming's penalty acts on.

    A channel has several where BatchNorms are coupled, or where it meets one more than once (conv groups, a
    concatenation that others read).

    References:
        Liu et al. (2017), arXiv 1708.06519. The mean over coupled BatchNorms is ours.
    """

    def score(self, model: nn.Module, group: ChannelGroup) -> NDArray[np.float64]:
        """Mean ``|γ|``, shape (C,).

        Raises:
            NetworkError: The group has no BatchNorm.
        """
        if not group.scales:
            raise NetworkError(
                f"channel group {group.name!r} must have a BatchNorm to be ranked by its scale, but has none. "
                f"Add it to [network] `exclude`, or use a method that ranks by filter norms."
            )
        scales = [
            model.get_parameter(f"{name}.weight")
            .detach()
            .double()
            .abs()
            .cpu()[torch.from_numpy(group.member(name).index)]
            for name in group.scales
        ]
        return np.asarray(torch.cat(scales, dim=1).mean(1).numpy(), dtype=np.float64)
