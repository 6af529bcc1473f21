"""Importance by BatchNorm scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.errors import NetworkError
from autoprune.widths import Scores

__all__ = ["ScaleMagnitude", "require_scales"]


@dataclass(frozen=True)
class ScaleMagnitude(Importance):
    """Mean of ``|γ|`` over all BatchNorm scales of a channel.

    It is what slimming's penalty acts on. A channel has several scales where BatchNorms are coupled, or where it meets
    one more than once (conv groups, a concatenation that others read).

    References:
        Liu et al. (2017), arXiv 1708.06519. The mean over coupled BatchNorms is ours.
    """

    needs_scales: ClassVar[bool] = True

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Mean ``|γ|``, shape (C,).

        Raises:
            NetworkError: A group has no BatchNorm.
        """
        require_scales(traced)
        scores = {}
        for group in traced.groups:
            sizes = [_weight(model, name).detach().cpu().double().abs() for name in group.scales]
            places = [torch.from_numpy(group.member(name).index) for name in group.scales]
            each = torch.cat([size[place] for size, place in zip(sizes, places, strict=True)], dim=1)
            scores[group.name] = np.asarray(each.mean(1).numpy(), dtype=np.float64)
        return scores


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight  # A parameter, or the buffer of a normalisation that never trains.
    assert isinstance(weight, Tensor)
    return weight


def require_scales(traced: Traced) -> None:
    """Refuse channel groups that pass through no BatchNorm with scales.

    Raises:
        NetworkError: There is one; the first few are named.
    """
    unscaled = [group.name for group in traced.groups if not group.scales]
    if unscaled:
        raise NetworkError(
            "there must be a BatchNorm with scales behind every prunable channel, but there is none behind "
            f"{', '.join(unscaled[:3])}{f' and {len(unscaled) - 3} more' if len(unscaled) > 3 else ''}. Add what has "
            "none to [network] `exclude`, or use a method that looks at filters, such as magnitude."
        )
