"""Parts of the data that are files or folders: where they lie, and what identifies their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from autoprune.config import DataSpec, digest
from autoprune.engine.images._contract import untested
from autoprune.errors import ConfigError, DataError

__all__ = ["files_below", "fingerprint_of", "is_hidden", "path_of"]

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


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a name between ``root`` and the end of ``path`` begins with a dot."""
    return any(part.startswith(".") for part in path.parts[len(root.parts) :])


def files_below(root: Path) -> list[Path]:
    """Everything in a folder and in the folders in it that is no folder itself, sorted; links are followed.

    Links that lead nowhere are among them: who needs the file says so. Hidden folders are entered where that is allowed
    and they are no links.

    Raises:
        DataError: A folder can't be read, or a link leads back to a folder that it lies in.
    """
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(root, (root.resolve(),))]
    while waiting:
        folder, way = waiting.pop()  # And the real folders that it was reached through, itself at last.
        try:
            with os.scandir(folder) as opened:
                entries = [(folder / entry.name, entry.is_dir(), entry.is_symlink()) for entry in opened]
        except OSError as error:
            if is_hidden(folder, root):
                continue
            raise DataError(
                f"{folder}: this must be a folder that can be read, but it can't: {error.strerror or error}. "
                "Give yourself the right to read it, or remove it."
            ) from error
        for path, is_folder, is_link in entries:
            if not is_folder:
                found.append(path)
            elif not is_link:
                waiting.append((path, (*way[:-1], way[-1] / path.name)))
            elif not is_hidden(path, root):
                waiting.append((path, (*way, _target(path, way))))
    return sorted(found)


def _target(link: Path, way: tuple[Path, ...]) -> Path:
    target = link.resolve()
    if any(folder.is_relative_to(target) for folder in way):
        raise DataError(
            f"{link}: a link must not lead back to a folder that it lies in, but it leads to {target}. Remove it."
        )
    return target


def fingerprint_of(path: Path, view: Any) -> str:
    """Hash a file or folder by content, or where that is large by names, sizes and times.

    Args:
        path: What to hash.
        view: What makes other images of the same files, or None where nothing does.
    """
    files = [path] if path.is_file() else [file for file in files_below(path) if file.is_file()]
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
