"""Training that must end in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Pacer"]

_EVERY = 10  # Steps between two looks at the clock, and before the first.
_SPARE = 0.02  # What a step's mean time is taken to be longer than measured.


class Shortenable(Protocol):
    """A phase of training under way."""

    step: int
    n_steps: int

    def shorten(self, n_steps: int) -> None:
        """End after so many steps in all."""


class Pacer:
    """Shortens a phase of training that would not end in time, as soon as that can be told.

    Args:
        training: The phase; `look` is to be called after each of its steps.
        time_left: Seconds that it may still take.
        clock: Seconds, rising.
    """

    def __init__(
        self, training: Shortenable, time_left: Callable[[], float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._training, self._time_left, self._clock = training, time_left, clock
        self._start, self._looks = clock(), 0

    def look(self) -> None:
        """Compare what remains with the time that is left."""
        training, done, self._looks = self._training, self._looks, self._looks + 1
        if done == 0:
            self._start = self._clock()  # The first step is slower than all others.
        elif done % _EVERY == 0:
            step_s = (self._clock() - self._start) / done * (1 + _SPARE)
            fitting = int(max(0.0, self._time_left()) / step_s) if step_s > 0 else training.n_steps
            training.shorten(training.step + max(1, fitting))
