"""In which precision and layout networks are computed, and which of several that were timed is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AUTO", "LAYOUTS", "PRECISIONS", "WORTH", "Numerics", "paying_from", "preferred", "preferred_multiple"]

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


def preferred_multiple(seconds: Mapping[int, float], *, worth: float = WORTH) -> int:
    """The least multiple of widths that none beyond it is clearly faster than.

    Args:
        seconds: Of a MAC, by multiple, 1 among them.
        worth: How many times as fast a larger one has to be.
    """
    found = 1
    for multiple in sorted(seconds):
        if seconds[multiple] * worth <= seconds[found]:
            found = multiple
    return found


def paying_from(compiling_s: float, plain_s: float, compiled_s: float, *, worth: float = WORTH) -> int | None:
    """Steps from which on it pays to compile a network; None where it never does.

    Args:
        compiling_s: Seconds of compiling it.
        plain_s: Of a step without.
        compiled_s: Of a step with it.
        worth: How many times as fast a compiled step has to be.
    """
    return math.ceil(compiling_s / (plain_s - compiled_s)) if compiled_s * worth <= plain_s else None
