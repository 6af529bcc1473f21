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
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.engine.attention import narrow_attention
from autoprune.engine.channels import (
    PER_CONV_GROUP,
    AxisName,
    ChannelGroup,
    Member,
    Traced,
    axis_size,
    axis_sizes,
    is_atomic,
    is_per_conv_group,
    own_vectors,
    set_number,
    side_of,
)
from autoprune.engine.silencing import OverKept, Scattered, told_by
from autoprune.errors import ConfigError, unknown_name
from autoprune.widths import Kept

__all__ = ["cut", "masked", "narrowed"]

_SLICED = ("weight", "bias", "running_mean", "running_var")
_SHOWN_LETTERS = 80


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
            plan = plans.get(name)
            if plan is not None and key in plan.tensors:
                copied = _elements(source, plan.tensors[key])
            elif plan is not None and plan.cuts and key in _SLICED:
                copied = plan.slice(source, is_weight=key == "weight")
            elif given is not None:
                copied = given.detach().clone()
            else:
                continue
            is_parameter = isinstance(value, nn.Parameter)
            memo[id(value)] = nn.Parameter(copied, requires_grad=value.requires_grad) if is_parameter else copied
    smaller = copy.deepcopy(model, memo)
    for name, plan in plans.items():
        for key, size in plan.attributes.items():
            set_number(smaller.get_submodule(name), key, size)
        narrow_attention(smaller.get_submodule(name))
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
    norms: dict[Tensor, tuple[nn.Module, Tensor]] = {}
    small: nn.Module | None = None
    with torch.no_grad():
        for name, axes in _remaining(model, groups, kept).items():
            module = modules[name]
            if isinstance(module, _ConvNd) and not is_atomic(module):
                small = cut(model, groups, kept) if small is None else small
                silenced.set_submodule(name, Scattered(small.get_submodule(name), axes["in"], axes["out"]))
                continue
            if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm) and "out" in axes:
                norms[told_by(module)] = module, torch.from_numpy(np.flatnonzero(axes["out"]))
            for axis, stays in axes.items():
                if (side := side_of(axis)) is not None and side[1] == 1:
                    getattr(module, side[0])[:, torch.from_numpy(np.flatnonzero(~stays))] = 0
            if "in" not in axes or axes["in"].all() or (isinstance(module, _ConvNd) and is_per_conv_group(module)):
                continue  # a depthwise layer hands silent channels on: their reader is further down
            weight = module.weight
            assert isinstance(weight, Tensor)
            gone = np.flatnonzero(~axes["in"])
            if isinstance(module, _ConvTransposeNd):
                weight[torch.from_numpy(gone)] = 0
            else:
                weight[:, torch.from_numpy(np.unique(gone % weight.shape[1]))] = 0
    return OverKept(silenced, norms) if norms else silenced


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
        index, stays = member.index[staying], remaining.get(member.module, {}).get(member.axis)
        return dataclasses.replace(member, index=index if stays is None else (np.cumsum(stays) - 1)[index])

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
                remaining[member.module] = {}
            axes, module = remaining[member.module], model.get_submodule(member.module)
            if member.axis not in axes:
                names = axis_sizes(module) if member.axis in ("in", "out") else (member.axis,)
                axes |= {axis: np.ones(axis_size(module, axis), dtype=np.bool_) for axis in names}
            axes[member.axis][member.index[gone].ravel()] = False
    return remaining


def _check(group: ChannelGroup, indices: NDArray[np.int64]) -> None:
    array = np.asarray(indices)
    fine = array.ndim == 1 and array.size and array.dtype.kind in "iu" and (np.diff(array) > 0).all()
    if not fine or array[0] < 0 or array[-1] >= group.width:
        raise ConfigError(
            f"the kept channels of {group.name!r} must be rising integers in 0 .. {group.width - 1}, at least "
            f"one, but got {_shown(array)}."
        )


def _shown(array: NDArray[Any]) -> str:
    text = str(array.tolist())
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one module is cut: kept rows and columns of a layer's tensors, kept elements of others, new attributes."""

    rows: Tensor | None
    columns: Tensor | None
    attributes: dict[str, Any]
    tensors: dict[str, NDArray[np.bool_]]

    @property
    def cuts(self) -> bool:
        """Whether it is a layer that loses channels."""
        return self.rows is not None or self.columns is not None

    def slice(self, value: Tensor, *, is_weight: bool) -> Tensor:
        """A copy of the kept part of one of the layer's tensors, in the memory format that it has."""
        sliced = value.detach()
        if self.rows is not None and len(self.rows) < value.shape[0]:
            sliced = sliced.index_select(0, self.rows.to(value.device))
        if is_weight and self.columns is not None and len(self.columns) < value.shape[1]:
            sliced = sliced.index_select(1, self.columns.to(value.device))
        is_last = value.dim() == 4 and not value.is_contiguous()
        is_last = is_last and value.is_contiguous(memory_format=torch.channels_last)
        wanted = torch.channels_last if is_last else torch.contiguous_format
        is_copy = sliced.data_ptr() != value.data_ptr()
        return sliced if is_copy and sliced.is_contiguous(memory_format=wanted) else sliced.clone(memory_format=wanted)


class _TransposedPlan(_Plan):
    """The same for a transposed convolution, whose weight has its inputs first, and whose vectors are its outputs'."""

    def slice(self, value: Tensor, *, is_weight: bool) -> Tensor:
        """A copy of the kept part of one of the layer's tensors."""
        rows, columns = (self.columns, self.rows) if is_weight else (self.rows, None)
        if is_weight and value.shape[1] == 1:
            columns = None  # Depthwise: what it writes is what it reads.
        return _Plan(rows, columns, {}, {}).slice(value, is_weight=is_weight)


def _of_both_sides(module: nn.Module, name: str, remaining: Mapping[AxisName, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """The elements of a bare matrix that stay, flat."""
    shape = getattr(module, name).shape
    rows, columns = (remaining.get(f"{name}[{dim}]", np.ones(shape[dim], dtype=np.bool_)) for dim in (0, 1))
    both = (rows[:, None] & columns).reshape(*shape[:2], *[1] * (len(shape) - 2))
    return np.broadcast_to(both, tuple(shape)).ravel()


def _elements(value: Tensor, stays: NDArray[np.bool_]) -> Tensor:
    """A copy of the kept elements of a tensor, which are whole slices of it."""
    mask = stays.reshape(value.shape)
    found = value.detach()
    for dim in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != dim)
        here = torch.from_numpy(np.flatnonzero(mask.any(axis=others)))
        if len(here) < value.shape[dim]:
            found = found.index_select(dim, here.to(value.device))
    return found.clone()


def _plans(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> dict[str, _Plan]:
    return {name: _plan(model.get_submodule(name), axes) for name, axes in _remaining(model, groups, kept).items()}


def _plan(module: nn.Module, remaining: Mapping[AxisName, NDArray[np.bool_]]) -> _Plan:
    keep = {axis: torch.from_numpy(np.flatnonzero(stays)) for axis, stays in remaining.items() if axis in ("in", "out")}
    own = {axis: stays for axis, stays in remaining.items() if axis not in keep and not side_of(axis)}
    tensors = {axis: stays for axis, stays in own.items() if isinstance(getattr(module, axis, None), Tensor)}
    attributes: dict[str, Any] = {axis: int(stays.sum()) for axis, stays in own.items() if axis not in tensors}
    for axis in remaining:
        if (side := side_of(axis)) is not None:
            tensors[side[0]] = _of_both_sides(module, side[0], remaining)
    if "out" in remaining:
        tensors |= dict.fromkeys(own_vectors(module), remaining["out"])
    if not keep:
        return _Plan(None, None, attributes, tensors)
    rows = keep["out"]
    match module:
        case _ConvNd():
            attributes |= {"in_channels": len(keep["in"]), "out_channels": len(rows)}
            kind = _TransposedPlan if isinstance(module, _ConvTransposeNd) else _Plan
            per_group = module.in_channels // module.groups
            if module.groups > 1:
                attributes[PER_CONV_GROUP] = is_per_conv_group(module)
            if is_per_conv_group(module):
                groups = {"groups": len(keep["in"]) // per_group}
                columns = keep["in"] if kind is _TransposedPlan else None
                return kind(rows, columns, attributes | groups, tensors)
            # The same offsets in every conv group.
            return kind(rows, keep["in"][keep["in"] < per_group], attributes, tensors)
        case nn.Linear():
            attributes |= {"in_features": len(keep["in"]), "out_features": len(rows)}
            return _Plan(rows, keep["in"], attributes, tensors)
        case nn.PReLU():
            attributes |= {"num_parameters": len(rows)}
        case nn.LayerNorm() | nn.RMSNorm():
            attributes |= {"normalized_shape": type(module.normalized_shape)([len(rows)])}
        case nn.GroupNorm():
            attributes |= {"num_channels": len(rows), PER_CONV_GROUP: is_per_conv_group(module)}
            if is_per_conv_group(module):
                attributes |= {"num_groups": len(rows)}
        case _:
            attributes |= {"num_features": len(rows)}
    return _Plan(rows, None, attributes, tensors)
