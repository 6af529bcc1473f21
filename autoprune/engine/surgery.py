"""Removes channels physically: what remains is a smaller dense network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import (
    PER_CONV_GROUP,
    AxisName,
    ChannelGroup,
    Member,
    Traced,
    axis_sizes,
    is_per_conv_group,
)
from autoprune.errors import ConfigError, unknown_name
from autoprune.widths import Kept

__all__ = ["cut", "masked", "narrowed"]

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


def narrowed(model: nn.Module, traced: Traced, kept: Kept) -> Traced:
    """What is known of the dense network, for the network that `cut` makes of it.

    To trace the smaller network would not do: a group of a single channel could not be told from one that can't be
    pruned.

    Args:
        model: The dense network that was traced.
        traced: Its channel groups and cost model.
        kept: What stays.

    Returns:
        The same groups by the same names, as wide as they are in the smaller network, whose cost is the dense one.
    """
    remaining = _remaining(model, traced.groups, kept)

    def moved(member: Member, staying: NDArray[np.int64]) -> Member:
        index, axes = member.index[staying], remaining.get(member.module)
        return dataclasses.replace(member, index=index if axes is None else (np.cumsum(axes[member.axis]) - 1)[index])

    groups = []
    for group in traced.groups:
        staying = np.asarray(kept.get(group.name, np.arange(group.width)))
        members = tuple(moved(member, staying) for member in group.members)
        groups.append(dataclasses.replace(group, width=len(staying), members=members))
    widths = {group.name: group.width for group in groups}
    cost = dataclasses.replace(traced.cost, dense=tuple(widths[name] for name in traced.cost.groups))
    return dataclasses.replace(traced, groups=tuple(groups), cost=cost)


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
    if not fine or array[0] < 0 or array[-1] >= group.width:
        raise ConfigError(
            f"the kept channels of {group.name!r} must be rising integers in 0 .. {group.width - 1}, at least "
            f"one, but got {array!r}."
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
            attributes: dict[str, int] = {"in_channels": len(keep["in"]), "out_channels": len(rows)}
            per_group = module.in_channels // module.groups
            if module.groups > 1:
                attributes[PER_CONV_GROUP] = is_per_conv_group(module)
            if is_per_conv_group(module):
                return _Plan(rows, None, attributes | {"groups": len(keep["in"]) // per_group})
            return _Plan(rows, keep["in"][keep["in"] < per_group], attributes)  # the same offsets in every conv group
        case nn.Linear():
            return _Plan(rows, keep["in"], {"in_features": len(keep["in"]), "out_features": len(rows)})
        case nn.PReLU():
            return _Plan(rows, None, {"num_parameters": len(rows)})
    return _Plan(rows, None, {"num_features": len(rows)})
