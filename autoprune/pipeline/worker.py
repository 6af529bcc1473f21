"""Entering a worker process, which runs one trial after another."""

from __future__ import annotations

import ctypes
import gc
import platform
from pathlib import Path

import torch

from autoprune.config import SettingSpec
from autoprune.engine.files import PhaseStore

__all__ = ["enter_worker", "phase_folder"]


def phase_folder(setting: SettingSpec) -> Path:
    """Where a study's phases are cached."""
    return Path(setting.artifacts) / "phases"


def enter_worker(setting: SettingSpec) -> PhaseStore:
    """Begin some work in a worker process, which may have done other work before; gives the study's phases."""
    hand_back()  # What the worker's last work has freed.
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    return PhaseStore(phase_folder(setting))


def hand_back() -> None:
    """Give freed memory back to the system; call it between trials.

    Each trial's networks have other widths, so what one has freed rarely fits the next, and glibc keeps it all: a
    worker that runs one trial after another would grow by tens of megabytes with each. On other C libraries only
    Python's own garbage is collected.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
