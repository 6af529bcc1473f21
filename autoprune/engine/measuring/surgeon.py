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

__all__ = ["Read", "Reader", "added_damage", "measure_removals", "removals"]

_RIDGE = 1e-3  # Of the mean variance of what is read, as in compensation.
_MOST_READ = 1_200  # Numbers that a reader sees at once; what sees more is not taken to make up for anything.


@dataclass(eq=False)
class Read:
    """One layer that reads a group, in the course of removals: the part of it that is the group's, P = C · B positions.

    Args:
        weight: W as refitted so far, shape (O, P).
        inverse: Of H⁻¹ for all that the layer still reads, the group's part, shape (P, P).
        blocks: The positions of each channel, shape (C, B).
        whole: Mean square of what the layer says.
    """

    weight: Tensor
    inverse: Tensor
    blocks: Tensor
    whole: float


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer before anything is removed.

    Args:
        weight: W, shape (O, I · K).
        inverse: H⁻¹, shape (I · K, I · K).
        whole: Mean square of what it says.
    """

    weight: Tensor
    inverse: Tensor
    whole: float

    @classmethod
    def of(cls, weight: Tensor, moments: Tensor) -> Reader:
        """From the moments of what it reads, shape (I · K, I · K)."""
        ridge = _RIDGE * moments.diagonal().mean().clamp_min(1e-30)
        eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        whole = (weight @ moments * weight).sum().item()
        return cls(weight, torch.linalg.inv(moments + ridge * eye), whole)

    def of_group(self, blocks: Tensor) -> Read:
        """What is the group's of it: what else the layer reads stays, and is in H⁻¹ already.

        Args:
            blocks: The positions of each channel, shape (C, B).
        """
        positions = blocks.flatten()
        own = torch.arange(len(positions), device=positions.device).view(blocks.shape)
        return Read(self.weight[:, positions], self.inverse[positions][:, positions], own, self.whole)


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

    Depthwise layers hand channels on. Grouped convolutions, and layers that read more than 1,200 numbers at once (133
    channels by a 3 × 3 kernel), are not refitted: their damage is that of a plain cut.

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
    readers = {name: _reader(listener) for name, listener in listeners.items() if listener.has_heard}
    found = {}
    for group in traced.groups:
        fixed, reads = np.zeros((group.width, group.width)), list[Read]()
        for member in readers_of(model, group):
            if member.module not in readers:
                continue  # It is not called where others multiply with its weight.
            reader = readers[member.module]
            if reader is None:
                fixed += listeners[member.module].damages(member.index)
            else:
                size = len(reader.inverse) // listeners[member.module].n_inputs
                blocks = torch.from_numpy(member.index)[:, :, None] * size + torch.arange(size)
                reads.append(reader.of_group(blocks.flatten(1).to(reader.inverse.device)))
        found[group.name] = removals(reads, fixed)
    return found


def _reader(listener: Listener) -> Reader | None:
    known = listener.moments(most=_MOST_READ)
    return None if known is None else Reader.of(known[0].double(), known[1].double())
