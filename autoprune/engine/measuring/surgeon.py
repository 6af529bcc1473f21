"""Damage at the next layer that is left once the readers make up for it: the optimal brain surgeon, by channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.engine.channels import Traced, readers_of
from autoprune.engine.contracts import Batches
from autoprune.engine.measuring.damage import Listener, listened

__all__ = ["Read", "added_damage", "measure_removals", "removals"]

_RIDGE = 1e-3  # Of the mean variance of what is read, as in compensation.
_MOST_READ = 5_000  # Numbers that a reader sees at once; what sees more is not taken to make up for anything.


@dataclass(eq=False)
class Read:
    """One layer that reads a group, in the course of removals.

    Args:
        weight: W as refitted so far, shape (O, P).
        inverse: Of the moments of what is read, on the positions that are left, shape (P, P).
        blocks: The positions of each channel, shape (C, B).
        whole: Mean square of what the layer says.
    """

    weight: Tensor
    inverse: Tensor
    blocks: Tensor
    whole: float

    @classmethod
    def of(cls, weight: Tensor, moments: Tensor, blocks: Tensor) -> Read:
        """A layer before anything is removed.

        Args:
            weight: W, shape (O, P).
            moments: Of what is read, shape (P, P).
            blocks: The positions of each channel, shape (C, B).
        """
        ridge = _RIDGE * moments.diagonal().mean().clamp_min(1e-30)
        eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        whole = (weight @ moments * weight).sum().item()
        return cls(weight, torch.linalg.inv(moments + ridge * eye), blocks, whole)


def added_damage(read: Read, left: Tensor) -> Tensor:
    """``tr(W_c (H⁻¹_cc)⁻¹ W_cᵀ) / ‖z‖²`` of every channel that is left, shape (C,); infinite for the others.

    Args:
        read: The layer.
        left: Which channels are there, shape (C,).
    """
    own = _own_blocks(read, left)
    weights = read.weight[:, read.blocks].movedim(0, 1)  # (C, O, B)
    damage = (weights @ torch.linalg.inv(own) * weights).sum((1, 2)) / (read.whole or 1.0)
    return torch.where(left, damage.clamp_min(0), torch.inf)


def _own_blocks(read: Read, left: Tensor) -> Tensor:
    """H⁻¹_cc of every channel, shape (C, B, B); the identity where one is gone."""
    own = read.inverse[read.blocks[:, :, None], read.blocks[:, None, :]]
    eye = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device).expand_as(own)
    return torch.where(left[:, None, None], own, eye)


def _remove(read: Read, channel: int) -> None:
    """Refit what is left to say what it said, without one more channel."""
    block = read.blocks[channel]
    rows = torch.linalg.solve(read.inverse[block][:, block], read.inverse[block])  # (H⁻¹_cc)⁻¹ H⁻¹_c
    read.weight = read.weight - read.weight[:, block] @ rows
    read.inverse = read.inverse - read.inverse[:, block] @ rows


def removals(reads: Sequence[Read], fixed: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The channels in the order in which each next one adds the least damage, and what each adds; both of shape (C,).

    Args:
        reads: The layers that make up for channels; changed.
        fixed: Damages at those that do not, shape (C, C); see `widths.Damages`.
    """
    width, order, added = len(fixed), [], []
    left = np.ones(width, dtype=np.bool_)
    constant = np.diag(fixed).copy()
    for _ in range(width):
        device_left = torch.from_numpy(left)
        damage = np.where(left, constant, np.inf)
        for read in reads:
            damage = damage + added_damage(read, device_left.to(read.weight.device)).cpu().double().numpy()
        channel = width - 1 - int(damage[::-1].argmin())  # Ties leave from the end.
        order.append(channel)
        added.append(max(float(damage[channel]), 0.0))
        left[channel] = False
        constant += 2 * fixed[channel]
        for read in reads:
            _remove(read, channel)
    return np.array(order, dtype=np.int64), np.array(added)


@torch.no_grad()
def measure_removals(
    model: nn.Module, traced: Traced, *, batches: Batches
) -> Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """`removals` of every group, each layer's moments measured once.

    Depthwise layers hand channels on. Grouped convolutions, and layers that read more than 5,000 numbers at once, are
    not refitted: their damage is that of a plain cut.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.

    Raises:
        DataError: There is no batch.

    References:
        Hassibi and Stork (1993), Second order derivatives for network pruning: optimal brain surgeon; layer by layer by
        Dong et al. (2017), arXiv 1705.07565.
    """
    listeners = listened(model, traced, batches=batches)
    found = {}
    for group in traced.groups:
        fixed, reads = np.zeros((group.width, group.width)), list[Read]()
        for member in readers_of(model, group):
            listener = listeners[member.module]
            if not listener.has_heard:
                continue
            read = _read(listener, member.index)
            if read is None:
                fixed += listener.damages(member.index)
            else:
                reads.append(read)
        found[group.name] = removals(reads, fixed)
    return found


def _read(listener: Listener, index: NDArray[np.int64]) -> Read | None:
    known = listener.moments(most=_MOST_READ)
    if known is None:
        return None
    weight, moments = known
    size = moments.shape[0] // listener.n_inputs
    blocks = torch.from_numpy(index)[:, :, None] * size + torch.arange(size)
    return Read.of(weight.double(), moments.double(), blocks.flatten(1).to(moments.device))
