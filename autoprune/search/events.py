"""What a driver does, written down as it happens: one line of JSON for each event."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from autoprune.errors import ConfigError

__all__ = ["EventLog", "Events", "silent"]

_log = logging.getLogger(__name__)


class Events(Protocol):
    """Takes events in; threads and signal handlers may call it."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Say that something has happened.

        Args:
            event: What, one of the names in the table of `studies/README.md`.
            facts: About it, JSON.
        """


def silent(event: str, /, **facts: Any) -> None:
    """Nobody wants to know."""


class EventLog:
    """A file to which each event is appended with the time and what all of a driver's events share.

    Several drivers may write to one file. A line is one write, so that no two of them mix, whichever thread or signal
    handler they come from. That the disk is full does not end a study: what is lost is told once.

    Args:
        path: The file, made where it is not there; its folder is.

    Raises:
        ConfigError: It can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shared: dict[str, Any] = {}
        self._is_broken = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(
                f"`--log` must be a file that can be written, but {str(path)!r} is not: {reason}."
            ) from None

    def share(self, **facts: Any) -> None:
        """Write these facts with each event from now on."""
        self._shared.update(facts)

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Append an event."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"at": at, "event": event, **self._shared, **facts}, default=str) + "\n"
        try:
            os.write(self._file, line.encode())
        except OSError as error:
            if not self._is_broken:
                _log.warning("events can't be written to %s any longer: %s", self._path, error.strerror)
            self._is_broken = True

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)
