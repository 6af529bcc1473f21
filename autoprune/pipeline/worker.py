"""Entering a worker process, which runs one trial after another."""

from __future__ import annotations

import ctypes
import gc
import platform
from pathlib import Path

import torch

from autoprune.config import SettingSpec
from autoprune.engine.files import PhaseStore

__all__ = ["enter_worker", "hold_freed", "phase_folder"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # Of malloc.h.
_HELD_BYTES = 2**30


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
    zeros: ResNet-20 trains 5 to 8 % faster without. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, _HELD_BYTES)


def hand_back() -> None:
    """Give freed memory back to the system; call it between trials.

    Each trial's networks have other widths, so what one has freed rarely fits the next, and glibc keeps it all: a
    worker that runs one trial after another would grow by tens of megabytes with each. On other C libraries only
    Python's own garbage is collected.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
