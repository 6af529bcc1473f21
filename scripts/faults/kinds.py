"""What a kind of fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faults.arena import Arena

__all__ = ["Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: For tables.
        strike: Does it to a study of which a trial runs, and undoes it; says what was hit. Raises `Missed` where
            nothing live was.
        fits: Whether it can be done to this study on this machine.
    """

    name: str
    strike: Callable[[Arena], str]
    fits: Callable[[Arena], bool] = lambda arena: True
