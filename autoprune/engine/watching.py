"""What sees the operators of a pass."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperatorMode", "base_name", "operator_name"]


def operator_name(operator: Any) -> str:
    """An operator's name without namespace and overload, such as ``add_``."""
    return str(operator._schema.name).partition("::")[2]


def base_name(name: str) -> str:
    """The name of the form of an operator that is not in place."""
    return name if name.startswith("_") else name.removesuffix("_")


class OperatorMode(TorchDispatchMode):
    """A dispatch mode for passes that are never compiled."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Else torch imports its compiler, two seconds, to keep it away from a pass that never meets it.
