"""The compactor of ResRep: a trained matrix that loses rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.engine.contracts import Compactor

__all__ = ["Pointwise"]


class Pointwise(Compactor):
    """A 1×1 convolution without bias, the identity at first: each row of its matrix makes one channel.

    Args:
        width: C, the width of the group.

    References:
        Ding et al. (2021), ResRep: lossless CNN pruning via decoupling remembering and forgetting, arXiv 2007.03260.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, norm: _BatchNorm) -> Tensor:
        """``matrix @ x`` at each place."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def matrix(self) -> Tensor:
        """Its weight."""
        return self.weight.detach()
