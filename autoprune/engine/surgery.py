"""Removes channels physically: what remains is a smaller dense network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.engine._layers import axis_sizes, is_per_conv_group
from autoprune.engine._records import ChannelGroup
from autoprune.errors import ConfigError, unknown_name

__all__ = ["Kept", "cut", "masked", "widths_of"]

Kept = Mapping[str, NDArray[np.int64]]
"""Sorted indices of the kept channels by group; an absent group keeps all."""


def cut(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> nn.Module:
    """Remove all channels that are not kept.

    Args:
        model: The dense network that ``groups`` were traced on; left as it is.
        groups: Its channel groups.
        kept: What stays.

    Returns:
        A new, smaller network on the same device that keeps mode and ``requires_grad`` of every parameter.

    Raises:
        ConfigError: ``kept`` names no group of the network, or its indices are not sorted, unique and within the group.
    """
    removed = _removed(groups, kept)
    smaller = copy.deepcopy(model)
    modules = dict(smaller.named_modules())
    for name, axes in removed.items():
        _slice(modules[name], axes)
    return smaller


def masked(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> nn.Module:
    """The dense network with removed channels silenced: what `cut` must answer like.

    Every layer that reads a removed channel gets zero weights for it. Zeroing where channels are *written* would not
    do: a batch normalisation between writer and reader (pre-activation, DenseNet) turns zero into a constant.

    Args:
        model: The dense network; left as it is.
        groups: Its channel groups.
        kept: What is not silenced.

    Returns:
        A copy of the dense size.
    """
    removed = _removed(groups, kept)
    silenced = copy.deepcopy(model)
    modules = dict(silenced.named_modules())
    with torch.no_grad():
        for name, axes in removed.items():
            module = modules[name]
            gone = axes.get("in")
            if gone is None or (isinstance(module, _ConvNd) and is_per_conv_group(module)):
                continue  # a depthwise layer hands silent channels on: their reader is further down
            weight = module.weight
            assert isinstance(weight, Tensor)
            weight[:, torch.from_numpy(np.unique(gone % weight.shape[1]))] = 0
    return silenced


def widths_of(kept: Kept, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """The width of every group under ``kept``."""
    return {group.name: len(kept[group.name]) if group.name in kept else group.width for group in groups}


def _removed(groups: Sequence[ChannelGroup], kept: Kept) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Removed positions by module and axis."""
    by_name = {group.name: group for group in groups}
    removed: dict[str, dict[str, NDArray[np.int64]]] = {}
    for name, indices in kept.items():
        if name not in by_name:
            raise ConfigError(unknown_name("channel group", name, by_name))
        group = by_name[name]
        _check(group, indices)
        gone = np.setdiff1d(np.arange(group.width), indices)
        if not len(gone):
            continue
        for member in group.members:
            axes = removed.setdefault(member.module, {})
            before = axes.get(member.axis, np.zeros(0, dtype=np.int64))
            axes[member.axis] = np.union1d(before, member.index[gone].ravel())
    return removed


def _check(group: ChannelGroup, indices: NDArray[np.int64]) -> None:
    array = np.asarray(indices)
    fine = array.ndim == 1 and array.size and array.dtype.kind in "iu" and (np.diff(array) > 0).all()
    if not fine or array[0] < 0 or array[-1] >= group.width or len(array) % group.step:
        multiple = f", a multiple of {group.step} of them" if group.step > 1 else ""
        raise ConfigError(
            f"the kept channels of {group.name!r} must be rising integers in 0 .. {group.width - 1}, at least "
            f"one{multiple}, but got {array!r}."
        )


def _slice(module: nn.Module, removed: Mapping[str, NDArray[np.int64]]) -> None:
    keep = {
        axis: torch.from_numpy(np.setdiff1d(np.arange(size), removed.get(axis, np.zeros(0, dtype=np.int64))))
        for axis, size in axis_sizes(module).items()
    }
    width = len(keep["out"])
    match module:
        case _ConvNd():
            per_group = module.in_channels // module.groups
            columns = keep["in"][keep["in"] < per_group]  # the same offsets in every conv group
            if is_per_conv_group(module):
                columns = torch.arange(per_group)
                module.groups = len(keep["in"]) // per_group
            _replace(module, "weight", keep["out"], columns)
            _replace(module, "bias", keep["out"])
            module.in_channels, module.out_channels = len(keep["in"]), width
        case nn.Linear():
            _replace(module, "weight", keep["out"], keep["in"])
            _replace(module, "bias", keep["out"])
            module.in_features, module.out_features = len(keep["in"]), width
        case nn.PReLU():
            _replace(module, "weight", keep["out"])
            module.num_parameters = width
        case _BatchNorm():
            for name in ("weight", "bias", "running_mean", "running_var"):
                _replace(module, name, keep["out"])
            module.num_features = width


def _replace(module: nn.Module, name: str, rows: Tensor, columns: Tensor | None = None) -> None:
    """Slice a parameter or buffer in place of the old one; one that is absent stays absent."""
    value = getattr(module, name)
    if value is None:
        return
    if (columns is None or len(columns) == value.shape[1]) and len(rows) == value.shape[0]:
        return
    sliced = value.detach()[rows.to(value.device)]
    if columns is not None:
        sliced = sliced[:, columns.to(value.device)]
    if value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
        sliced = sliced.contiguous(memory_format=torch.channels_last)
    if isinstance(value, nn.Parameter):
        setattr(module, name, nn.Parameter(sliced.clone(), requires_grad=value.requires_grad))
    else:
        setattr(module, name, sliced.clone())
