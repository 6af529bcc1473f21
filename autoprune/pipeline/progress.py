"""What a running trial tells its driver, and how long its phases take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autoprune.config import Progressed

__all__ = ["Clock", "Pulse", "Reporter"]

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


class Pulse:
    """Tells every few seconds how far a phase is and how fast; to be called after each of its steps.

    Args:
        report: Told.
        phase: Its name.
        images: Training images of a step; 0 where they are not counted.
        clock: Seconds, rising.
    """

    def __init__(
        self, report: Reporter, phase: str, *, images: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report, self._phase, self._images, self._clock = report, phase, images, clock
        self._told_at = -math.inf
        self._n_steps, self._first = 0, (0.0, 0.0)  # When the first step was done, and the share by then.

    def __call__(self, share: float) -> None:
        """Count a step, and tell the driver if it is time.

        Args:
            share: Of the phase that is done, in (0, 1].
        """
        self.count(share)
        if self._clock() - self._told_at >= _TELL_EVERY_S:
            self._told_at = self._clock()
            rate, left_s = self.pace(share)
            self._report(Progressed(phase=self._phase, progress=share, images_per_s=rate, seconds_left=left_s))

    def count(self, share: float) -> None:
        """Count a step of which the driver is told otherwise."""
        self._n_steps += 1
        if self._n_steps == 1:  # It is slower than all others, so the pace is that of what follows.
            self._first = self._clock(), share

    def pace(self, share: float) -> tuple[float | None, float | None]:
        """Images a second where they are counted, and seconds left of the phase; None before its second step."""
        start, before = self._first
        passed = self._clock() - start
        if self._n_steps < 2 or passed <= 0 or share <= before:
            return None, None
        rate = (self._n_steps - 1) * self._images / passed if self._images else None
        return rate, passed * (1 - share) / (share - before)
