"""The shared phases that one driver has under way: taken, kept alive, then published or given up."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Literal

from autoprune.search.events import Events, silent
from autoprune.search.phases.ledger import PhaseRows

__all__ = ["PhaseLeases"]


class PhaseLeases:
    """Holds rows of the ledger on behalf of workers, which never touch the database; threads may share it.

    Args:
        rows: The ledger.
        owner: Name of this driver.
        grace_s: Seconds without a beat after which another one may take over.
        events: Told what becomes of phases.
    """

    def __init__(self, rows: PhaseRows, *, owner: str, grace_s: float, events: Events = silent) -> None:
        self._rows, self._owner, self._grace_s, self._events = rows, owner, grace_s, events
        self._mutex = threading.Lock()
        self._held: dict[int | str, str] = {}  # key by holder

    def take(self, key: str, kind: str, *, holder: int | str) -> Literal["ready", "mine", "busy"]:
        """Ask for a result on behalf of ``holder``; see `PhaseRows.claim`.

        Args:
            key: Hash of everything that the result depends on.
            kind: What it is, such as ``"dense"``.
            holder: Who of this driver would compute it, a trial's id or another name: what one of them is at, the
                others must not begin.
        """
        state = self._rows.claim(key, kind, owner=self._name(holder), grace_s=self._grace_s)
        if state == "mine":
            with self._mutex:
                self._held[holder] = key
            self._events("phase", what="taken", key=key, kind=kind, holder=holder)
        return state

    def publish(self, kind: str, *, holder: int | str, file: Mapping[str, Any]) -> bool:
        """Say that a result lies in the cache, whether it was computed now or found there.

        Args:
            kind: What it is.
            holder: Whose worker says so.
            file: Its ``key``, ``place``, ``sha256`` and ``size_bytes``.

        Returns:
            Whether this is news.
        """
        is_new = self._rows.publish(kind=kind, owner=self._name(holder), **file)
        with self._mutex:
            if self._held.get(holder) == file["key"]:
                del self._held[holder]
        if is_new:
            self._events("phase", what="published", kind=kind, holder=holder, **file)
        return is_new

    def give_up(self, holder: int | str) -> None:
        """Let others compute what ``holder`` has taken and not published, if anything."""
        with self._mutex:
            key = self._held.pop(holder, None)
        if key is not None:
            self._rows.give_up(key, self._name(holder))
            self._events("phase", what="given up", key=key, holder=holder)

    def forget(self, key: str) -> None:
        """Delete the row of a result whose file is gone or damaged."""
        self._rows.forget(key)

    def beat(self) -> None:
        """Say that all that is held is still being computed."""
        with self._mutex:
            held = dict(self._held)
        for holder, key in held.items():
            if not self._rows.beat(key, self._name(holder), grace_s=self._grace_s):
                with self._mutex:
                    if self._held.get(holder) == key:
                        del self._held[holder]  # Published meanwhile, or taken over.

    def _name(self, holder: int | str) -> str:
        return f"{self._owner}/{holder}"
