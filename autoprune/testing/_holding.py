"""What all checks say where something does not hold."""

from __future__ import annotations

__all__ = ["hold"]


def hold(holds: object, what: str) -> None:
    """Raise AssertionError with ``what`` must hold, unless it does."""
    if not holds:
        raise AssertionError(f"{what}, but that does not hold.")
