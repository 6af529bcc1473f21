"""Hands memory that a trial has freed back to the system."""

from __future__ import annotations

import ctypes
import gc
import platform

__all__ = ["hand_back"]


def hand_back() -> None:
    """Give freed memory back to the system; call it between trials.

    Each trial's networks have other widths, so what one has freed rarely fits the next, and glibc keeps it all: a
    worker that runs one trial after another would grow by tens of megabytes with each. On other C libraries only
    Python's own garbage is collected.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
