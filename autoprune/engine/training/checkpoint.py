"""A training that another process can take up where this one has left off, should it die."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.engine.files import keep_checkpoint, read_checkpoint
from autoprune.engine.training.leaving import leaving
from autoprune.engine.training.loop import Training

__all__ = ["Checkpoint"]

_EVERY_S, _AT_MOST_EVERY_S = 30.0, 55.0
_SHARE = 0.05  # Of the time may go into keeping, as long as that loses no more than a minute.


class Checkpoint:
    """Where one training under way is kept, every half minute and when its process is told to end.

    Args:
        path: Named by all that the training depends on, so that whoever trains the same goes on with it, and nobody
            else does.
        every_s: Seconds between two times.
        clock: Seconds, rising.
    """

    def __init__(self, path: Path, *, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._every_s, self._clock = path, every_s, clock
        self._next_at = clock() + every_s

    def restore(self, training: Training) -> dict[str, Any] | None:
        """Take a training that was made from the same arguments to where it was kept.

        Returns:
            What was kept beside it; None where nothing was, and the training is as it was.
        """
        found = read_checkpoint(self._path)
        if found is None:
            return None
        state, told = found
        training.load_state_dict(state)
        return told

    def run(
        self,
        training: Training,
        on_step: Callable[[float], None] = lambda share: None,
        *,
        told: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Take the steps that remain.

        Args:
            training: Restored before, where there was something to restore.
            on_step: Called after each step with the share of the phase done, in (0, 1].
            told: What to keep beside the training.

        Raises:
            SystemExit: The process is told to end; the training is kept.
        """

        def after_step(share: float) -> None:
            on_step(share)
            if leaving.is_asked or self._clock() >= self._next_at:
                self.keep(training, told())
            if leaving.is_asked:
                leaving.leave()

        with leaving.awaited():
            training.run(after_step)

    def keep(self, training: Training, told: Mapping[str, Any]) -> None:
        """Write it, between two steps."""
        start = self._clock()
        keep_checkpoint(self._path, training.state_dict(), told)
        took_s = self._clock() - start
        self._next_at = self._clock() + max(self._every_s, min(took_s / _SHARE, _AT_MOST_EVERY_S))

    def drop(self) -> None:
        """The training is over, and its result is kept elsewhere."""
        self._path.unlink(missing_ok=True)
