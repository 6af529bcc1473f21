"""Multi-head attention that may have lost heads, or channels of what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NarrowAttention", "narrow_attention", "unfused"]


class NarrowAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads need not fill its embedding; made of one in place, by `narrow_attention`.

    Its parameters have the names that they had. As many heads as ``num_heads`` says, each of ``head_dim`` channels.
    """

    def forward(  # type: ignore[override]  # what nobody gives by its place is taken by name
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What `nn.MultiheadAttention` answers; see there."""
        is_turned = not self.batch_first and query.dim() == 3
        if query is key and key is value:
            query = query.transpose(0, 1) if is_turned else query
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            each = (one.transpose(0, 1) if is_turned else one for one in (query, key, value))
            weights = self.in_proj_weight.chunk(3)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            projected = tuple(map(F.linear, each, weights, biases))
        q, k, v = (one.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2) for one in projected)
        mask = _merged_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights_seen: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights_seen = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights_seen, dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        answer = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        if is_turned:
            answer = answer.transpose(0, 1)
        if weights_seen is not None and average_attn_weights:
            weights_seen = weights_seen.mean(-3)
        return answer, weights_seen


def _merged_mask(mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores, of the query's type."""
    merged: Tensor | None = None
    for each, shape in ((mask, None), (padding, (-1, 1, 1, like.shape[-2]))):
        if each is None:
            continue
        added = each
        if each.dtype == torch.bool:
            added = torch.zeros_like(each, dtype=like.dtype).masked_fill(each, float("-inf"))
        if shape is not None:
            added = added.view(shape)
        elif added.dim() == 3:
            added = added.unflatten(0, (-1, like.shape[1]))
        merged = added if merged is None else merged + added
    return merged


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is an attention that `narrow_attention` can take: one projection for all, no extra keys."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def narrow_attention(model: nn.Module) -> nn.Module:
    """The network, its multi-head attentions changed in place into ones that can lose heads; they answer alike."""
    for module in model.modules():
        if _is_plain(module):
            module.__class__ = NarrowAttention
            # Else an encoder layer passes it by, to multiply with its weights itself.
            module._qkv_same_embed_dim = False  # type: ignore[assignment]
    return model


@contextmanager
def unfused() -> Iterator[None]:
    """Let attentions and encoder layers run operator by operator, so that each of these is seen."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
