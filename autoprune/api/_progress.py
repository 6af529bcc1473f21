"""What a launch tells while it runs."""

from __future__ import annotations

from autoprune.api._reading import Study
from autoprune.search.dispatch import RunningTrial, Snapshot

__all__ = ["Progress", "RunningTrial", "Snapshot"]


class Progress:
    """What a launch tells while it runs; every method may be overridden, and does nothing here."""

    def note(self, text: str) -> None:
        """One line for people."""

    def update(self, study: Study, snapshot: Snapshot) -> None:
        """Called about once a second while trials run."""

    def interrupted(self) -> None:
        """Called at the first Ctrl-C."""
