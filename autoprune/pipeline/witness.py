"""Finds the layer in which a network's forward pass goes wrong, so that a reason can name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["culprit", "failing"]

Run = Callable[[], object]


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module: what went in and what came out, copied, since the next layer may write over it."""

    module: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class _Witness:
    """Hears every call of a network's modules; an inner one ends before the one that it lies in."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.under_way: list[tuple[str, list[Tensor]]] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Listen for as long as this lasts."""
        handles = []
        for name, module in model.named_modules():

            def before(module: nn.Module, args: Any, kwargs: Any, *, name: str = name) -> None:
                self.under_way.append((name, _copied((args, kwargs))))

            def after(module: nn.Module, args: Any, output: Any) -> None:
                name, inputs = self.under_way.pop()
                self.calls.append(_Call(name, inputs, _copied(output)))

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def failing(model: nn.Module, run: Run) -> str:
    """The module whose `forward` raises, for people: ``in 'layer1.conv' (Conv2d)``.

    Args:
        model: The network.
        run: Runs it, and is known to fail.
    """
    witness = _Witness()
    try:
        with witness.watching(model):
            run()
    except Exception:  # Whoever asks has met it before, and tells it beside where it was met.
        return _in(model, witness.under_way[-1][0]) if witness.under_way else "before any layer"
    return "but not a second time"


def culprit(model: nn.Module, runs: tuple[Run, Run], same: Callable[[Tensor, Tensor], bool]) -> str:
    """The innermost module that is given the same in two runs and answers otherwise, for people.

    Args:
        model: The network.
        runs: Run it; where both are to be compared with what is right, one of them may be what is right.
        same: Whether a tensor of the first run and its counterpart count as the same.
    """
    heard = []
    for run in runs:
        witness = _Witness()
        with witness.watching(model):
            run()
        heard.append(witness.calls)
    for one, other in zip(*heard, strict=False):
        is_given_same = all(same(a, b) for a, b in zip(one.inputs, other.inputs, strict=False))
        says_same = all(same(a, b) for a, b in zip(one.outputs, other.outputs, strict=False))
        if one.module == other.module and is_given_same and not says_same:
            return _in(model, one.module)
    return "somewhere in it"


def _copied(value: object) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _in(model: nn.Module, name: str) -> str:
    kind = type(model.get_submodule(name)).__name__
    return f"in {name!r} ({kind})" if name else f"in the `forward` of {kind} itself"
