"""In which precision and layout networks are computed, and which of several that were timed is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AUTO", "LAYOUTS", "PRECISIONS", "WORTH", "Numerics", "preferred"]

AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "float16")
LAYOUTS = ("channels_last", "contiguous")
WORTH = 1.1
"""How many times as fast what goes away from the usual has to be, so that noise does not decide."""


@dataclass(frozen=True)
class Numerics:
    """Precision and layout of a study's networks.

    Args:
        precision: Of the forward pass, one of `PRECISIONS`.
        layout: Of weights and maps, one of `LAYOUTS`; networks that fail on channels-last maps are run on contiguous
            ones all the same.
    """

    precision: str = "float32"
    layout: str = "channels_last"

    def __str__(self) -> str:
        return f"{self.precision} {self.layout.replace('_', '-')}"


def preferred(seconds: Mapping[Numerics, float], *, worth: float = WORTH) -> Numerics:
    """The fastest, where it is clearly so: what was timed is compared in the order of `PRECISIONS` and `LAYOUTS`.

    Layouts are compared within a precision, then precisions, each in its best layout.

    Args:
        seconds: Of the same work, by what it was computed in; not empty.
        worth: How many times as fast a later one has to be.
    """
    found: Numerics | None = None
    for precision in PRECISIONS:
        best: Numerics | None = None
        for numerics in (Numerics(precision, layout) for layout in LAYOUTS):
            if numerics in seconds and (best is None or seconds[numerics] * worth <= seconds[best]):
                best = numerics
        if best is not None and (found is None or seconds[best] * worth <= seconds[found]):
            found = best
    assert found is not None
    return found
