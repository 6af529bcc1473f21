"""What a running trial tells its driver, and how long its phases take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autoprune.config import Progressed

__all__ = ["Clock", "Reporter", "throttled"]

Reporter = Callable[[Progressed], None]
"""Given each word of a running trial; it may raise to stop the trial."""

_TELL_EVERY_S = 2.0  # Between rungs, so that a stop is obeyed within seconds.


class Clock:
    """Seconds spent in each phase."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take the time of what happens inside."""
        start = time.monotonic()
        yield
        self.wall_s[name] = round(time.monotonic() - start, 3)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count seconds of one phase as those of another."""
        self.wall_s[source] = round(self.wall_s[source] - seconds, 3)
        self.wall_s[target] = round(self.wall_s.get(target, 0.0) + seconds, 3)


def throttled(report: Reporter, phase: str) -> Callable[[float], None]:
    """Reports the share of a phase that is done, every few seconds; to be called after each step."""
    reported_at = -math.inf

    def on_step(share: float) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= _TELL_EVERY_S:
            reported_at = time.monotonic()
            report(Progressed(phase=phase, progress=share))

    return on_step
