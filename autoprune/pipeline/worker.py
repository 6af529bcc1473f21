"""Entering a worker process, which runs one trial after another."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
from pathlib import Path

import torch

from autoprune.config import SettingSpec
from autoprune.engine.files import PhaseStore

__all__ = ["enter_worker", "hand_back", "hold_freed", "phase_folder"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # Of malloc.h.
_HELD_BYTES, _HELD_BYTES_OF_OLD = 2**30, 2**25
_THRESHOLDS = ("trim_threshold", "mmap_threshold")


def phase_folder(setting: SettingSpec) -> Path:
    """Where a study's phases are cached."""
    return Path(setting.artifacts) / "phases"


def enter_worker(setting: SettingSpec) -> PhaseStore:
    """Begin some work in a worker process, which may have done other work before; gives the study's phases."""
    hand_back()  # What the worker's last work has freed.
    hold_freed()
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    return PhaseStore(phase_folder(setting))


def hold_freed() -> None:
    """Have what a training step frees lie ready for the next one, which needs as much; `hand_back` empties it.

    glibc would give large tensors back to the system at each step, to get them anew, page by page and filled with
    zeros. In a thread, such as Ray runs trials in, it does so whatever is said here, unless threads share the memory of
    the first one (``glibc.malloc.arena_max=1``, as in clusters that a launch starts). What the user says of either
    threshold holds, and other C libraries are left as they are.
    """
    libc = _glibc()
    if libc is None or _is_set_by_user():
        return
    # Of older ones 32 MiB is the most. The second call ends what glibc does by itself, so it stands on the first.
    if libc.mallopt(_M_MMAP_THRESHOLD, _HELD_BYTES) or libc.mallopt(_M_MMAP_THRESHOLD, _HELD_BYTES_OF_OLD):
        libc.mallopt(_M_TRIM_THRESHOLD, _HELD_BYTES)


def _is_set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{name.upper()}_" in os.environ or f"malloc.{name}" in tunables for name in _THRESHOLDS)


def hand_back() -> None:
    """Give freed memory back to the system; call it after each trial.

    Each trial's networks have other widths, so what one has freed rarely fits the next, and glibc keeps it all: a
    worker that runs one trial after another would grow by tens of megabytes with each. On other C libraries only
    Python's own garbage is collected.
    """
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """This process's C library where it is glibc; to find out, Python reads its own executable."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
