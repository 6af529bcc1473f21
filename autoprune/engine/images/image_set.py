"""Images and labels, held decoded or read from files batch by batch."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoprune import durable
from autoprune.engine.images.decoding import Arrays, decode_square
from autoprune.errors import DataError

__all__ = ["FolderImages", "ImageSet", "held"]


class ImageSet(ABC):
    """Labelled images of one size."""

    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index_batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, uint8, shape (N, C, H, W)."""

    @abstractmethod
    def subset(self, indices: Tensor) -> ImageSet:
        """The images at ``indices``, in that order."""


class _HeldImages(ImageSet):
    """Images decoded once and memory-mapped, so that all workers share one copy."""

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        self._images, self._all_labels = images, labels
        self._indices = torch.arange(len(labels)) if indices is None else indices
        self.labels = labels[self._indices]
        self.shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))

    def read(self, index_batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for indices in index_batches:
            yield self._images[self._indices[indices]]

    def subset(self, indices: Tensor) -> ImageSet:
        return _HeldImages(self._images, self._all_labels, self._indices[indices])


def _lists(index_batches: Iterable[Tensor]) -> Iterator[list[int]]:
    for batch in index_batches:  # One at a time: those of a whole phase fill gigabytes.
        yield batch.tolist()


class _FolderFiles(torch.utils.data.Dataset[Tensor | DataError]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            return torch.from_numpy(decode_square(self.paths[index], self.size))
        except DataError as error:  # Raised in a worker, it would come out as the worker's traceback.
            return error


def _batch(items: list[Tensor | DataError]) -> Tensor | DataError:
    images = [item for item in items if isinstance(item, Tensor)]
    if len(images) == len(items):
        stacked: Tensor = torch.utils.data.default_collate(images)
        return stacked
    return next(item for item in items if isinstance(item, DataError))


class FolderImages(ImageSet):
    """Images too many to hold decoded: read by DataLoader workers, batch by batch."""

    def __init__(self, paths: list[str], labels: Tensor, size: int) -> None:
        self._paths, self._size = paths, size
        self.labels, self.shape = labels, (3, size, size)

    def read(self, index_batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode each batch when its turn comes, a few ahead."""
        loader = torch.utils.data.DataLoader(
            _FolderFiles(self._paths, self._size),
            batch_sampler=_lists(index_batches),
            collate_fn=_batch,
            num_workers=min(8, os.cpu_count() or 1),
            pin_memory=torch.accelerator.is_available(),
            generator=torch.Generator(),  # Its own: the global one is not ours to draw from.
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def subset(self, indices: Tensor) -> ImageSet:
        """The files at ``indices``."""
        return FolderImages([self._paths[i] for i in indices.tolist()], self.labels[indices], self._size)


def held(folder: Path, key: str, read: Callable[[], Arrays]) -> ImageSet:
    """Decode once into ``folder``; afterwards every process maps the same bytes."""
    names = {part: folder / f"{key}.{part}.npy" for part in ("images", "labels")}
    if not all(path.exists() for path in names.values()):
        durable.make_folder(folder)
        pixels, labels = read()
        temporary = {part: folder / f"{key}.{part}.{uuid.uuid4().hex}.tmp.npy" for part in names}
        np.save(temporary["images"], pixels)
        np.save(temporary["labels"], labels)
        durable.replace(*((temporary[part], name) for part, name in names.items()))
    # Copy-on-write: pages are shared between workers, yet torch sees a writable array and stays silent.
    images = torch.from_numpy(np.load(names["images"], mmap_mode="c"))
    return _HeldImages(images, torch.from_numpy(np.load(names["labels"])))
