"""What a launch can read while something else starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, StudyHandle

__all__ = ["reading_ahead"]


@contextlib.contextmanager
def reading_ahead(url: str, name: str) -> Iterator[Callable[[StudyHandle], None]]:
    """Read a study's history while something else is done: a cluster takes seconds to start, and so do many trials.

    Args:
        url: Of the database, which need not be there.
        name: Of the study, which need not be there either.

    Yields:
        What waits for the end of it, and has another record of the study know what was read.
    """
    with contextlib.ExitStack() as held:
        read: tuple[StudyHandle, Future[Any]] | None = None
        with contextlib.suppress(AutopruneError):  # Who opens the database next is told.
            study = StudyHandle.open(held.enter_context(contextlib.closing(Database.open_readonly(url))), name)
            read = study, held.enter_context(ThreadPoolExecutor(1, "autoprune-read-ahead")).submit(study.history)

        def give(record: StudyHandle) -> None:
            # What went wrong does so again, and is told, when the history is asked for.
            if read is not None and read[1].exception() is None and read[0].study_id == record.study_id:
                record.know(read[0])

        yield give
