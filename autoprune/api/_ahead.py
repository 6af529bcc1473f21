"""What a launch can read while something else starts."""

from __future__ import annotations

import contextlib
import threading

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, StudyHandle

__all__ = ["ReadAhead"]


class ReadAhead:
    """Reads the history of a study in a thread of its own: a cluster takes seconds to start, and so do many trials.

    A study that is not there yet has none, and what goes wrong here does so again when the history is asked for.

    Args:
        url: Of the database, which need not be there.
        name: Of the study.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._read: StudyHandle | None = None
        self._thread = threading.Thread(target=self._look, name="autoprune-read-ahead", daemon=True)
        self._thread.start()

    def give(self, record: StudyHandle) -> None:
        """Wait for the end of it, and have a record of the study know what was read."""
        self._thread.join()
        if self._read is not None and self._read.study_id == record.study_id:
            record.know(self._read)

    def _look(self) -> None:
        with contextlib.suppress(AutopruneError), contextlib.closing(Database.open_readonly(self._url)) as db:
            study = StudyHandle.open(db, self._name)
            study.history()
            self._read = study
