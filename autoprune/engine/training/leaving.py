"""A process that is told to end, as on a machine that is taken away: what trains in it first keeps what it has."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

__all__ = ["leaving"]

_GRACE_S = 20.0  # For a step and a file; spot machines and Slurm give half a minute.


class _Leaving:
    """Whether this process is about to end, and what still trains in it.

    A training in the main thread hears of SIGTERM itself. One in another thread, where Ray runs trials, cannot: there
    the main thread leaves, and waits at its exit.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._changed = threading.Condition()
        self._n_underway = 0
        self._is_waited_for = self._is_exiting = False

    @property
    def is_asked(self) -> bool:
        """Whether to keep what there is, and leave."""
        return self._asked.is_set()

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Have the end of the process wait for what trains inside."""
        if not self._is_waited_for:
            self._is_waited_for = True
            atexit.register(self._wait)
        with self._changed:
            self._n_underway += 1
        try:
            with self._hearing():
                yield
        finally:
            with self._changed:
                self._n_underway -= 1
                self._changed.notify_all()

    def leave(self) -> NoReturn:
        """End the training that is awaited here, which has kept what it has.

        Raises:
            SystemExit: In the main thread. Another one stays where it is until the process is gone: were it to free its
                tensors while Python ends, torch would abort the process.
        """
        if self._is_exiting and threading.current_thread() is not threading.main_thread():
            with self._changed:
                self._n_underway -= 1
                self._changed.notify_all()
            while True:
                threading.Event().wait()
        raise SystemExit(1)

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(signum: int, frame: FrameType | None) -> None:
            self._asked.set()

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if self.is_asked:
                self._asked.clear()
                signal.raise_signal(signal.SIGTERM)  # Now it does what it would have done.

    def _wait(self) -> None:
        self._is_exiting = True
        self._asked.set()
        with self._changed:
            self._changed.wait_for(lambda: self._n_underway == 0, timeout=_GRACE_S)


leaving = _Leaving()
