"""What ends a driver before its study is finished: time, an interrupt, a request, failures, or an error of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from autoprune.errors import StudyFailedError
from autoprune.search.dispatch.records import Stopping
from autoprune.search.trials import Lifecycle

__all__ = ["FailureCaps", "WindDown"]


@dataclass(frozen=True)
class FailureCaps:
    """How many failed trials end a study, counted from the launch.

    Args:
        in_a_row: Failures with no finished trial between them, >= 1.
        in_all: Failures in total, >= 1.
    """

    in_a_row: int
    in_all: int


class WindDown:
    """Whether a driver winds down, and why; the first reason stays, but for an error of the driver itself.

    Args:
        lifecycle: The driver's view of the trials.
        caps: Failures that end the study.
        time_limit_s: Seconds from now after which the driver winds down, or None.
        clock: This process's seconds, which never go back; the dispatcher goes by it as well.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        caps: FailureCaps,
        time_limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifecycle, self._caps = lifecycle, caps
        self._since = lifecycle.newest_trial_id()
        self._entered_at = lifecycle.study.db.now()
        self.time_limit_s, self.clock = time_limit_s, clock
        self._deadline = None if time_limit_s is None else clock() + time_limit_s
        self._why: Stopping | None = None
        self._error: Exception | None = None

    @property
    def why(self) -> Stopping | None:
        """Why the driver winds down, or None while it does not."""
        if self.seconds_left == 0:
            self.begin(Stopping.TIME)
        return self._why

    @property
    def seconds_left(self) -> float | None:
        """Until the time limit, or None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self.clock())

    def begin(self, why: Stopping, error: Exception | None = None) -> None:
        """Wind down from now on, unless the driver does already; ``error`` is what `raise_if_failed` raises."""
        if self._why is None:
            self._why, self._error = why, error

    def broke(self, error: Exception) -> None:
        """Wind down because of an error of the driver itself."""
        self._why, self._error = Stopping.BROKEN, error

    def raise_if_failed(self) -> None:
        """Raise the error that ended the study early, if one did."""
        if self._error is not None:
            raise self._error

    def look_for_request(self) -> None:
        """Wind down where somebody has asked for it since the driver entered."""
        if self._why is None and self._lifecycle.study.stop_requested_since(self._entered_at):
            self.begin(Stopping.REQUEST)

    def count_failures(self) -> None:
        """Wind down where more trials have failed than may."""
        failures = self._lifecycle.failures(self._since)
        if failures.consecutive >= self._caps.in_a_row or failures.total >= self._caps.in_all:
            message = (
                f"{failures.total} trials failed, {failures.consecutive} of them in a row, so the study was ended. "
                f"The first error, of trial {failures.first_number}: {failures.first_reason}"
            )
            self.begin(Stopping.FAILURES, StudyFailedError(message))
