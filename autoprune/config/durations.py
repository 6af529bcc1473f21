"""Lengths of time as people write them."""

from __future__ import annotations

import math
import re

from autoprune.errors import ConfigError

__all__ = ["seconds_of"]

_NUMBER = r"(\d+(?:\.\d+)?)"


def seconds_of(text: str) -> float:
    """Seconds of a length of time such as ``90``, ``45s``, ``20m`` or ``1h30m``.

    Raises:
        ConfigError: It is none.
    """
    # A number without a unit is seconds only where it stands alone: in 1h30, people mean minutes.
    pattern = rf"{_NUMBER}|(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?"
    match = re.fullmatch(pattern, text.strip(), flags=re.ASCII)
    seconds = 0.0
    if match:
        seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (1, 3600, 60, 1), strict=True))
    if not 0 < seconds < math.inf:
        raise ConfigError(f"must be a length of time such as 45s, 20m or 1h30m, but got {text!r}")
    return seconds
