"""How a network is asked: what its inputs are made of, and what of its answer counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.errors import DataError

__all__ = [
    "Forward",
    "answers",
    "ask",
    "drawn_like",
    "first_input",
    "joined",
    "laid",
    "moved",
    "repeated",
    "size_of",
    "tensors_of",
]

Forward = Callable[[nn.Module, Any], Any]
"""Runs a network on inputs of any structure, ``forward(model, inputs)``; its answer may have any structure, too."""


def ask(model: nn.Module, inputs: Any) -> Any:
    """Run a network on a tensor, on a tuple of positional arguments, or on a mapping of arguments by name.

    Args:
        model: The network.
        inputs: Anything else, a list for example, is one argument.
    """
    if isinstance(inputs, tuple):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and mappings, and of objects with fields (``ModelOutput``, dataclasses)."""
    if isinstance(values, Mapping):
        values = dict(values)  # Others, such as ModelOutput, torch may take for a whole.
    elif hasattr(values, "__dataclass_fields__"):
        values = vars(values)
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def answers(output: Any) -> list[Tensor]:
    """The tensors of floats of what a network answered."""
    return [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]


def size_of(inputs: Any) -> int:
    """How many examples a batch has: the first axis of its first tensor that has one, or the length of a list.

    Raises:
        DataError: There is no tensor in it.
    """
    if isinstance(inputs, list) and inputs:
        return len(inputs)
    first = next((tensor for tensor in tensors_of(inputs) if tensor.dim()), None)
    if first is None:
        raise DataError(
            f"a batch must hold tensors whose first axis counts examples, but got {type(inputs).__name__} without any. "
            "Let the loader give tensors, or tuples, lists or mappings of them."
        )
    return len(first)


def first_input(inputs: Any) -> Any:
    """The first example of a batch, as a batch of one; tensors that don't share the batch's first axis stay whole."""
    if isinstance(inputs, list) and inputs:
        return inputs[:1]
    size = size_of(inputs)

    def first(tensor: Any) -> Any:
        return tensor[:1] if isinstance(tensor, Tensor) and tensor.dim() and len(tensor) == size else tensor

    return tree_map(first, inputs)


def drawn_like(inputs: Any, generator: torch.Generator) -> Any:
    """The same structure with normal noise, float32, in place of numbers; whole numbers, such as tokens, stay.

    Args:
        inputs: Of any structure.
        generator: On the CPU.
    """

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator).to(leaf.device)

    return tree_map(draw, inputs)


def joined(batches: Sequence[Any]) -> Any:
    """Several batches as one, each tensor and each list put together along the batch."""
    if isinstance(batches[0], list):
        return [example for batch in batches for example in batch]

    def join(first: Any, *others: Any) -> Any:
        return torch.cat([first, *others]) if isinstance(first, Tensor) and first.dim() else first

    return tree_map(join, batches[0], *batches[1:])


def laid(values: Any, memory_format: torch.memory_format) -> Any:
    """The same structure, its maps of floats, shape (N, C, H, W), in a layout."""

    def lay(leaf: Any) -> Any:
        is_map = isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()
        return leaf.contiguous(memory_format=memory_format) if is_map else leaf

    return tree_map(lay, values)


def repeated(inputs: Any, n: int) -> Any:
    """The first example of a batch ``n`` times."""
    one = first_input(inputs)
    if isinstance(one, list):
        return one * n

    def repeat(leaf: Any) -> Any:
        is_batch = isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == 1
        return leaf.expand(n, *leaf.shape[1:]).contiguous() if is_batch else leaf

    return tree_map(repeat, one)


def moved(values: Any, device: torch.device | None, *, dtype: torch.dtype | None = None) -> Any:
    """The same structure with its tensors on a device, those of floats in ``dtype``, where these are given."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        to = dtype if dtype is not None and leaf.is_floating_point() else None
        return leaf.to(device, to, non_blocking=True)

    return tree_map(move, values)
