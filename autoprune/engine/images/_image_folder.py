"""The data source ``image_folder``."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from autoprune.config import DataSpec
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images.decoding import Arrays, decode_square, endings
from autoprune.engine.images.image_set import FolderImages, ImageSet
from autoprune.engine.images.paths import files_below, fingerprint_of, is_hidden, path_of
from autoprune.errors import DataError

__all__ = ["ImageFolder", "folder_classes", "folder_files"]

_log = logging.getLogger(__name__)

_HELD_BYTES = 4 * 2**30  # Decoded images above this are read through a DataLoader instead.


class ImageFolder(DataSource):
    """A folder for each part, with a folder of image files for each class."""

    name: ClassVar[str] = "image_folder"

    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """By content, and by the size that images are scaled to."""
        return fingerprint_of(self._path(spec, part), spec.image_size)

    def read(self, spec: DataSpec, part: str) -> Arrays:
        """All images, scaled and cropped."""
        paths, labels = self._files(spec, part)
        _tell_of_others(self._path(spec, part), len(paths))
        size = self._size(spec)
        images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
        for place, path in enumerate(paths):
            images[place] = decode_square(path, size)
        return images, np.array(labels)

    def open(self, spec: DataSpec, part: str, *, content: str, folder: Path) -> ImageSet:
        """The images, which stay files where they are too many to hold decoded."""
        paths, labels = self._files(spec, part)
        size = self._size(spec)
        if 3 * size * size * len(paths) > _HELD_BYTES:
            _tell_of_others(self._path(spec, part), len(paths))
            return FolderImages(paths, torch.tensor(labels), size)
        return super().open(spec, part, content=content, folder=folder)

    def _files(self, spec: DataSpec, part: str) -> tuple[list[str], list[int]]:
        return folder_files(self._path(spec, part), folder_classes(self._path(spec, "train")))

    @staticmethod
    def _size(spec: DataSpec) -> int:
        assert spec.image_size is not None  # A key that this source needs.
        return spec.image_size

    @staticmethod
    def _path(spec: DataSpec, part: str) -> Path:
        path = path_of(spec, part)
        if not path.is_dir():
            raise DataError(f"[data] `{part}`: an image folder must be a folder, but {path} is a file. Check the path.")
        return path


def folder_classes(root: Path) -> tuple[str, ...]:
    """Names of the classes of an image folder, in sorted order: its sub-folders, except hidden ones."""
    return tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def folder_files(root: Path, classes: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Paths and labels of an image folder, class by class in sorted order.

    An image is a file whose ending Pillow decodes (`decoding.endings`), in any case, in the folder of the class or one
    below it. What is hidden, by a name that begins with a dot, is passed over.

    Args:
        root: Has one sub-folder per class.
        classes: Those of the training set, so that one label is one class in every part of the data.

    Raises:
        DataError: There is no image, a class without one, or a class that is not among ``classes``.
    """
    here = folder_classes(root)
    if unknown := [name for name in here if name not in classes]:
        raise DataError(
            f"{root}: every class must be one of the training set's, but {unknown[0]!r} is not. "
            "Remove the folder, or train on it."
        )
    if not here:
        raise DataError(
            f"{root}: one folder of images per class must be here, but no folder was found. "
            "Move the images into folders that are named after their classes."
        )
    accepted, paths, labels = frozenset(endings()), [], []
    for label, name in enumerate(classes):
        if name not in here:
            continue
        files = _visible_files(root / name)
        images = [path for path in files if path.suffix.lower() in accepted]
        if not images:
            raise DataError(
                f"{root / name}: the folder of the class {name!r} must hold an image, but {_what_is_in(files)}. Add "
                f"images, or remove the folder. Endings that are read: {', '.join(endings())}."
            )
        if gone := next((path for path in images if not path.is_file()), None):
            raise DataError(f"{gone}: this must be a file, but is none, or a link to none. Mend or remove it.")
        paths += [str(path) for path in images]
        labels += [label] * len(images)
    return paths, labels


def _visible_files(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if not is_hidden(path, folder)]


def _what_is_in(files: list[Path]) -> str:
    """What the files of a class without an image are, such as ``"holds only .heic (3), .txt (1)"``."""
    kinds = Counter(path.suffix.lower() or "no ending" for path in files)
    return f"holds only {', '.join(f'{kind} ({n})' for kind, n in kinds.most_common(5))}" if kinds else "is empty"


def _tell_of_others(root: Path, n_images: int) -> None:
    """Warn of files in folders of classes that are not read, once they are decoded."""
    files = [path for name in folder_classes(root) for path in _visible_files(root / name)]
    if len(files) > n_images:
        others = [path for path in files if path.suffix.lower() not in endings()]
        kinds = _what_is_in(others).removeprefix("holds only ")
        _log.warning("%s: files of kinds that Pillow does not decode are passed over: %s.", root, kinds)
