"""One operator that ran, as the rules see it, and the labels beside its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.engine.watching import base_name, operator_name

__all__ = ["FIXED", "Call", "all_fixed", "collapse"]

FIXED = -1
"""The label of a value that no prunable channel wrote: the image, a constant, a sum over channels."""


class Ledger(Protocol):
    """Where rules read labels and write down what they find."""

    labels: WeakTensorKeyDictionary

    def fixed_shape(self, tensor: Tensor) -> list[int]: ...
    def count_parts(self, pieces: Sequence[NDArray[np.int64]]) -> bool: ...
    def count_channels(self, atoms: NDArray[np.int64]) -> None: ...
    def note_heads(self, units: NDArray[np.int64]) -> NDArray[np.int64]: ...
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
        return operator_name(self.func)

    @property
    def base(self) -> str:
        """The name of the form that is not in place."""
        return base_name(self.name)

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
