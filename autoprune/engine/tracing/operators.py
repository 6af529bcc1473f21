"""Which operator is what: the rule that moves its labels, the kind of layer that it is the work of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoprune.engine.tracing.calls import Call, all_fixed
from autoprune.engine.tracing.rules import (
    VIEWS,
    batch_norm,
    glu,
    mix_along,
    move,
    over_channels,
    pad,
    pointwise,
    pool,
    reduce,
    restride,
    split,
)

__all__ = ["TO_PYTHON", "Rule", "convolution_macs", "find_rule", "is_convolution", "is_shape_only", "operator_kinds"]

TO_PYTHON = frozenset({"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item"})
"""Operators whose result has a shape or a Python value that depends on the data."""

_MOVES = {
    *VIEWS, "permute", "transpose", "t", "expand", "slice", "select",
    "unbind", "cat", "stack", "squeeze", "unsqueeze", "flip", "roll", "index_select", "narrow", "repeat",
    "channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "diagonal", "index", "rot90",
}  # fmt: skip
_NEW = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
_SPLITS = {"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk"}
_SAME = {"clone", "detach", "alias", "_to_copy", "lift_fresh", "contiguous", "native_dropout"}
# Elementwise operators that torch does not tag as such, and those whose result has the size of their argument.
_POINTWISE = {
    "hardswish", "hardtanh", "hardsigmoid", "leaky_relu", "relu6", "elu", "celu", "selu", "mish", "silu", "softplus",
    "_prelu_kernel", "log_sigmoid_forward", "threshold", "clamp", "where", "zeros_like", "ones_like", "full_like",
    "empty_like", "rand_like", "randn_like",
}  # fmt: skip
_POOLS = re.compile(r"^_?(adaptive_)?(max|avg)_pool|^_?upsample_|^reflection_pad|^replication_pad")
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "aminmax", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp",
    "linalg_vector_norm", "norm", "argmax", "argmin", "any", "all",
}  # fmt: skip
_ALONG = {"_softmax", "_safe_softmax", "_log_softmax", "cumsum", "cumprod", "sort"}

Rule = Callable[[Call], Any]
"""From a call to the labels of its outputs; None where channels can't be followed."""


def find_rule(call: Call) -> Rule | None:
    """The rule of an operator; None for one that is not known to keep channels apart."""
    base = call.base
    if base in _NEW:
        return lambda call: all_fixed(call.output.shape)
    if base in _MOVES:
        return move
    if torch.Tag.pointwise in call.func.tags or base in _POINTWISE:
        return pointwise
    if call.tensors[0] not in call.ledger.labels:
        return None  # All others go by what they are first of all given.
    if base in _SAME:
        return lambda call: call.for_outputs(call.first)
    if base in _SPLITS:
        return split
    if base == "as_strided":
        return restride
    if base == "glu":
        return glu
    if "norm" in _LAYERS.get(base, ()):
        return batch_norm
    if base == "constant_pad_nd":
        return pad
    if base in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
        return over_channels
    if _POOLS.match(base):
        return pool
    if base in _REDUCTIONS and not (base in ("max", "min") and len(call.tensors) > 1):
        return reduce
    return mix_along if base in _ALONG else None


_CONVOLUTIONS = {"convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution"}
_LAYERS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_CONVOLUTIONS, frozenset({"conv", "conv_transpose"})),
    **dict.fromkeys(("mm", "addmm"), frozenset({"linear"})),
    **dict.fromkeys(
        (
            "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
            "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
        ), frozenset({"norm"})
    ),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), frozenset({"layer_norm"})),
    "native_group_norm": frozenset({"group_norm"}),
    "_prelu_kernel": frozenset({"prelu"}),
}  # fmt: skip


def operator_kinds(call: Call) -> frozenset[str]:
    """The kinds of layers that an operator is the work of."""
    return _LAYERS.get(call.base, frozenset())


def is_convolution(call: Call) -> bool:
    """Whether an operator convolves."""
    return call.base in _CONVOLUTIONS


def convolution_macs(call: Call) -> int:
    """MACs of a convolution."""
    x, weight = call.args[0], call.args[1]
    one = call.output if not call.argument("transposed", False) else x
    return int(one.numel() * weight[0].numel())


def is_shape_only(call: Call) -> bool:
    """Whether an operator works on each place alone, or only moves places about."""
    return find_rule(call) in (move, split, pointwise, batch_norm) or call.base in _SAME
