"""BatchNorm over the images of all processes that train one network together."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.engine.training.precision import wide

__all__ = ["synchronised"]


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is summed as well, since each of them adds to the loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Let the BatchNorms of a network that trains take their statistics over all processes while it runs within.

    torch's own ``SyncBatchNorm`` runs on accelerators only, and would take the place of modules that methods hold.

    Args:
        model: The same network in every process of the default group, each on images of its own; they may be of
            different numbers.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = functools.partial(_normalised, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What a BatchNorm answers to ``x``, shape (N, C, ...)."""
    if not norm.training:
        return type(norm).forward(norm, x)
    values = wide(x)
    across = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = values.new_full((1,), values.numel() / values.shape[1])
    sums = _Sum.apply(torch.cat([values.sum(across), count]))
    n, mean = sums[-1].detach(), sums[:-1] / sums[-1]
    centred = values - mean.view(shape)
    variance = _Sum.apply((centred * centred).sum(across)) / n  # In a second pass, which rounds less.
    with torch.no_grad():
        _remember(norm, mean, variance * (n / (n - 1)))
    found = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        found = found * norm.weight.view(shape) + norm.bias.view(shape)
    answer: Tensor = found.to(x.dtype)
    return answer


def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch does."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)
