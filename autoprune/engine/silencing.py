"""Layers that take statistics over channels, in a network whose removed channels are only silenced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.engine.attention import unfused
from autoprune.engine.watching import OperatorMode, operator_name

__all__ = ["OverKept", "Scattered", "told_by"]

Kept = Mapping[Tensor, tuple[nn.Module, Tensor]]


def told_by(norm: nn.Module) -> Tensor:
    """The parameter that tells a normalisation from others where its operator is seen."""
    weight = norm.weight
    assert isinstance(weight, Tensor)  # Tracing refuses one that has none.
    return weight


class OverKept(nn.Module):
    """A network whose normalisations over channels take their statistics over those that stay.

    What is removed leaves no trace in a smaller network's statistics; a silenced one must leave none either.

    Args:
        model: Runs as it is, but for these normalisations.
        norms: By their weight the normalisations, and the channels that stay, rising.
    """

    def __init__(self, model: nn.Module, norms: Kept) -> None:
        super().__init__()
        self.model = model
        self._norms = {id(weight): entry for weight, entry in norms.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        with unfused(), _OnKept(self._norms):
            return self.model(*args, **kwargs)


class Scattered(nn.Module):
    """A layer after surgery in the place of the layer before it: what was removed is not read, and says nothing.

    For convolutions that compute their weight, whose removed inputs can't be silenced by a zero: it would count in the
    statistics of the weight.

    Args:
        layer: After surgery.
        read: Which of the input channels stay, shape (I,).
        written: Which of the output channels stay, shape (O,).
    """

    def __init__(self, layer: nn.Module, read: NDArray[np.bool_], written: NDArray[np.bool_]) -> None:
        super().__init__()
        self.layer, self._n_written = layer, len(written)
        self._read, self._written = (torch.from_numpy(np.flatnonzero(stays)) for stays in (read, written))

    def forward(self, x: Tensor) -> Tensor:
        """As many channels as before."""
        small: Tensor = self.layer(x.index_select(1, self._read.to(x.device)))
        whole = small.new_zeros(len(small), self._n_written, *small.shape[2:])
        return whole.index_copy(1, self._written.to(x.device), small)


class _OnKept(OperatorMode):
    def __init__(self, norms: Mapping[int, tuple[nn.Module, Tensor]]) -> None:
        super().__init__()
        self._norms = norms

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator_name(func)
        if name in ("native_layer_norm", "_fused_rms_norm") and id(args[2]) in self._norms:
            kept = self._norms[id(args[2])][1].to(args[0].device)
            vectors = [one.index_select(0, kept) if isinstance(one, Tensor) else one for one in args[2:]]
            return _spread(func, args[0], kept, -1, [len(kept)], *vectors)
        if name == "native_group_norm" and id(args[1]) in self._norms:
            norm, kept = self._norms[id(args[1])][0], self._norms[id(args[1])][1].to(args[0].device)
            weight, bias = (one.index_select(0, kept) if isinstance(one, Tensor) else one for one in args[1:3])
            n_groups = len(kept) if norm.num_groups == norm.num_channels else args[6]
            return _spread(func, args[0], kept, 1, weight, bias, args[3], len(kept), args[5], n_groups, *args[7:])
        return func(*args, **kwargs)


def _spread(func: Any, x: Tensor, kept: Tensor, dim: int, *rest: Any) -> Any:
    """What the operator makes of the kept channels, in their places; the others say nothing."""
    small, *others = func(x.index_select(dim, kept).contiguous(), *rest)
    return (torch.zeros_like(x).index_copy(dim, kept, small), *others)
