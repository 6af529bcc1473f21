"""Factors for channels, where the layers that combine them read them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from autoprune.engine.channels import Traced, readers_of
from autoprune.errors import NetworkError

__all__ = ["Factors", "channels_dropped", "gate_readers", "silence_readers"]

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


@torch.no_grad()
def silence_readers(model: nn.Module, traced: Traced, silent: Mapping[str, Tensor]) -> None:
    """Zero the weights with which channels are read: what factors of 0 did, they do.

    Args:
        model: Changed in place.
        traced: Its channel groups.
        silent: By group, whether each channel is to be silent, shape (C,); an absent group is left alone.
    """
    for group in traced.groups:
        if group.name not in silent:
            continue
        for member in readers_of(model, group):
            module = model.get_submodule(member.module)
            weight = module.weight
            assert isinstance(weight, Tensor)
            positions = torch.from_numpy(member.index)[silent[group.name].cpu().bool()].flatten().to(weight.device)
            if isinstance(module, _ConvTransposeNd):
                weight[positions] = 0
            else:
                weight[:, (positions % weight.shape[1]).unique()] = 0  # The same offsets in every conv group.


@contextmanager
def channels_dropped(model: nn.Module, traced: Traced, share: float) -> Iterator[None]:
    """While it lasts, training passes go without some of the channels of every group, others for each example.

    A channel is read as ``z x / (1 - p)`` with ``z = 0`` in a share p of all cases and 1 else, so its mean stays; all
    that read it in a pass agree. Evaluation is left alone. What is drawn comes from torch's own generator.

    Args:
        model: Gets hooks until the end.
        traced: Its channel groups.
        share: p, in [0, 1); 0 does nothing.

    References:
        Chen et al. (2018), DropFilter: dropout for convolutions, arXiv 1810.09849. Only prunable channels are dropped.
    """
    if not share:
        yield
        return
    widths = {group.name: group.width for group in traced.groups}
    device = next(model.parameters()).device
    drawn: dict[str, Tensor] = {}

    def draw(name: str, n: int) -> Tensor | None:
        if not (model.training and torch.is_grad_enabled()):
            return None
        if name not in drawn or n % len(drawn[name]):
            drawn[name] = (torch.rand(n, widths[name], device=device) >= share) / (1 - share)
        return drawn[name]

    def begin(module: nn.Module, args: Any) -> None:
        drawn.clear()

    handles = [model.register_forward_pre_hook(begin), *gate_readers(model, traced, draw)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
