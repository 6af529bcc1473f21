"""Removes channels physically: what remains is a smaller dense network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine._folding import fold_constants, silent_channels
from autoprune.engine._layers import AxisName, axis_sizes, is_per_conv_group
from autoprune.engine._records import ChannelGroup
from autoprune.errors import ConfigError, unknown_name

__all__ = [
    "Kept",
    "cut",
    "fold_constants",
    "masked",
    "min_widths",
    "named_optimizer_state",
    "silent_channels",
    "slice_optimizer_state",
    "widths_of",
]

Kept = Mapping[str, NDArray[np.int64]]
"""Sorted indices of the kept channels by group; an absent group keeps all."""

_SLICED = ("weight", "bias", "running_mean", "running_var")


def cut(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept, *, tensors: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Remove all channels that are not kept.

    Args:
        model: The dense network that ``groups`` were traced on; left as it is.
        groups: Its channel groups.
        kept: What stays.
        tensors: Dense weights to cut instead of the model's own, by name as in its ``state_dict``: spares loading them
            into a copy first. A name that is absent stands for the model's own.

    Returns:
        A new, smaller network, on the device of the weights, that keeps mode and ``requires_grad`` of every parameter.

    Raises:
        ConfigError: ``kept`` names no group of the network, its indices are not sorted, unique and within the group, or
            ``tensors`` are not those of the dense network.
    """
    plans = _plans(model, groups, kept)
    memo: dict[int, Any] = {}  # what deepcopy takes as copied already: the sliced tensors instead of the whole ones
    for name, module in model.named_modules():
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is None or id(value) in memo:
                continue
            given = None if tensors is None else tensors.get(f"{name}.{key}" if name else key)
            source = value if given is None else given
            if source.shape != value.shape:
                raise ConfigError(
                    f"the weights to cut must be those of the dense network, where {name}.{key} has shape "
                    f"{tuple(value.shape)}, but got {tuple(source.shape)}. Give the dense weights."
                )
            if name in plans and key in _SLICED:
                copied = plans[name].slice(source, is_weight=key == "weight")
            elif given is not None:
                copied = given.detach().clone()
            else:
                continue
            is_parameter = isinstance(value, nn.Parameter)
            memo[id(value)] = nn.Parameter(copied, requires_grad=value.requires_grad) if is_parameter else copied
    smaller = copy.deepcopy(model, memo)
    for name, plan in plans.items():
        for key, size in plan.attributes.items():
            setattr(smaller.get_submodule(name), key, size)
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
    silenced = copy.deepcopy(model)
    modules = dict(silenced.named_modules())
    with torch.no_grad():
        for name, axes in _remaining(model, groups, kept).items():
            module = modules[name]
            if "in" not in axes or axes["in"].all() or (isinstance(module, _ConvNd) and is_per_conv_group(module)):
                continue  # a depthwise layer hands silent channels on: their reader is further down
            weight = module.weight
            assert isinstance(weight, Tensor)
            gone = np.flatnonzero(~axes["in"])
            weight[:, torch.from_numpy(np.unique(gone % weight.shape[1]))] = 0
    return silenced


def widths_of(kept: Kept, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """The width of every group under ``kept``."""
    return {group.name: len(kept[group.name]) if group.name in kept else group.width for group in groups}


def min_widths(groups: Sequence[ChannelGroup], *, least: int = 1, least_ratio: float = 0.0) -> dict[str, int]:
    """The smallest widths that keep every group alive: what decisions about widths clamp to.

    Args:
        groups: The groups.
        least: Channels that each keeps at least, >= 1; a group that has fewer keeps them all.
        least_ratio: Share of the dense width that each keeps at least, in [0, 1].

    Returns:
        Widths by group, multiples of the group's step.
    """
    if least < 1 or not 0 <= least_ratio <= 1:
        raise ConfigError(
            f"`least` must be at least 1 and `least_ratio` in [0, 1], but got least={least}, least_ratio={least_ratio}."
        )
    wanted = {group.name: max(least, math.ceil(least_ratio * group.width)) for group in groups}
    return {group.name: min(group.width, -(-wanted[group.name] // group.step) * group.step) for group in groups}


def named_optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What an optimizer remembers (momentum, Adam's averages), by the name of the parameter.

    Optimizers number their parameters, and numbers do not survive surgery; names do.
    """
    return {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if p in optimizer.state}


def slice_optimizer_state(
    state: Mapping[str, Mapping[str, Any]], model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept
) -> dict[str, dict[str, Any]]:
    """What an optimizer of the network after surgery should remember.

    Args:
        state: By parameter name, as `named_optimizer_state` gives it for the dense network.
        model: The dense network.
        groups: Its channel groups.
        kept: What stays.

    Returns:
        The same entries: tensors of a parameter's shape are sliced as it is, counters are left alone. Assign them to
        ``optimizer.state[parameter]`` of the new optimizer.
    """
    plans = _plans(model, groups, kept)
    parameters = dict(model.named_parameters())
    sliced: dict[str, dict[str, Any]] = {}
    for name, entries in state.items():
        layer, _, leaf = name.rpartition(".")
        sliced[name] = {
            key: plans[layer].slice(value, is_weight=leaf == "weight")
            if layer in plans and isinstance(value, Tensor) and value.shape == parameters[name].shape
            else copy.deepcopy(value)
            for key, value in entries.items()
        }
    return sliced


def _remaining(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept
) -> dict[str, dict[AxisName, NDArray[np.bool_]]]:
    """Which positions remain, by module and axis, for the modules that lose any."""
    by_name = {group.name: group for group in groups}
    remaining: dict[str, dict[AxisName, NDArray[np.bool_]]] = {}
    for name, indices in kept.items():
        if name not in by_name:
            raise ConfigError(unknown_name("channel group", name, by_name))
        group = by_name[name]
        _check(group, indices)
        gone = np.ones(group.width, dtype=np.bool_)
        gone[indices] = False
        if not gone.any():
            continue
        for member in group.members:
            if member.module not in remaining:
                sizes = axis_sizes(model.get_submodule(member.module))
                remaining[member.module] = {axis: np.ones(size, dtype=np.bool_) for axis, size in sizes.items()}
            remaining[member.module][member.axis][member.index[gone].ravel()] = False
    return remaining


def _check(group: ChannelGroup, indices: NDArray[np.int64]) -> None:
    array = np.asarray(indices)
    fine = array.ndim == 1 and array.size and array.dtype.kind in "iu" and (np.diff(array) > 0).all()
    if not fine or array[0] < 0 or array[-1] >= group.width or len(array) % group.step:
        multiple = f", a multiple of {group.step} of them" if group.step > 1 else ""
        raise ConfigError(
            f"the kept channels of {group.name!r} must be rising integers in 0 .. {group.width - 1}, at least "
            f"one{multiple}, but got {array!r}."
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one layer is cut: kept rows and columns of its tensors, and its new attributes."""

    rows: Tensor
    columns: Tensor | None
    attributes: dict[str, int]

    def slice(self, value: Tensor, *, is_weight: bool) -> Tensor:
        """A copy of the kept part of one of the layer's tensors, in the memory format that it has."""
        sliced = value.detach()
        if len(self.rows) < value.shape[0]:
            sliced = sliced.index_select(0, self.rows.to(value.device))
        if is_weight and self.columns is not None and len(self.columns) < value.shape[1]:
            sliced = sliced.index_select(1, self.columns.to(value.device))
        is_last = value.dim() == 4 and not value.is_contiguous()
        is_last = is_last and value.is_contiguous(memory_format=torch.channels_last)
        wanted = torch.channels_last if is_last else torch.contiguous_format
        is_copy = sliced.data_ptr() != value.data_ptr()
        return sliced if is_copy and sliced.is_contiguous(memory_format=wanted) else sliced.clone(memory_format=wanted)


def _plans(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> dict[str, _Plan]:
    return {name: _plan(model.get_submodule(name), axes) for name, axes in _remaining(model, groups, kept).items()}


def _plan(module: nn.Module, remaining: Mapping[AxisName, NDArray[np.bool_]]) -> _Plan:
    keep = {axis: torch.from_numpy(np.flatnonzero(positions)) for axis, positions in remaining.items()}
    rows = keep["out"]
    match module:
        case _ConvNd():
            attributes = {"in_channels": len(keep["in"]), "out_channels": len(rows)}
            per_group = module.in_channels // module.groups
            if is_per_conv_group(module):
                return _Plan(rows, None, attributes | {"groups": len(keep["in"]) // per_group})
            return _Plan(rows, keep["in"][keep["in"] < per_group], attributes)  # the same offsets in every conv group
        case nn.Linear():
            return _Plan(rows, keep["in"], {"in_features": len(keep["in"]), "out_features": len(rows)})
        case nn.PReLU():
            return _Plan(rows, None, {"num_parameters": len(rows)})
    return _Plan(rows, None, {"num_features": len(rows)})
