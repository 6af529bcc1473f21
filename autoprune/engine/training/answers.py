"""What a network answers in training mode: its logits, and those of auxiliary heads beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from autoprune.errors import NetworkError

__all__ = ["AUXILIARY_WEIGHT", "Answer", "answer_of", "described"]

AUXILIARY_WEIGHT = 0.3
"""What the loss of each auxiliary head counts beside that of the logits, as in GoogLeNet."""

_MAIN = ("logits", "out", "main", "output")  # What networks that name their answers call the one that is meant.
_MOST_DESCRIBED = 5


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network answered.

    Args:
        logits: Shape (N, K).
        auxiliary: Logits of heads that only train, each of shape (N, K).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def answer_of(output: object) -> Answer:
    """Tell the logits from all that a network returned in training mode.

    Of a tuple, list or mapping they are the entry that is named ``logits``, ``out``, ``main`` or ``output``, else the
    first tensor. Other tensors of floats of their shape are logits of auxiliary heads. What is left is not looked at.

    Args:
        output: What ``forward`` returned; tuples, lists and mappings may hold further ones.

    Raises:
        NetworkError: There is no tensor in it.

    References:
        Szegedy et al. (2015), Going deeper with convolutions, arXiv 1409.4842, section 5: auxiliary classifiers, and
        their weight.
    """
    if isinstance(output, Tensor):
        return Answer(output)
    tensors = dict(_tensors(output))
    if not tensors:
        raise NetworkError(
            f"the network must answer with logits in training mode, but gave {described(output)}. Return a tensor, or "
            "a tuple that begins with it."
        )
    logits = next((tensors[name] for name in _MAIN if name in tensors), next(iter(tensors.values())))
    others = [tensor for tensor in tensors.values() if tensor is not logits and tensor.is_floating_point()]
    return Answer(logits, tuple(tensor for tensor in others if tensor.shape == logits.shape))


def _tensors(output: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested containers, with their names there."""
    for name, value in _entries(output):
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _entries(output: object) -> list[tuple[str, object]]:
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        return [(str(name), value) for name, value in zip(names, output, strict=True)]
    return []


def described(output: object) -> str:
    """What a network returned, for people: ``a tensor of shape (2, 10)``, ``a tuple (tensor (2, 10), None)``."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if not isinstance(output, Mapping | tuple | list):
        return "None" if output is None else f"a {type(output).__name__}"
    is_named = isinstance(output, Mapping) or hasattr(output, "_fields")
    parts = [(f"{name}: " if is_named else "") + _brief(value) for name, value in _entries(output)]
    more = ["..."] if len(parts) > _MOST_DESCRIBED else []
    return f"a {type(output).__name__} ({', '.join(parts[:_MOST_DESCRIBED] + more)})"


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    return "None" if value is None else type(value).__name__
