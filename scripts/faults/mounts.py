"""Small file systems that can be filled and made read-only, where this machine lets us mount any."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["can_mount", "fill", "mounted", "readonly"]

_BLOCKS = (bytes(65536), bytes(4096))  # The large ones first; the last of it in pages.


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


@functools.cache
def can_mount() -> bool:
    """Whether we may."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        except (OSError, subprocess.CalledProcessError):
            return False
        _unmount(Path(folder))
    return True


@contextlib.contextmanager
def mounted(folder: Path, *, size_mb: int) -> Iterator[None]:
    """A file system of that size at a folder; the folder as it is, where none can be mounted."""
    if not can_mount():
        yield
        return
    _mount("-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder))
    try:
        yield
    finally:
        _unmount(folder)


@contextlib.contextmanager
def fill(folder: Path) -> Iterator[int]:
    """Take all that is free in a small file system; gives how many bytes that were."""
    if not os.path.ismount(folder):
        raise ValueError(f"only a file system of our own may be filled, but {folder} is none.")
    path, taken = folder / "ballast", 0
    try:
        with path.open("wb", buffering=0) as file:
            for block in _BLOCKS:
                with contextlib.suppress(OSError):
                    while n := file.write(block):
                        taken += n
        yield taken
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def readonly(folder: Path) -> Iterator[None]:
    """Nothing in a folder can be made, written or renamed any more; for root as well."""
    os.makedirs(folder, exist_ok=True)
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        _unmount(folder)
