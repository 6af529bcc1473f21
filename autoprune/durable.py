"""Files that appear whole, and are still there after a power loss."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["make_folder", "replace"]

# What file systems say that know no flushing of folders.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def replace(*moves: tuple[Path, Path]) -> None:
    """Give finished files their names, in this order; other files of these names are replaced.

    All contents are on the disk before the first name is, and all names are before this returns: what tells of the
    files, such as a row of a database, comes afterwards and never stands alone.

    Args:
        moves: File and name, both of one folder.
    """
    for file, _ in moves:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    for file, name in moves:
        os.replace(file, name)
    for folder in dict.fromkeys(name.parent for _, name in moves):
        _flush(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, as far as they are not there, so that they stay."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _flush(each.parent)


def _flush(folder: Path) -> None:
    if os.name == "nt":  # Folders can't be opened there; a renamed file stays.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
