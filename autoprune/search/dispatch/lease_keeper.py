"""Which trials this driver holds, and the thread that keeps their leases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from autoprune.search.dispatch.records import Live
from autoprune.search.phases import PhaseLeases
from autoprune.search.trials import Claim, Lifecycle

__all__ = ["LeaseKeeper"]

_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Holds the claimed trials, live under their handle or parked, and renews their leases while it is entered.

    Only the thread writes which live trials are lost; all else belongs to the thread that hands trials out.

    Args:
        lifecycle: This driver's view of the trials.
        phases: Its shared phases, whose leases are kept as well.
        on_beat: Called after each beat, in the thread.
    """

    def __init__(self, lifecycle: Lifecycle, phases: PhaseLeases, *, on_beat: Callable[[], None]) -> None:
        self._lifecycle, self._phases, self._on_beat = lifecycle, phases, on_beat
        self.live: dict[str, Live] = {}
        self.parked: dict[int, Claim] = {}  # by trial id, the one parked longest first
        self._ended: set[int] = set()  # Of which the database has not been told yet.
        self._mutex = threading.Lock()
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="autoprune-leases", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        self._thread.join(timeout=10)

    @property
    def is_empty(self) -> bool:
        """Whether this driver holds no trial."""
        return not self.live and not self.parked and not self._ended

    def run(self, handle: str, claim: Claim) -> None:
        """The trial runs now, under ``handle``."""
        with self._mutex:
            self.parked.pop(claim.trial_id, None)
            self.live[handle] = Live(claim)

    def park(self, claim: Claim) -> None:
        """The trial has to wait."""
        with self._mutex:
            self.parked[claim.trial_id] = claim

    def end(self, handle: str) -> Live | None:
        """The trial under ``handle`` runs no longer, but is held until it is told; None where there is none."""
        with self._mutex:
            live = self.live.pop(handle, None)
            if live is not None:
                self._ended.add(live.claim.trial_id)
            return live

    def told(self, trial_id: int) -> None:
        """The database knows how the trial ended."""
        with self._mutex:
            self._ended.discard(trial_id)

    def unpark(self, trial_id: int) -> None:
        """The trial waits no longer."""
        with self._mutex:
            self.parked.pop(trial_id, None)

    def _keep(self) -> None:
        while not self._quit.wait(self._lifecycle.grace_s / 5):
            try:
                self.beat()
                self._on_beat()
            except Exception as error:  # A lease outlives a few missed beats; the next one may get through.
                _log.warning("the leases could not be renewed: %s", error)

    def beat(self) -> None:
        """Renew all leases now.

        Raises:
            StorageError: The database does not answer.
        """
        with self._mutex:
            trial_ids = {live.claim.trial_id for live in self.live.values()} | self.parked.keys() | self._ended
            found = {live.claim.trial_id: live.underway.progress_told for live in self.live.values()}
        lost = self._lifecycle.beat(trial_ids, progress=found)
        with self._mutex:
            for live in self.live.values():
                live.lost = live.lost or live.claim.trial_id in lost
            for trial_id in lost:
                self.parked.pop(trial_id, None)
        self._phases.beat()
