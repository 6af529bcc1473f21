"""How each torch operator moves the labels of its arguments; the rules of `labels`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["FIXED", "TO_PYTHON", "Call", "Rule", "all_fixed", "collapse", "find_rule"]

FIXED = -1
"""The label of a value that no prunable channel wrote: the image, a constant, a sum over channels."""

TO_PYTHON = frozenset({"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item"})
"""Operators whose result has a shape or a Python value that depends on the data."""

_MOVES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "slice", "select",
    "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "unbind", "cat", "stack", "squeeze",
    "unsqueeze", "flip", "roll", "index_select", "narrow", "repeat", "channel_shuffle", "native_channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "diagonal", "index", "rot90",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
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
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "sort"}


class Ledger(Protocol):
    """Where rules read labels and write down what they find."""

    labels: WeakTensorKeyDictionary

    def tie(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None: ...
    def pin(self, labels: Tensor | NDArray[np.int64], reason: str = "", advice: str = "") -> None: ...
    def where(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Call:
    """One operator that ran: its arguments, the tensors among them, and its output."""

    func: Any
    args: Any
    kwargs: Any
    tensors: Sequence[Tensor]
    output: Any
    ledger: Ledger

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload, such as ``add_``."""
        return str(self.func._schema.name).partition("::")[2]

    @property
    def base(self) -> str:
        """The name of the form that is not in place."""
        return self.name if self.name.startswith("_") or not self.name.endswith("_") else self.name[:-1]

    @property
    def first(self) -> Tensor:
        """Labels of the first argument."""
        labels: Tensor = self.ledger.labels[self.tensors[0]]
        return labels

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the operator's schema."""
        named = {one.name: value for one, value in zip(self.func._schema.arguments, self.args, strict=False)}
        return (named | self.kwargs).get(name, default)

    def for_outputs(self, labels: Tensor) -> list[Tensor]:
        """The same labels for every output, each in its shape."""
        return [labels.expand(leaf.shape) for leaf in tree_leaves(self.output) if isinstance(leaf, Tensor)]


Rule = Callable[[Call], Any]
"""From a call to the labels of its outputs; None where channels can't be followed."""


def find_rule(call: Call) -> Rule | None:
    """The rule of an operator; None for one that is not known to keep channels apart."""
    base = call.base
    if call.tensors[0] not in call.ledger.labels and base in _SAME | _ALONG | _REDUCTIONS:
        return None
    if base in _SAME:
        return lambda call: call.for_outputs(call.first)
    if base in _MOVES:
        return _move
    if base == "constant_pad_nd":
        return _pad
    if base in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
        return _normalise
    if _POOLS.match(base):
        return _pool
    if base in _REDUCTIONS and not (base in ("max", "min") and len(call.tensors) > 1):
        return _reduce
    if base in _ALONG:
        return _along
    if torch.Tag.pointwise in call.func.tags or base in _POINTWISE:
        return _pointwise
    return None


def all_fixed(shape: Sequence[int]) -> Tensor:
    """Labels of a tensor that no prunable channel wrote."""
    return torch.full((1,) * len(shape), FIXED).expand(tuple(shape))


def collapse(labels: Tensor, *, keep: int | None = None, only: int | None = None) -> Tensor:
    """Narrow to one the dimensions along which labels do not change: all, all but ``keep``, or ``only`` this one."""
    dims: Iterable[int] = range(labels.dim()) if only is None else (only,)
    for dim in dims:
        if dim != keep and labels.shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels


# -- rules ----------------------------------------------------------------------------------------------------------


def _pointwise(call: Call) -> Tensor | None:
    """What meets at one place belongs to one channel."""
    known = call.ledger.labels
    shape = next(leaf.shape for leaf in tree_leaves(call.output) if isinstance(leaf, Tensor))
    total: Tensor | None = None
    for tensor in sorted(call.tensors, key=lambda one: one not in known):
        if tensor not in known and tensor.numel() == 1:
            continue
        size = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
        labels = known[tensor].reshape(size) if tensor in known else all_fixed(size)
        total = labels if total is None else _meet(call, total, labels)
    return None if total is None else total.expand(shape)


def _meet(call: Call, a: Tensor, b: Tensor) -> Tensor:
    size = _broadcast(a.shape, b.shape)
    small_a, small_b = collapse(a), collapse(b)
    # One value for many channels (a spatial attention map) can't be taken apart with them.
    a_shared = any(one == 1 and many > 1 for one, many in zip(a.shape, small_b.shape, strict=True))
    b_shared = any(one == 1 and many > 1 for one, many in zip(b.shape, small_a.shape, strict=True))
    for shared, labels in ((a_shared, a), (b_shared, b)):
        if shared:
            call.ledger.pin(labels, "one of its channels is broadcast over the channels of another layer")
    if a_shared or b_shared:
        return all_fixed(size) if a_shared and b_shared else (b if a_shared else a).expand(size)
    common = _broadcast(small_a.shape, small_b.shape)
    pair_a, pair_b = small_a.expand(common).numpy().ravel(), small_b.expand(common).numpy().ravel()
    call.ledger.tie(pair_a, pair_b)
    for mine, other, theirs in ((pair_a, pair_b, b), (pair_b, pair_a, a)):
        if theirs.numel() > 1:
            call.ledger.pin(
                mine[other == FIXED],
                f"{call.ledger.where()} combines its channels with values of a fixed number of channels (the input, a "
                "constant, a bare parameter or zero padding)",
                "they stay dense; a projection (1×1 convolution) in place of the fixed values would make them prunable",
            )
    if (small_a == FIXED).any():
        return torch.where(a.expand(size) == FIXED, b.expand(size), a.expand(size))
    return a.expand(size)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(right if left == 1 else left for left, right in zip(a, b, strict=True))


def _move(call: Call) -> Any:
    """Labels move as the values do."""
    known = call.ledger.labels
    if call.base in ("index", "index_select") and any(index in known for index in call.tensors[1:]):
        return None
    if call.base in _VIEWS:
        return call.first.reshape(call.output.shape)

    def labels_of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value in known:
            return known[value]
        return all_fixed(value.shape) if call.base in ("cat", "stack") else value.cpu()

    args, kwargs = tree_map(labels_of, (list(call.args), call.kwargs))
    return call.func(*args, **kwargs)


def _pad(call: Call) -> Tensor:
    """Along space the margin belongs to the channel and goes with it; across channels it is fixed."""
    labels = call.first
    pad = list(call.argument("pad"))
    for place in range(0, len(pad), 2):
        dim = labels.dim() - 1 - place // 2
        size = call.output.shape[dim]
        narrowed = collapse(labels, only=dim)
        if narrowed.shape[dim] == 1 and labels.shape[dim] > 1:
            labels = narrowed.expand(*labels.shape[:dim], size, *labels.shape[dim + 1 :])
            continue
        before, after = (max(0, count) for count in pad[place : place + 2])
        cut = max(0, -pad[place])
        labels = labels.narrow(dim, cut, size - before - after)
        margins = [all_fixed((*labels.shape[:dim], count, *labels.shape[dim + 1 :])) for count in (before, after)]
        labels = torch.cat([margins[0], labels, margins[1]], dim=dim)
    return labels


def _pool(call: Call) -> list[Tensor] | None:
    """Works on each channel's space alone, if its last dimensions are space."""
    labels = call.first
    found = re.search(r"([123])d", call.name)
    for dim in range(labels.dim() - (int(found.group(1)) if found else labels.dim() - 2), labels.dim()):
        labels = collapse(labels, only=dim)
        if labels.shape[dim] != 1:
            return None
    return call.for_outputs(labels)


def _reduce(call: Call) -> list[Tensor] | None:
    labels = call.first
    dims = call.argument("dim")
    if dims is None or dims == []:
        dims = list(range(labels.dim()))
    dims = [dim % labels.dim() for dim in ([dims] if isinstance(dims, int) else dims)]
    for dim in dims:
        labels = collapse(labels, only=dim)
        if labels.shape[dim] != 1:
            return None
    if not call.argument("keepdim", False):
        for dim in sorted(dims, reverse=True):
            labels = labels.squeeze(dim)
    return call.for_outputs(labels)


def _along(call: Call) -> list[Tensor] | None:
    """Mixes the places along one dimension, which must not hold different channels."""
    dim = int(call.argument("dim", -1)) % call.first.dim()
    labels = collapse(call.first, only=dim)
    return call.for_outputs(labels) if labels.shape[dim] == 1 else None


def _normalise(call: Call) -> list[Tensor]:
    """Statistics over several channels: they stay, but further on they are still known."""
    call.ledger.pin(
        call.first,
        f"its channels pass through {call.ledger.where()}, whose statistics run over several channels",
        f"they stay dense; a batch normalisation in place of {call.ledger.where()} would make them prunable",
    )
    labels = call.first
    return [labels if leaf.shape == labels.shape else all_fixed(leaf.shape) for leaf in tree_leaves(call.output)]
