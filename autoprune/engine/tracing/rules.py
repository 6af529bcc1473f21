"""How operators move labels: a rule for each kind of them, None where channels can't be followed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.engine.tracing.calls import FIXED, Call, all_fixed, collapse

__all__ = [
    "VIEWS",
    "batch_norm",
    "glu",
    "mix_along",
    "move",
    "over_channels",
    "pad",
    "pointwise",
    "pool",
    "reduce",
    "restride",
    "split",
]

VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})


def pointwise(call: Call) -> Tensor | None:
    """What meets at one place belongs to one channel."""
    known = call.ledger.labels
    shape = next(leaf.shape for leaf in tree_leaves(call.output) if isinstance(leaf, Tensor))
    total: Tensor | None = None
    for tensor in sorted(call.tensors, key=lambda one: one not in known):
        if tensor not in known and tensor.numel() == 1:
            continue
        size = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
        if tensor not in known:
            size = (*size[: len(shape) - tensor.dim()], *call.ledger.fixed_shape(tensor))
        labels = known[tensor].reshape(size) if tensor in known else all_fixed(size)
        total = labels if total is None else _meet(call, total, labels)
    return None if total is None else total.expand(shape)


def _meet(call: Call, a: Tensor, b: Tensor) -> Tensor:
    size = _broadcast(a.shape, b.shape)
    small_a, small_b = collapse(a), collapse(b)
    # One value for many channels (a spatial attention map) can't be taken apart with them, but where values differ
    # otherwise (a scale of each channel of tokens that others wrote), all that meets at one of them goes together.
    a_shared = any(one == 1 and many > 1 for one, many in zip(a.shape, small_b.shape, strict=True))
    b_shared = any(one == 1 and many > 1 for one, many in zip(b.shape, small_a.shape, strict=True))
    if a_shared != b_shared and max((small_a if a_shared else small_b).shape) > 1:
        a_shared = b_shared = False
    for shared, labels in ((a_shared, a), (b_shared, b)):
        if shared:
            call.ledger.pin(labels, "one of its channels is broadcast over the channels of another layer")
    if a_shared or b_shared:
        return all_fixed(size) if a_shared and b_shared else (b if a_shared else a).expand(size)
    common = _broadcast(small_a.shape, small_b.shape)
    pair_a, pair_b = small_a.expand(common).numpy().ravel(), small_b.expand(common).numpy().ravel()
    call.ledger.tie(pair_a, pair_b)
    for mine, other, theirs, small in ((pair_a, pair_b, b, small_a), (pair_b, pair_a, a, small_b)):
        # What is fixed is in the way where channels lie along it, unlike a mask that is broadcast over them.
        if any(size > 1 and many > 1 for size, many in zip(theirs.shape, small.shape, strict=True)):
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


def move(call: Call) -> Any:
    """Labels move as the values do."""
    known = call.ledger.labels
    if call.base in ("index", "index_select") and any(index in known for index in call.tensors[1:]):
        return None
    if call.base in VIEWS:
        labels = call.first.reshape(call.output.shape)
        for dim, size in enumerate(labels.shape):
            if size > 1 and collapse(labels, only=dim).shape[dim] > 1:
                along = collapse(labels, keep=dim)
                if along.numel() == size:
                    call.ledger.count_channels(along.numpy().ravel())
        return labels

    def labels_of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value in known:
            return known[value]
        return all_fixed(value.shape) if call.base in ("cat", "stack") else value.cpu()

    args, kwargs = tree_map(labels_of, (list(call.args), call.kwargs))
    return call.func(*args, **kwargs)


def pad(call: Call) -> Tensor:
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


def pool(call: Call) -> list[Tensor] | None:
    """Works on each channel's space alone, if its last dimensions are space."""
    labels = call.first
    found = re.search(r"([123])d", call.name)
    for dim in range(labels.dim() - (int(found.group(1)) if found else labels.dim() - 2), labels.dim()):
        labels = collapse(labels, only=dim)
        if labels.shape[dim] != 1:
            return None
    return call.for_outputs(labels)


def split(call: Call) -> Any:
    """Parts of a dimension; where channels lie along it, those at equal offsets go together, so that parts stay alike.

    It can't be told whether `forward` halves what is there or counts on a number: if the latter, the proof finds it.
    """
    moved = call.func(*[call.first if one is call.tensors[0] else one for one in call.args], **call.kwargs)
    dim = int(call.argument("dim", 0)) % call.first.dim()
    labels, sizes = collapse(call.first, keep=dim), [part.shape[dim] for part in moved]
    if collapse(call.first, only=dim).shape[dim] == 1 or len(sizes) == 1:
        return moved
    rows = labels.movedim(dim, 0).reshape(labels.shape[dim], -1).numpy()
    places = np.cumsum([0, *sizes])
    if call.ledger.count_parts([rows[a:b, 0] for a, b in itertools.pairwise(places.tolist())]):
        return moved
    step = math.gcd(*sizes)
    if step == 1 < max(sizes):
        call.ledger.pin(
            call.first,
            f"{call.ledger.where()} splits its channels into parts of {', '.join(map(str, sizes))}, which can't be cut "
            "alike",
            "they stay dense; parts whose sizes have a common factor would make them prunable",
        )
        return moved
    blocks = rows.reshape(-1, step, rows.shape[1])
    for block in blocks[1:]:
        call.ledger.tie(blocks[0].ravel(), block.ravel())
    return moved


def restride(call: Call) -> Tensor | None:
    """Another layout of the same places, as pooling to one place gives it on channels-last tensors."""
    sizes, strides = list(call.argument("size")), list(call.argument("stride"))
    spread = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    is_same = sizes == list(call.first.shape) and not call.argument("storage_offset")
    return call.first if is_same and (not spread or spread == [(max(sizes), 1)]) else None


def glu(call: Call) -> Tensor:
    """One half gates the other."""
    dim = int(call.argument("dim", -1)) % call.first.dim()
    half = call.first.shape[dim] // 2
    return _meet(call, call.first.narrow(dim, 0, half), call.first.narrow(dim, half, half))


def batch_norm(call: Call) -> Any:
    """Each channel by statistics of its own, which are no layer's: they go with it."""
    known, total = call.ledger.labels, call.first
    for tensor in call.tensors[1:]:
        labels = known[tensor] if tensor in known else all_fixed((tensor.numel(),))
        total = _meet(call, total, labels.reshape(1, -1, *[1] * (total.dim() - 2)))
    shapes = [leaf.shape for leaf in tree_leaves(call.output) if isinstance(leaf, Tensor)]
    return [total if shape == total.shape else all_fixed(shape) for shape in shapes]


def _merged(call: Call, labels: Tensor, dim: int) -> Tensor | None:
    """Labels of what mixes the places along a dimension, in which that has size 1; None if it is that of the channels.

    Where channels lie along another one (branches stacked beside each other), what meets belongs to one channel.
    """
    narrow = collapse(labels, only=dim)
    if narrow.shape[dim] == 1:
        return narrow
    if all(collapse(labels, only=other).shape[other] == 1 for other in range(labels.dim()) if other != dim):
        return None
    call.ledger.note_heads(collapse(labels, keep=dim).movedim(dim, -1).reshape(-1, labels.shape[dim]).numpy())
    first = labels.narrow(dim, 0, 1)
    for place in range(1, labels.shape[dim]):
        first = _meet(call, first, labels.narrow(dim, place, 1))
    return first


def reduce(call: Call) -> list[Tensor] | None:
    """Sums, means and the like over dimensions that must not be that of the channels."""
    labels = call.first
    dims = call.argument("dim")
    if dims is None or dims == []:
        dims = list(range(labels.dim()))
    dims = [dim % labels.dim() for dim in ([dims] if isinstance(dims, int) else dims)]
    for dim in dims:
        merged = _merged(call, labels, dim)
        if merged is None:
            return None
        labels = merged
    if not call.argument("keepdim", False):
        for dim in sorted(dims, reverse=True):
            labels = labels.squeeze(dim)
    return call.for_outputs(labels)


def mix_along(call: Call) -> list[Tensor] | None:
    """Mixes the places along one dimension, which must not be that of the channels."""
    labels = _merged(call, call.first, int(call.argument("dim", -1)) % call.first.dim())
    return None if labels is None else call.for_outputs(labels)


def over_channels(call: Call) -> list[Tensor]:
    """Statistics over several channels: they stay, but further on they are still known."""
    call.ledger.pin(
        call.first,
        f"its channels pass through {call.ledger.where()}, whose statistics run over several channels",
        f"they stay dense; a batch normalisation in place of {call.ledger.where()} would make them prunable",
    )
    labels = call.first
    return [labels if leaf.shape == labels.shape else all_fixed(leaf.shape) for leaf in tree_leaves(call.output)]
