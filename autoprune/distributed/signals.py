"""What SIGINT, SIGTERM and SIGHUP do to a process that drives a cluster, by whatever way they come."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

__all__ = ["Interruptible", "Signals", "heed_signals"]

# `timeout`, Slurm and containers signal the process, and then its whole group: within so many seconds that is one.
_ONE_S = 1.0
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
INTERRUPTED = 130


class Interruptible(Protocol):
    """What winds down when it is told to."""

    def interrupt(self) -> None:
        """Wind down; called within a signal handler."""


class Signals:
    """What signals do: the first ends the work, another one the process; made by `heed_signals`.

    While something obeys them, the first tells it to wind down. Before and after that there is nothing to wind down:
    the first then raises KeyboardInterrupt, which lets go of whatever is held.
    """

    def __init__(self) -> None:
        self._first_at: float | None = None
        self._desk: Interruptible | None = None
        self._on_interrupt: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def obeyed(self, desk: Interruptible, on_interrupt: Callable[[], None]) -> Iterator[None]:
        """Have ``desk`` wind down at the first signal inside, and call ``on_interrupt``."""
        self._desk, self._on_interrupt = desk, on_interrupt
        try:
            yield
        finally:
            self._desk = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """A signal has come."""
        now = time.monotonic()
        if self._first_at is not None:
            if now - self._first_at > _ONE_S:
                os._exit(INTERRUPTED)  # The leases then expire by themselves.
            return
        self._first_at = now
        if self._desk is None:
            raise KeyboardInterrupt
        self._desk.interrupt()
        self._on_interrupt()


@contextlib.contextmanager
def heed_signals() -> Iterator[Signals]:
    """Handle SIGINT, SIGTERM and SIGHUP inside; what is ignored, as by ``nohup`` and in the background, stays so.

    Only the main thread hears signals, so that in another one nothing changes.
    """
    signals, before = Signals(), dict[int, Any]()
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, signals.handle) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
