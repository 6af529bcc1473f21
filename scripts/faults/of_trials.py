"""Trials that hang, run out of memory, return NaN, or fork and die."""

from __future__ import annotations

import functools

from faults.arena import Arena
from faults.kinds import Kind

__all__ = ["KINDS"]


def _trouble(arena: Arena, what: str) -> str:
    """Tell the network of whichever worker trains next; over when one has taken it."""
    states, _ = arena.live()
    for old in arena.folder.glob("trouble.*"):
        old.unlink()
    temporary = arena.folder / "told"
    temporary.write_text(what)
    temporary.rename(arena.folder / "trouble")
    (taken,) = arena.until(lambda: list(arena.folder.glob("trouble.*")), what=f"a worker to meet {what!r}")
    return f"worker {taken.suffix[1:]} while training, {states['RUNNING']} trials running"


KINDS = tuple(
    Kind(f"trial: {what}", functools.partial(_trouble, what=what))
    for what in ("hang", "nan", "out of memory", "killed for memory", "fork and die")
)
