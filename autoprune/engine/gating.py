"""Factors for channels, where the layers that combine them read them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from autoprune.engine.channels import Traced, readers_of
from autoprune.errors import NetworkError

__all__ = ["Factors", "gate_readers"]

Factors = Callable[[str, int], Tensor | None]
"""What the channels of a group are multiplied by, ``factors(group, n)``: of shape (C,), or (N, C) with one row for each
example; ``n`` is how many rows are read, a multiple of N. None leaves them as they are."""


@dataclass(frozen=True, eq=False)
class _Read:
    """Where a layer reads the channels of a group."""

    group: str
    positions: Tensor  # (C * k,)
    times: int  # k


def gate_readers(model: nn.Module, traced: Traced, factors: Factors) -> list[RemovableHandle]:
    """Multiply every channel by a factor in whatever combines channels; depthwise layers hand them on.

    A factor of 0 does what removing the channel does, whatever lies between those who write it and those who read it.
    Gradients by the factors are there also for channels whose factor is 0.

    Args:
        model: Gets hooks; its weights are left as they are.
        traced: Its channel groups.
        factors: Asked anew by each reader in each pass.

    Returns:
        What takes the hooks out again.
    """
    reads: dict[str, list[_Read]] = {}
    for group in traced.groups:
        for member in readers_of(model, group):
            positions = torch.from_numpy(member.index).flatten()
            reads.setdefault(member.module, []).append(_Read(group.name, positions, member.index.shape[1]))
    return [
        model.get_submodule(name).register_forward_pre_hook(functools.partial(_gate, found=found, factors=factors))
        for name, found in reads.items()
    ]


def _gate(module: nn.Module, args: tuple[Any, ...], *, found: list[_Read], factors: Factors) -> tuple[Any, ...] | None:
    x = args[0]
    axis = 1 if isinstance(module, _ConvNd) else x.dim() - 1
    whole = None
    for read in found:
        factor = factors(read.group, len(x))
        if factor is None:
            continue
        rows = _rows(factor.to(x.dtype), len(x))
        if whole is None or len(rows) > len(whole):
            whole = x.new_ones(len(rows), x.shape[axis]) if whole is None else whole.expand(len(rows), -1)
        spread = rows.repeat_interleave(read.times, dim=1).expand(len(whole), -1)
        whole = whole.index_copy(1, read.positions.to(x.device), spread)
    if whole is None:
        return None
    shape = [len(whole), *[1] * (x.dim() - 1)]
    shape[axis] = x.shape[axis]
    return (x * whole.reshape(shape), *args[1:])


def _rows(factor: Tensor, n: int) -> Tensor:
    """A row for each of ``n`` rows that are read, or one for all; what is made of one example lies together."""
    if factor.dim() == 1:
        return factor[None]
    if n % len(factor):
        raise NetworkError(
            f"what a layer reads must have a row for each example, or several, but it has {n} rows for "
            f"{len(factor)} examples. Exclude the layer, or use a method that does not look at single examples."
        )
    return factor.repeat_interleave(n // len(factor), dim=0)
