"""Optuna's notices, held back where they are not for people."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet(name: str, *, up_to: int = logging.INFO) -> Iterator[None]:
    """Hold back what the logger ``name`` tells in this thread, such as "a new study created".

    The user's log levels are left alone.

    Args:
        name: Name of the logger itself; those below it are not meant.
        up_to: The highest level that is held back.
    """
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > up_to

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
