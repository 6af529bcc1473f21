"""Folders that drivers make for Ray Tune's own files, and that name their driver."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from autoprune.search.files.leftovers import OLD_S, DriverSigns
from autoprune.search.trials import is_gone

__all__ = ["OWNER_FILE", "make_scratch", "remove_scratch", "stale_scratch"]

OWNER_FILE = "owner"
_MADE = "tune-"
_MAKING = f".{_MADE}"  # One that does not name its driver yet.


def make_scratch(folder: Path, owner: str) -> Path:
    """Make a scratch folder for a driver, so that what one leaves that is killed can be told.

    Args:
        folder: Where scratch folders lie; it is made as well.
        owner: The driver.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=folder))
    (made / OWNER_FILE).write_text(owner)
    return made.rename(made.with_name(_MADE + made.name.removeprefix(_MAKING)))


def stale_scratch(folder: Path, signs: DriverSigns) -> list[Path]:
    """Scratch folders whose driver is known to have ended.

    Of one that names no driver nothing is left, since `remove_scratch` was cut short, or it is stale when nobody has
    touched anything in it for an hour and no driver is at work.

    Args:
        folder: Where scratch folders lie.
        signs: Who may be alive.
    """
    stale = []
    for scratch in sorted((*folder.glob(f"{_MADE}*"), *folder.glob(f"{_MAKING}*"))):
        if scratch.is_symlink() or not scratch.is_dir():
            continue
        try:
            owner = (scratch / OWNER_FILE).read_text()
        except OSError:
            owner = ""
        if owner:
            is_stale = owner in signs.ended or is_gone(owner)
        else:
            is_left = not scratch.name.startswith(_MAKING) and _is_empty(scratch)
            is_stale = is_left or (not signs.alive and _is_old(scratch))
        if is_stale:
            stale.append(scratch)
    return stale


def remove_scratch(folder: Path) -> None:
    """Delete a scratch folder, the name of its driver last, so that what is left is known for what it is.

    Others may delete it at the same time, or write to it: what they leave is found by the next `clean`.

    Raises:
        OSError: Something can't be deleted.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_missing)
            elif path.name != OWNER_FILE:
                path.unlink(missing_ok=True)
        (folder / OWNER_FILE).unlink(missing_ok=True)
        folder.rmdir()


def _unless_missing(function: object, path: str, info: tuple[Any, BaseException, Any]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _is_empty(folder: Path) -> bool:
    try:
        return next(folder.iterdir(), None) is None
    except OSError:
        return False


def _is_old(folder: Path) -> bool:
    newest = max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
    return time.time() - newest > OLD_S
