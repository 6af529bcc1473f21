"""What the prunable kinds of layers are, and how their axes are cut together."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = [
    "PER_CONV_GROUP",
    "AxisName",
    "Kind",
    "axis_sizes",
    "conv_ties",
    "counted_macs",
    "is_per_conv_group",
    "kind_of",
]

AxisName = Literal["out", "in"]
Kind = Literal["conv", "linear", "norm", "prelu"]

# A layer is known by its `forward`, so that subclasses that only change how weights are made are known too.
_FORWARDS: dict[Any, Kind] = {
    nn.Conv1d.forward: "conv",
    nn.Conv2d.forward: "conv",
    nn.Conv3d.forward: "conv",
    nn.Linear.forward: "linear",
    nn.BatchNorm2d.forward: "norm",  # one function serves 1, 2 and 3 dimensions
    nn.SyncBatchNorm.forward: "norm",
    nn.PReLU.forward: "prelu",
}


def kind_of(module: nn.Module) -> Kind | None:
    """What kind of prunable layer ``module`` is; None if surgery can't cut it."""
    kind = _FORWARDS.get(type(module).forward)
    if kind in ("conv", "linear") and not isinstance(module._parameters.get("weight"), nn.Parameter):
        return None  # the weight is computed (weight norm, a parametrisation): slicing it would not last
    if kind == "prelu" and isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return None
    return kind


def axis_sizes(module: nn.Module) -> dict[AxisName, int]:
    """Sizes of the prunable axes of a prunable layer."""
    match module:
        case _ConvNd():
            return {"in": module.in_channels, "out": module.out_channels}
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case _BatchNorm():
            return {"out": module.num_features}
        case nn.PReLU():
            return {"out": module.num_parameters}
    raise AssertionError(f"{type(module).__name__} is no prunable layer")


PER_CONV_GROUP = "cut_per_conv_group"
"""Attribute of a grouped convolution that was cut: what `is_per_conv_group` says of it for ever."""


def is_per_conv_group(conv: _ConvNd) -> bool:
    """Whether channels of a grouped convolution leave by whole conv groups, as in a depthwise one.

    Otherwise they leave at the same offset of every conv group, and the number of conv groups stays. A convolution that
    was cut down to one channel a conv group looks like a depthwise one, so surgery leaves word of what it was.
    """
    told: bool | None = getattr(conv, PER_CONV_GROUP, None)
    return conv.groups > 1 and conv.groups in (conv.in_channels, conv.out_channels) if told is None else told


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
    return np.concatenate(
        [np.stack(np.broadcast_arrays(one[:, :1], one[:, 1:]), axis=-1).reshape(-1, 2) for one in sets]
    )


def counted_macs(module: nn.Module, n_input: int, n_output: int) -> int:
    """MACs of one call of a convolution or linear layer that surgery can't cut; 0 for other modules.

    Args:
        module: The layer.
        n_input: Elements of its input, for a batch of one.
        n_output: Elements of its output.
    """
    match module:
        case _ConvTransposeNd():
            return n_input * module.out_channels // module.groups * int(np.prod(module.kernel_size))
        case _ConvNd():
            return n_output * module.in_channels // module.groups * int(np.prod(module.kernel_size))
        case nn.Linear():
            return n_output * module.in_features
    return 0
