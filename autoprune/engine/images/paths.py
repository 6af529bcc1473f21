"""Parts of the data that are files or folders: where they lie, and what identifies their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from autoprune.config import DataSpec, digest
from autoprune.engine.images._contract import untested
from autoprune.errors import ConfigError, DataError

__all__ = ["fingerprint_of", "path_of"]

_HASHED_BYTES = 2**30  # Above this a content hash costs minutes at every launch; names, sizes and times must do.
_READ_BYTES = 2**24


def path_of(spec: DataSpec, part: str) -> Path:
    """The file or folder of one part.

    Raises:
        ConfigError: It is the test set and not named.
        DataError: There is nothing there.
    """
    value = {"train": spec.train, "test": spec.test, "validation": spec.validation}[part]
    if value is None:
        raise ConfigError(untested("it names no `test`"))
    path = Path(value)
    if not path.exists():
        raise DataError(f"[data] `{part}`: there is nothing at {path}. Check the path.")
    return path


def fingerprint_of(path: Path, view: Any) -> str:
    """Hash a file or folder by content, or where that is large by names, sizes and times.

    Args:
        path: What to hash.
        view: What makes other images of the same files, or None where nothing does.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    if sum(size for _, size, _ in stats) > _HASHED_BYTES:
        return digest("files", stats, *([] if view is None else [view]))
    content = hashlib.sha256(b"" if view is None else digest(view).encode())
    for file in files:
        content.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_READ_BYTES):
                content.update(chunk)
    return content.hexdigest()[:16]
