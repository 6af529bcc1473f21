"""How the networks of a task are run: all of them, and as much as can be pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from autoprune.engine.asking import Forward
from autoprune.engine.tasks.kinds import Kind
from autoprune.errors import NetworkError

__all__ = ["core_of", "whole_of"]


def whole_of(kind: Kind, forward: Forward | None) -> Forward:
    """Runs all of a network in evaluation mode: as the task says, or as goes without saying for its kind."""
    return kind.whole if forward is None else forward


def core_of(kind: Kind, forward: Forward | None, submodule: str | None) -> Forward:
    """Runs as much of a network as can be pruned.

    Args:
        kind: Of the task.
        forward: How the task runs networks, if it says so.
        submodule: The part to prune; what runs before it and behind it stays as it is.
    """
    whole = whole_of(kind, forward)
    if submodule is not None:
        return lambda model, inputs: _until(model, submodule, lambda: whole(model, inputs))
    return kind.core if forward is None else forward


class _ReachedError(Exception):
    """The part of the network that is wanted has answered; what comes after it is not run."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _until(model: nn.Module, name: str, run: Callable[[], object]) -> Any:
    """What a part of a network answers when the network runs; nothing behind it is run.

    Args:
        model: The network.
        name: The part.
        run: Runs the network.

    Raises:
        NetworkError: It has no such part, or runs without it.
    """

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _ReachedError(output)

    try:
        handle = model.get_submodule(name).register_forward_hook(stop)
    except AttributeError:
        raise NetworkError(
            f"Task: `submodule` must be a part of the network, but it has none of the name {name!r}. Its parts are "
            f"{', '.join(child for child, _ in model.named_children())}."
        ) from None
    try:
        run()
    except _ReachedError as reached:
        return reached.output
    finally:
        handle.remove()
    raise NetworkError(
        f"Task: `submodule` = {name!r} must run when the network runs, but did not. Name a part that does."
    )
