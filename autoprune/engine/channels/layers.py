"""What the prunable kinds of layers are, and how their axes are cut together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = [
    "PER_CONV_GROUP",
    "AxisName",
    "Kind",
    "axis_size",
    "axis_sizes",
    "conv_ties",
    "is_atomic",
    "is_per_conv_group",
    "kind_of",
    "norm_ties",
    "own_vectors",
    "reads",
    "set_number",
    "side_of",
]

AxisName = str
"""``"out"`` for what a layer writes and the vectors of a normalisation, ``"in"`` for what it reads. Else the name of a
module's own tensor: every element of it is a position, or, as ``"name[0]"`` and ``"name[1]"``, what the matrix writes
and reads. Or that of a whole number that counts channels."""

Kind = Literal["conv", "conv_transpose", "linear", "norm", "instance_norm", "layer_norm", "group_norm", "prelu"]

_KINDS: tuple[tuple[type[nn.Module], Kind], ...] = (
    (_ConvTransposeNd, "conv_transpose"),
    (_ConvNd, "conv"),
    (nn.Linear, "linear"),
    (_BatchNorm, "norm"),
    (_InstanceNorm, "instance_norm"),
    (nn.LayerNorm, "layer_norm"),
    (nn.RMSNorm, "layer_norm"),
    (nn.GroupNorm, "group_norm"),
    (nn.PReLU, "prelu"),
)
# What these do is known without looking into them; of a subclass with a `forward` of its own, each operator is.
_ATOMIC: frozenset[Callable[..., Any]] = frozenset(
    {
        nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward, nn.PReLU.forward,
        nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward, nn.InstanceNorm2d.forward,
        nn.ConvTranspose1d.forward, nn.ConvTranspose2d.forward, nn.ConvTranspose3d.forward,
    }
)  # fmt: skip


def kind_of(module: nn.Module) -> Kind | None:
    """What kind of prunable layer ``module`` is; None if surgery can't cut it."""
    kind = next((kind for kinds, kind in _KINDS if isinstance(module, kinds)), None)
    if kind in ("conv", "conv_transpose", "linear") and not isinstance(module._parameters.get("weight"), nn.Parameter):
        return None  # The weight is computed (weight norm, a parametrisation): slicing it would not last.
    if kind == "prelu" and isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return None
    if kind in ("layer_norm", "group_norm") and module._parameters.get("weight") is None:
        return None  # Nothing tells its operator from another's.
    if kind == "layer_norm" and len(getattr(module, "normalized_shape", ())) != 1:
        return None
    if kind == "conv_transpose" and isinstance(module, _ConvTransposeNd) and not _is_cut_in_one_way(module):
        return None
    return kind


def _is_cut_in_one_way(conv: _ConvTransposeNd) -> bool:
    return conv.groups == 1 or conv.groups == conv.in_channels == conv.out_channels


def is_atomic(module: nn.Module) -> bool:
    """Whether a prunable layer does what its class says and nothing else, so that it need not be looked into."""
    return type(module).forward in _ATOMIC


def reads(kind: Kind) -> bool:
    """Whether layers of this kind combine channels: they have what they read and what they write."""
    return kind in ("conv", "conv_transpose", "linear")


def axis_sizes(module: nn.Module) -> dict[AxisName, int]:
    """Sizes of the prunable axes of a prunable layer."""
    match module:
        case _ConvNd():
            return {"in": module.in_channels, "out": module.out_channels}
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case _BatchNorm() | _InstanceNorm():
            return {"out": module.num_features}
        case nn.LayerNorm() | nn.RMSNorm():
            return {"out": int(module.normalized_shape[0])}
        case nn.GroupNorm():
            return {"out": module.num_channels}
        case nn.PReLU():
            return {"out": module.num_parameters}
    raise AssertionError(f"{type(module).__name__} is no prunable layer")


def own_vectors(module: nn.Module) -> list[str]:
    """Tensors of a convolution with a `forward` of its own that hold a number for each output, such as gains."""
    if not isinstance(module, _ConvNd) or is_atomic(module):
        return []
    tensors = {**module._parameters, **module._buffers}
    return [
        name
        for name, tensor in tensors.items()
        if name not in ("weight", "bias") and tensor is not None and tensor.numel() == module.out_channels > 1
    ]


def axis_size(module: nn.Module, axis: AxisName) -> int:
    """Size of any axis of a module: of a layer, of one of its tensors, or of a number that counts channels."""
    if axis in ("in", "out"):
        return axis_sizes(module)[axis]
    if (side := side_of(axis)) is not None:
        return int(getattr(module, side[0]).shape[side[1]])
    value = number_of(module, axis) if "." in axis else getattr(module, axis)
    return value.numel() if isinstance(value, Tensor) else int(value)


def number_of(module: nn.Module, axis: AxisName) -> int:
    """The whole number that an axis is: one of the module, or, as ``"name.place"``, one of a list of it."""
    name, _, place = axis.partition(".")
    value = getattr(module, name)
    return int(value[int(place)] if place else value)


def set_number(module: nn.Module, axis: AxisName, value: Any) -> None:
    """Set an attribute, or the number of a list that is one."""
    name, _, place = axis.partition(".")
    if place:
        values = list(getattr(module, name))
        values[int(place)] = value
        value = type(getattr(module, name))(values)
    setattr(module, name, value)


def side_of(axis: AxisName) -> tuple[str, int] | None:
    """Tensor and dimension of an axis that is a side of a bare matrix; None for other axes."""
    name, bracket, dim = axis.rstrip("]").partition("[")
    return (name, int(dim)) if bracket else None


PER_CONV_GROUP = "cut_per_conv_group"
"""Attribute of a grouped layer that was cut: what `is_per_conv_group` says of it for ever."""


def is_per_conv_group(layer: _ConvNd | nn.GroupNorm) -> bool:
    """Whether channels of a grouped convolution leave by whole conv groups, as in a depthwise one.

    Otherwise they leave at the same offset of every conv group, and the number of conv groups stays. A convolution that
    was cut down to one channel a conv group looks like a depthwise one, so surgery leaves word of what it was. The
    same holds for the groups of a normalisation.
    """
    told: bool | None = getattr(layer, PER_CONV_GROUP, None)
    if told is not None:
        return told
    if isinstance(layer, nn.GroupNorm):
        return 1 < layer.num_groups == layer.num_channels
    return layer.groups > 1 and layer.groups in (layer.in_channels, layer.out_channels)


def conv_ties(conv: _ConvNd, inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of positions of a grouped convolution that must go together, shape (E, 2).

    Args:
        conv: The convolution.
        inputs: Ids of its input channels, shape (I,).
        outputs: Ids of its output channels, shape (O,).
    """
    if conv.groups == 1:
        return np.zeros((0, 2), dtype=np.int64)
    by_group = (inputs.reshape(conv.groups, -1), outputs.reshape(conv.groups, -1))
    sets = [np.concatenate(by_group, axis=1)] if is_per_conv_group(conv) else [side.T for side in by_group]
    return np.concatenate([_together(one) for one in sets])


def norm_ties(norm: nn.GroupNorm, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of channels of a group normalisation that must go together, so that its groups stay equally large.

    Args:
        norm: The normalisation.
        channels: Ids of its channels, shape (C,).

    Returns:
        Shape (E, 2): the channels at the same offset of every group. None where every channel is a group of its own.
    """
    if is_per_conv_group(norm) or norm.num_groups == 1:
        return np.zeros((0, 2), dtype=np.int64)
    return _together(channels.reshape(norm.num_groups, -1).T)


def _together(sets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs that tie each row's entries, shape (E, 2)."""
    return np.stack(np.broadcast_arrays(sets[:, :1], sets[:, 1:]), axis=-1).reshape(-1, 2)
