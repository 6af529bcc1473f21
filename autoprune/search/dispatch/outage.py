"""A database whose server is away for a while: how long that is borne, and when it is asked again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from autoprune.errors import OutageError

__all__ = ["OUTAGE_S", "Outage", "Untold"]

OUTAGE_S = 1800.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0

T = TypeVar("T")


class Outage:
    """Whether the server is away, and since when.

    Args:
        up_to_s: How long it may be.
        tell: Told in a sentence that it has gone, and that it is back.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        *,
        up_to_s: float = OUTAGE_S,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._up_to_s, self._tell, self._clock = up_to_s, tell, clock
        self._since: float | None = None
        self._wait_s, self._ask_at = _FIRST_WAIT_S, 0.0

    @property
    def is_on(self) -> bool:
        """Whether the server did not answer when it was asked last."""
        return self._since is not None

    @property
    def may_ask(self) -> bool:
        """Whether it is time to ask it."""
        return self._since is None or self._clock() >= self._ask_at

    def met(self, error: OutageError) -> None:
        """It has not answered.

        Raises:
            OutageError: That error, where it has been away for too long.
        """
        now = self._clock()
        if self._since is None:
            self._since, self._wait_s = now, _FIRST_WAIT_S
            self._tell(
                "the database does not answer. Trials go on meanwhile, and what they find is told once it does; "
                f"it is asked again for up to {self._up_to_s / 60:g} min"
            )
        if now - self._since >= self._up_to_s:
            raise error
        self._ask_at, self._wait_s = now + self._wait_s, min(2 * self._wait_s, _LONGEST_WAIT_S)

    def over(self) -> None:
        """It has answered."""
        if self._since is not None:
            away_s, self._since = self._clock() - self._since, None
            self._tell(f"the database answers again, after {away_s:.0f} s")

    def ridden_out(
        self,
        call: Callable[[], T],
        *,
        go_on: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> T:
        """What a call of the database gives, however often it has to be made; for where nothing else is to be done.

        Args:
            call: May be made again after it has failed.
            go_on: Whether to make it again.
            sleep: Waits for so many seconds.

        Raises:
            OutageError: The server has been away for too long, or is while ``go_on`` says no.
        """
        while True:
            try:
                found = call()
            except OutageError as error:
                self.met(error)
                if not go_on():
                    raise
                sleep(max(0.0, self._ask_at - self._clock()))
            else:
                self.over()
                return found


class Untold(Generic[T]):
    """What the database is to be told, in order, while its server is away.

    Args:
        outage: Whether it is.
    """

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._waiting: deque[Callable[[], T | None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, deed: Callable[[], T | None], *, meanwhile: T | None = None) -> T | None:
        """Do what writes to the database; while the server is away it waits, with ``meanwhile`` for its answer.

        Raises:
            OutageError: The server has been away for too long.
        """
        if not self._outage.is_on:
            try:
                return deed()
            except OutageError as error:
                self._waiting.append(deed)
                self._outage.met(error)
                return meanwhile
        self._waiting.append(deed)
        return meanwhile

    def tell_all(self) -> None:
        """Do what has waited; what fails for an outage waits on, with all behind it."""
        while self._waiting:
            self._waiting[0]()
            self._waiting.popleft()
