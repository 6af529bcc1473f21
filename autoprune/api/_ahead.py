"""What a launch can read while something else starts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, StudyHandle

__all__ = ["ReadAhead", "reading_ahead"]


class ReadAhead:
    """Reads the history of a study in a thread of its own; made by `reading_ahead`.

    Args:
        study: A record of the study, on a database of its own; None where there is nothing to read.
    """

    def __init__(self, study: StudyHandle | None = None) -> None:
        self._study, self._is_read = study, False
        self._thread = threading.Thread(target=self._read, name="autoprune-read-ahead", daemon=True)
        self._thread.start()

    def give(self, record: StudyHandle) -> None:
        """Wait for the end of it, and have another record of the study know what was read."""
        self.end()
        if self._study is not None and self._is_read and self._study.study_id == record.study_id:
            record.know(self._study)

    def end(self) -> None:
        """Wait for the end of it."""
        self._thread.join()

    def _read(self) -> None:
        with contextlib.suppress(Exception):  # What goes wrong does so again when the history is asked for.
            if self._study is not None:
                self._study.history()
                self._is_read = True


@contextlib.contextmanager
def reading_ahead(url: str, name: str) -> Iterator[ReadAhead]:
    """Read a study's history while something else is done: a cluster takes seconds to start, and so do many trials.

    Args:
        url: Of the database, which need not be there.
        name: Of the study, which need not be there either.
    """
    with contextlib.ExitStack() as held:
        study = None
        with contextlib.suppress(AutopruneError):  # Who opens the database next is told.
            study = StudyHandle.open(held.enter_context(contextlib.closing(Database.open_readonly(url))), name)
        ahead = ReadAhead(study)
        held.callback(ahead.end)
        yield ahead
