"""Convolutions become grouped ones whose conv groups are chosen by their weights: connections go, not channels."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.errors import ConfigError, NetworkError, unknown_name

__all__ = ["RegroupedConv2d", "group_convolutions", "grouped_by_importance"]

_ROUNDS, _DIRECTIONS, _DRAWN = 20, 4, 8


class RegroupedConv2d(nn.Module):
    """A grouped convolution that reads its inputs, and writes its outputs, in an order of its own.

    Args:
        conv: The grouped convolution, I to O channels.
        inputs: Which channel it reads in each place, shape (I,).
        outputs: Which of its channels is written in each place, shape (O,).
    """

    inputs: Tensor
    outputs: Tensor

    def __init__(self, conv: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) → (N, O, ...)."""
        written: Tensor = self.conv(x.index_select(1, self.inputs)).index_select(1, self.outputs)
        return written


def grouped_by_importance(
    importance: NDArray[np.float64], n_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outputs and inputs in G groups of one size each, so that much of the importance lies within the groups.

    Outputs whose importance vectors are alike come together: at first by their place along a main direction of all
    vectors, then inputs and outputs in turn go where they have most, until nothing is won. Of several directions, and
    some orders by lot, the best end counts.

    Args:
        importance: Of every connection, shape (O, I), >= 0.
        n_groups: G, a divisor of O and of I.

    Returns:
        The group of each output, shape (O,), and of each input, shape (I,).
    """
    n = len(importance)
    directions = np.linalg.svd(importance - importance.mean(0), full_matrices=False)[0].T
    generator = np.random.default_rng(0)
    starts = [np.argsort(each, kind="stable") for each in directions[:_DIRECTIONS]]
    starts += [generator.permutation(n) for _ in range(_DRAWN)]
    found = []
    for order in starts:
        outputs = np.empty(n, dtype=np.int64)
        outputs[order] = np.arange(n) * n_groups // n
        found.append(_settled(importance, outputs, n_groups))
    return max(found, key=lambda pair: _within(importance, *pair))


def _settled(
    importance: NDArray[np.float64], outputs: NDArray[np.int64], n_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of outputs and inputs that nothing is won from moving again."""
    inputs = _shared(importance.T @ np.eye(n_groups)[outputs])
    for _ in range(_ROUNDS):
        moved = _shared(importance @ np.eye(n_groups)[inputs])
        back = _shared(importance.T @ np.eye(n_groups)[moved])
        if _within(importance, moved, back) <= _within(importance, outputs, inputs):
            break
        outputs, inputs = moved, back
    return outputs, inputs


def _within(importance: NDArray[np.float64], outputs: NDArray[np.int64], inputs: NDArray[np.int64]) -> float:
    return float(importance[outputs[:, None] == inputs].sum())


def _shared(gains: NDArray[np.float64]) -> NDArray[np.int64]:
    """A group for each of n, shape (n,), no group with more than n / G: the largest advantages choose first.

    Args:
        gains: What each would have in each group, shape (n, G).
    """
    n, n_groups = gains.shape
    chosen, room, left = np.full(n, -1, dtype=np.int64), np.full(n_groups, n // n_groups), gains.astype(np.float64)
    for _ in range(n):
        ranked = np.sort(left, axis=1)
        second = ranked[:, -2] if (room > 0).sum() > 1 else np.zeros(n)
        advantage = np.where(chosen < 0, ranked[:, -1] - second, -np.inf)
        one = int(advantage.argmax())
        chosen[one] = group = int(left[one].argmax())
        room[group] -= 1
        if not room[group]:
            left[:, group] = -np.inf
    return chosen


def group_convolutions(model: nn.Module, names: Collection[str], *, n_groups: int) -> nn.Module:
    """Turn convolutions into grouped ones, which keep the largest connections between groups of channels.

    The importance of a connection is the sum of its kernel's absolute weights. Each convolution then costs 1 / G of its
    MACs and weights, whatever the data, and what is read and written stays: no other layer changes. The network must be
    trained on afterwards.

    Args:
        model: Left as it is.
        names: Qualified names of convolutions (2D) without conv groups.
        n_groups: G, >= 2; a divisor of the channels that each of them reads and writes.

    Returns:
        A new network, with a `RegroupedConv2d` in the place of each. It can be traced for its cost, trained, and
        exported; channels that such a layer reads or writes can't be pruned any more, so widths are cut before.

    Raises:
        ConfigError: A name is none of a convolution, or G does not divide its channels.
        NetworkError: A convolution has conv groups already, or computes its weight.

    References:
        Guo et al. (2020), Self-grouping convolutional neural networks, arXiv 2009.13803, with groups of unequal
        sizes and by rounds of training. Groups of one size, which every kernel for grouped convolutions takes, and the
        search for them are ours.
    """
    grouped, modules = copy.deepcopy(model), dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise ConfigError(unknown_name("layer", name, modules))
        grouped.set_submodule(name, _regrouped(name, modules[name], n_groups))
    return grouped


@torch.no_grad()
def _regrouped(name: str, conv: nn.Module, n_groups: int) -> RegroupedConv2d:
    if type(conv) is not nn.Conv2d or conv.groups != 1 or "weight" not in conv._parameters:
        raise NetworkError(
            f"what is grouped must be a plain Conv2d without conv groups, but {name!r} is {type(conv).__name__}"
            f"{f' with {conv.groups}' if getattr(conv, 'groups', 1) != 1 else ''}. Leave it out."
        )
    if n_groups < 2 or conv.in_channels % n_groups or conv.out_channels % n_groups:
        raise ConfigError(
            f"`n_groups` must be at least 2 and divide the channels of {name!r}, {conv.in_channels} in and "
            f"{conv.out_channels} out, but is {n_groups}. Take another number, or leave the layer out."
        )
    importance = conv.weight.detach().abs().flatten(2).sum(2).cpu().double().numpy()
    of_outputs, of_inputs = grouped_by_importance(importance, n_groups)
    inputs, written = (torch.from_numpy(np.argsort(each, kind="stable")) for each in (of_inputs, of_outputs))
    small = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, n_groups,  # type: ignore[arg-type]
        conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
    )  # fmt: skip
    rows, columns = written.view(n_groups, -1), inputs.view(n_groups, -1)
    blocks = [conv.weight[row][:, column] for row, column in zip(rows, columns, strict=True)]
    small.weight.copy_(torch.cat(blocks))
    if conv.bias is not None and small.bias is not None:
        small.bias.copy_(conv.bias[written])
    small.weight.requires_grad_(conv.weight.requires_grad)
    small.train(conv.training)
    return RegroupedConv2d(small, inputs.to(conv.weight.device), torch.argsort(written).to(conv.weight.device))
