"""Shares and commands as people read them."""

from __future__ import annotations

import shlex

from autoprune.cli.secrecy import without_password

__all__ = ["bar", "command", "percent"]


def percent(share: float) -> str:
    """A share in [0, 1] as per cent."""
    return f"{share:.1%}".replace("%", " %")


def bar(share: float, *, length: int, filled: str = "█", empty: str = "░") -> str:
    """A share in [0, 1] as a bar; anything above 0 shows, and only the whole fills it.

    Example:
        >>> [bar(share, length=4, filled="#", empty=".") for share in (0, 0.01, 0.5, 0.99, 1)]
        ['....', '#...', '##..', '###.', '####']
    """
    n = round(share * length)
    n = max(n, 1) if share > 0 else n
    n = min(n, length - 1) if share < 1 else length
    return filled * n + empty * (length - n)


def command(*words: object, storage: str | None) -> str:
    """A command of ours to copy: ``--storage`` stands in it where it was given, without a password."""
    place = [] if storage is None else ["--storage", without_password(storage)]
    parts = ["autoprune", *map(str, words), *place]
    return shlex.join(parts)
