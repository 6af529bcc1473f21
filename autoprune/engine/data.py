"""Images and labels: read once, kept as bytes, split honestly, augmented in whole batches."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.engine._sources import (
    Arrays,
    decode_square,
    fingerprint,
    folder_classes,
    folder_files,
    path_of,
    read_arrays,
)
from autoprune.errors import ConfigError, DataError
from autoprune.spec import DataSpec, digest, seed_of

__all__ = ["ImageSet", "Preprocess", "Splits", "augment", "load_splits", "load_test"]

_HELD_BYTES = 4 * 2**30  # Decoded image folders above this are read through a DataLoader instead.
_SAMPLED_IMAGES = 10_000  # For mean and deviation;
_SAMPLED_BYTES = 2**28  # fewer where they are large, since each process that starts looks at them.


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


class _FolderFiles(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(decode_square(self.paths[index], self.size))


class _FolderImages(ImageSet):
    """Images too many to hold decoded: read by DataLoader workers, batch by batch."""

    def __init__(self, paths: list[str], labels: Tensor, size: int) -> None:
        self._paths, self._size = paths, size
        self.labels, self.shape = labels, (3, size, size)

    def read(self, index_batches: Iterable[Tensor]) -> Iterator[Tensor]:
        loader = torch.utils.data.DataLoader(
            _FolderFiles(self._paths, self._size),
            batch_sampler=_lists(index_batches),
            num_workers=min(8, os.cpu_count() or 1),
            pin_memory=torch.accelerator.is_available(),
            generator=torch.Generator(),  # Its own: the global one is not ours to draw from.
        )
        yield from loader

    def subset(self, indices: Tensor) -> ImageSet:
        return _FolderImages([self._paths[i] for i in indices.tolist()], self.labels[indices], self._size)


@dataclass(frozen=True)
class Preprocess:
    """Bytes to normalised floats: ``(x / 255 - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, device: torch.device) -> Tensor:
        """Normalise a uint8 batch, shape (N, C, H, W), on ``device``, in channels-last layout."""
        moved = images.to(device, non_blocking=True).float()
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1) * 255
        return ((moved - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Splits:
    """The training data of a study, split in two; the test split is loaded by `load_test` alone.

    Args:
        train: Images that may be trained on.
        validation: Images that score the search.
        n_classes: Number of labels.
        preprocess: Normalisation.
        fingerprint: Hash of the data's content, of both the training and the test part.
        indices_digest: Hash of which images are in which split.
    """

    train: ImageSet
    validation: ImageSet
    n_classes: int
    preprocess: Preprocess
    fingerprint: str
    indices_digest: str


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Augment a whole uint8 batch at once.

    Args:
        images: Shape (N, C, H, W).
        kind: ``"none"``, ``"shift"`` (random crop after padding by H // 8) or ``"crop_flip"`` (the
            same and a random horizontal flip).
        generator: Source of randomness, on the CPU.

    Returns:
        Images of the same shape.
    """
    if kind == "none":
        return images
    n, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = F.pad(images, (pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=generator)
    rows = offsets[:, :1] + torch.arange(height)
    columns = offsets[:, 1:] + torch.arange(width)
    if kind == "crop_flip":
        flip = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    picked = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _held(folder: Path, key: str, read: Callable[[], Arrays]) -> ImageSet:
    """Decode once into ``folder``; afterwards every process maps the same bytes."""
    names = {part: folder / f"{key}.{part}.npy" for part in ("images", "labels")}
    if not all(path.exists() for path in names.values()):
        folder.mkdir(parents=True, exist_ok=True)
        images_read, labels_read = read()
        for part, array in (("images", images_read), ("labels", labels_read)):
            temporary = folder / f"{key}.{part}.{uuid.uuid4().hex}.tmp.npy"
            np.save(temporary, array)
            os.replace(temporary, names[part])
    # Copy-on-write: pages are shared between workers, yet torch sees a writable array and stays silent.
    images = torch.from_numpy(np.load(names["images"], mmap_mode="c"))
    return _HeldImages(images, torch.from_numpy(np.load(names["labels"])))


def _decode_files(paths: list[str], labels: list[int], size: int) -> Arrays:
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    for place, path in enumerate(paths):
        images[place] = decode_square(path, size)
    return images, np.array(labels)


def _open(spec: DataSpec, part: str, content: str, *, folder: Path) -> ImageSet:
    key = digest("images", content, spec.image_size)
    if spec.source == "image_folder":
        path, trained_on = path_of(spec, part), path_of(spec, "train")
        assert path is not None
        assert trained_on is not None
        assert spec.image_size is not None
        size = spec.image_size
        paths, labels = folder_files(path, folder_classes(trained_on))
        if 3 * size * size * len(paths) > _HELD_BYTES:
            return _FolderImages(paths, torch.tensor(labels), size)
        return _held(folder, key, lambda: _decode_files(paths, labels, size))
    return _held(folder, key, lambda: read_arrays(spec, part))


def _split(n: int, rule: str, fingerprint: str) -> tuple[Tensor, Tensor]:
    kind, _, amount = rule.partition(":")
    try:
        held = round(float(amount) * n) if kind == "random" else int(amount)
    except (ValueError, OverflowError):
        raise ConfigError(
            f'[data] `validation` must look like "last:5000" or "random:0.1", or be a path, but got {rule!r}.'
        ) from None
    if not 0 < held < n:
        raise ConfigError(
            f"[data] `validation` must leave images on both sides, but {rule!r} holds out {held} of {n} images."
        )
    order = torch.arange(n)
    if kind == "random":
        # From the data, not from the study's seed: studies of other seeds score on the same images.
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of("validation", fingerprint, rule)))
    return order[:-held].sort().values, order[-held:].sort().values


def _statistics(images: ImageSet, spec: DataSpec) -> Preprocess:
    channels = images.shape[0]
    if (spec.mean is None) != (spec.std is None) or (spec.mean is not None and len(spec.mean) != channels):
        raise ConfigError(f"[data] `mean` and `std` must both hold {channels} numbers, one per image channel.")
    if spec.mean is not None and spec.std is not None:
        return Preprocess(spec.mean, spec.std)
    n_sampled = max(2, min(len(images), _SAMPLED_IMAGES, _SAMPLED_BYTES // math.prod(images.shape)))
    picked = torch.arange(n_sampled) * (len(images) - 1) // (n_sampled - 1)
    count, total, squares = 0, torch.zeros(channels, dtype=torch.int64), torch.zeros(channels, dtype=torch.int64)
    for batch in images.read(picked.split(500)):  # Sums of bytes are exact, so they need not be held together.
        pixels = batch.movedim(1, 0).flatten(1).long()
        count, total, squares = count + pixels.shape[1], total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total.double() / count
    variance = (squares.double() - total.double() * mean) / (count - 1)
    std = (variance.clamp_min(0).sqrt() / 255).clamp_min(1e-3)
    return Preprocess(tuple((mean / 255).tolist()), tuple(std.tolist()))


def _check_alike(images: ImageSet, part: str, *, shape: tuple[int, int, int], n_classes: int) -> None:
    if images.shape != shape or int(images.labels.max()) >= n_classes:
        raise DataError(
            f"[data] `{part}` must be like the training set, images of shape {shape} with labels below "
            f"{n_classes}, but holds images of shape {images.shape} with labels up to {int(images.labels.max())}."
        )


def load_splits(spec: DataSpec, *, folder: Path) -> Splits:
    """Open the training data and split it; the test split is fingerprinted, never decoded.

    Args:
        spec: Where the data is.
        folder: Where decoded images are kept, to be shared between processes.

    Raises:
        DataError: Missing or unreadable data, images of different sizes.
        ConfigError: A split that leaves one side empty.
    """
    prints = {"train": fingerprint(spec, "train")}
    images = _open(spec, "train", prints["train"], folder=folder)
    n_classes = int(images.labels.max()) + 1
    if spec.source == "digits" or spec.test is not None:
        prints["test"] = fingerprint(spec, "test")
        if prints["test"] == prints["train"]:
            raise DataError("[data] `train` and `test` hold the same data. A test split must be its own.")
    if spec.validation.startswith(("last:", "random:")):
        train_at, held_at = _split(len(images), spec.validation, prints["train"])
        train, validation = images.subset(train_at), images.subset(held_at)
        indices_digest = hashlib.sha256(json.dumps([train_at.tolist(), held_at.tolist()]).encode()).hexdigest()[:16]
    elif spec.source in ("parquet", "image_folder"):
        prints["validation"] = indices_digest = fingerprint(spec, "validation")
        if prints["validation"] in (prints["train"], prints.get("test")):
            raise DataError("[data] `validation` holds the same data as the training or the test set. Hold out a part.")
        train, validation = images, _open(spec, "validation", prints["validation"], folder=folder)
        _check_alike(validation, "validation", shape=images.shape, n_classes=n_classes)
    else:
        raise ConfigError(
            f'[data] `validation` must look like "last:5000" or "random:0.1" here, but got {spec.validation!r}.'
        )
    return Splits(train, validation, n_classes, _statistics(train, spec), digest(prints), indices_digest)


def load_test(spec: DataSpec, splits: Splits, *, folder: Path) -> tuple[ImageSet, str]:
    """Open the test split, which no part of the search may see.

    Args:
        spec: Where the data is.
        splits: What was trained and chosen on; the test split must be like it, and must not be it.
        folder: Where decoded images are kept, to be shared between processes.

    Returns:
        The images, and the hash of their content.

    Raises:
        ConfigError: The data has no test split.
        DataError: Missing or unreadable data, images of another size, labels that were not trained on, or the very data
            that was trained or chosen on.
    """
    content = fingerprint(spec, "test")
    held_out = not spec.validation.startswith(("last:", "random:"))
    for part in ("train", *(["validation"] if held_out else [])):
        if fingerprint(spec, part) == content:
            raise DataError(f"[data] `{part}` and `test` hold the same data. A test split must be its own.")
    images = _open(spec, "test", content, folder=folder)
    _check_alike(images, "test", shape=splits.train.shape, n_classes=splits.n_classes)
    return images, content
