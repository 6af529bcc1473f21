"""MACs by the operators that run, counted apart from the package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["count_macs"]


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name == "convolution":
            x, weight, transposed = args[0], args[1], args[6]
            self.macs += (x if transposed else out).numel() * weight[0].numel()
        elif name in ("mm", "bmm", "mv"):
            self.macs += args[0].numel() * (args[1].shape[-1] if args[1].dim() > 1 else 1)
        elif name in ("addmm", "baddbmm"):
            self.macs += args[1].numel() * args[2].shape[-1]
        elif name.startswith("_scaled_dot_product"):
            q, k, v = args[:3]
            scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
            self.macs += scores * (q.shape[3] + v.shape[3])
        return out


def count_macs(model: nn.Module, x: Tensor) -> int:
    """MACs of one pass: every convolution and product of matrices, whoever calls it."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _Counting() as counting:
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    return counting.macs
