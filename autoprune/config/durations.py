"""Lengths of time as people write and read them."""

from __future__ import annotations

import math
import re

from autoprune.errors import ConfigError

__all__ = ["duration_text", "seconds_of"]

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


def duration_text(seconds: float | None) -> str:
    """A length of time in its two largest units; a dash where it is not known.

    Example:
        >>> [duration_text(seconds) for seconds in (0.25, 12, 192, 7500, 277_200, None)]
        ['0.2 s', '12 s', '3 min 12 s', '2 h 5 min', '3 d 5 h', '–']
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = (days, "d"), (hour, "h"), (minute, "min"), (s, "s")
    first = next((i for i, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)
