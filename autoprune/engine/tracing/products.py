"""How products of matrices move labels, and what they cost: those of attention, above all, between two activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoprune.engine.tracing.calls import FIXED, Call

__all__ = ["Found", "attend", "is_attention", "is_product", "multiply", "operands"]

Labels = NDArray[np.int64]

_BATCHED = {"bmm": (0, 1), "baddbmm": (1, 2)}
_PLAIN = {"mm": (0, 1), "addmm": (1, 2)}
_VECTOR = {"mv": (0, 1), "addmv": (1, 2), "dot": (0, 1), "vdot": (0, 1)}
_ATTENTION = "_scaled_dot_product"


@dataclass(frozen=True, eq=False)
class Found:
    """What a product does.

    Args:
        labels: Of its output; None where channels can't be followed.
        macs: Of one position of ``channels``.
        channels: What the cost is counted by; None for a cost that no width changes, which is then ``macs``.
        units: The channels that are summed over at each place of the batch, shape (B, K): heads.
    """

    labels: Labels | None
    macs: int
    channels: Labels | None = None
    units: Labels | None = None


def is_product(call: Call) -> bool:
    """Whether an operator multiplies matrices."""
    return call.base in {*_BATCHED, *_PLAIN, *_VECTOR} or call.base.startswith(_ATTENTION)


def is_attention(call: Call) -> bool:
    """Whether an operator is a fused attention."""
    return call.base.startswith(_ATTENTION)


def operands(call: Call) -> tuple[Tensor, Tensor]:
    """The two factors of a product."""
    left, right = ({**_BATCHED, **_PLAIN, **_VECTOR})[call.base]
    return call.args[left], call.args[right]


def _labels(call: Call, tensor: Tensor) -> Labels:
    known = call.ledger.labels
    if tensor in known:
        found: Labels = known[tensor].numpy()
        return found
    return np.broadcast_to(np.int64(FIXED), tuple(tensor.shape))


def multiply(call: Call) -> Found:
    """What a product of matrices does with the channels of its factors, of shapes (B, M, K) and (B, K, N)."""
    left, right = operands(call)
    a, b = _labels(call, left), _labels(call, right)
    shape = tuple(call.output.shape)
    if left.dim() == 1 or right.dim() == 1:
        a, b = np.atleast_2d(a), (b[:, None] if b.ndim == 1 else b)
    a, b = (one[None] if one.ndim == 2 else one for one in (a, b))
    found = _multiply(call, a, b)
    labels = None if found.labels is None else np.broadcast_to(found.labels, (a.shape[0], a.shape[1], b.shape[2]))
    return Found(None if labels is None else labels.reshape(shape), found.macs, found.channels, found.units)


def _varies(labels: Labels, axis: int) -> bool:
    return bool((labels != labels.take([0], axis=axis)).any())


def _multiply(call: Call, a: Labels, b: Labels) -> Found:
    whole = a.size * b.shape[2]
    if (a == FIXED).all() and (b == FIXED).all():
        return Found(np.full((1, 1, 1), FIXED), whole)
    if _varies(a, 2) or _varies(b, 1):
        return _contract(call, a, b)
    rows, columns = a[:, :, :1], b[:, :1, :]  # (B, M, 1), (B, 1, N)
    if _varies(a, 1) and _varies(b, 2):
        return _cross(call, a, b)
    side = columns if _varies(b, 2) or ((b != FIXED).any() and not _varies(a, 1)) else rows
    other = rows if side is columns else columns
    if (other != FIXED).any():
        if not _varies(other, 0) and _varies(side, 1) | _varies(side, 2):
            return Found(None, whole)  # One value for many channels.
        met = np.broadcast_shapes(side.shape, other.shape)
        call.ledger.tie(np.broadcast_to(side, met).ravel(), np.broadcast_to(other, met).ravel())
    return Found(side, whole // side.size, side)


def _cross(call: Call, a: Labels, b: Labels) -> Found:
    """Every channel beside every other one: no width but the square of one, unless whole heads go."""
    whole = a.size * b.shape[2]
    per_batch = np.concatenate([a[:, :, 0], b[:, 0, :]], axis=1)
    if (per_batch == FIXED).any() or not _varies(per_batch, 0):
        return Found(None, whole)
    units = per_batch[:, :1]
    call.ledger.tie(np.broadcast_to(units, per_batch.shape).ravel(), per_batch.ravel())
    return Found(units[:, :, None], whole // len(units), units[:, 0], a[:, :, 0])


def _contract(call: Call, a: Labels, b: Labels) -> Found:
    """A sum over channels: all that it takes together goes together, as the channels of one head do."""
    whole = a.size * b.shape[2]
    per_batch = np.concatenate([a.reshape(len(a), -1), b.reshape(len(b), -1)], axis=1)
    if (a == FIXED).all() or (b == FIXED).all() or (per_batch == FIXED).any() or not _varies(per_batch, 0):
        return Found(None, whole)
    units = per_batch[:, :1]
    call.ledger.tie(np.broadcast_to(units, per_batch.shape).ravel(), per_batch.ravel())
    channels = a[:, 0, :] if _varies(a, 2) else b[:, :, 0]  # (B, K)
    return Found(units[:, :, None], whole // channels.size, channels, channels)


def attend(call: Call) -> tuple[Labels | None, list[Found]]:
    """Labels of what a fused attention gives, None where its heads can't be followed, and its two products.

    Query, key and value have shape (B, H, N, D): all channels of a head go together, in all three of them.
    """
    query, key, value = (_labels(call, one) for one in call.args[:3])
    scores = query.size * key.shape[-2]
    mixed = query[..., 0].size * key.shape[-2] * value.shape[-1]
    heads = [one.reshape(-1, one.shape[-2] * one.shape[-1]) for one in (query, key, value)]
    if all((one == FIXED).all() for one in heads):
        return np.full((1,) * query.ndim, FIXED), [Found(None, scores + mixed)]
    together = np.concatenate(heads, axis=1) if len({len(one) for one in heads}) == 1 else np.full((1, 1), FIXED)
    if (together == FIXED).any() or not _varies(together, 0):
        return None, [Found(None, scores + mixed)]
    call.ledger.tie(np.broadcast_to(together[:, :1], together.shape).ravel(), together.ravel())
    mask = call.argument("attn_mask")
    if isinstance(mask, Tensor) and mask in call.ledger.labels:
        _tie_mask(call, query, _labels(call, mask))
    by_query, by_value = query[..., 0, :], value[..., 0, :]  # (B, H, D)
    return value[..., :1, :], [
        Found(None, scores // by_query.size, by_query, by_query.reshape(-1, by_query.shape[-1])),
        Found(None, mixed // by_value.size, by_value),
    ]


def _tie_mask(call: Call, query: Labels, mask: Labels) -> None:
    """A bias that each head adds to its scores goes with the head."""
    heads = query[..., :1, :1]
    if mask.ndim == heads.ndim and mask.shape[1] == heads.shape[1]:
        shape = np.broadcast_shapes(heads.shape, mask.shape)
        call.ledger.tie(np.broadcast_to(heads, shape).ravel(), np.broadcast_to(mask, shape).ravel())
