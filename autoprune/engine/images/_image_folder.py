"""The data source ``image_folder``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from autoprune.config import DataSpec
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images.decoding import Arrays, decode_square
from autoprune.engine.images.image_set import FolderImages, ImageSet
from autoprune.engine.images.paths import fingerprint_of, path_of
from autoprune.errors import DataError

__all__ = ["ImageFolder", "folder_classes", "folder_files"]

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

    Args:
        root: Has one sub-folder per class.
        classes: Those of the training set, so that one label is one class in every part of the data.

    Raises:
        DataError: There is no image, or a class that is not among ``classes``.
    """
    if unknown := [name for name in folder_classes(root) if name not in classes]:
        raise DataError(
            f"{root}: every class must be one of the training set's, but {unknown[0]!r} is not. "
            "Remove the folder, or train on it."
        )
    endings = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
    paths, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            if path.suffix.lower() in endings:
                paths.append(str(path))
                labels.append(label)
    if not paths:
        raise DataError(f"{root}: one folder of images per class must be here, but no image was found.")
    return paths, labels
