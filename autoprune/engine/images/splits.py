"""Images and labels: read once, kept as bytes, split honestly."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoprune.config import DataSpec, digest, seed_of
from autoprune.engine.images.image_set import ImageSet
from autoprune.engine.images.sources import source_of
from autoprune.errors import ConfigError, DataError

__all__ = ["Preprocess", "Splits", "load_splits", "load_test"]

_SAMPLED_IMAGES = 10_000  # For mean and deviation;
_SAMPLED_BYTES = 2**28  # fewer where they are large, since each process that starts looks at them.


@dataclass(frozen=True)
class Preprocess:
    """Bytes to normalised floats: ``(x / 255 - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, device: torch.device) -> Tensor:
        """Normalise a uint8 batch, shape (N, C, H, W), on ``device``, in channels-last layout."""
        moved = images.to(device, non_blocking=True).float()
        mean, std = _on_device(self, device)
        return ((moved - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=8)
def _on_device(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of bytes, shape (1, C, 1, 1); brought there once, since the host waits for such a copy."""
    values = (torch.tensor(each, device=device) for each in (preprocess.mean, preprocess.std))
    mean, std = (each.view(1, -1, 1, 1) * 255 for each in values)
    return mean, std


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
            f"{n_classes}, but holds images of shape {images.shape} with labels up to {int(images.labels.max())}. "
            "Bring its images to that size and number of channels, and leave out what is not trained on."
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
    source = source_of(spec)
    prints = {"train": source.fingerprint(spec, "train")}
    images = source.open(spec, "train", content=prints["train"], folder=folder)
    n_classes = int(images.labels.max()) + 1
    if source.has_test(spec):
        prints["test"] = source.fingerprint(spec, "test")
        if prints["test"] == prints["train"]:
            raise DataError("[data] `train` and `test` hold the same data. A test split must be its own.")
    if spec.validation.startswith(("last:", "random:")):
        train_at, held_at = _split(len(images), spec.validation, prints["train"])
        train, validation = images.subset(train_at), images.subset(held_at)
        indices_digest = hashlib.sha256(json.dumps([train_at.tolist(), held_at.tolist()]).encode()).hexdigest()[:16]
    elif spec.holds_paths:
        prints["validation"] = indices_digest = source.fingerprint(spec, "validation")
        if prints["validation"] in (prints["train"], prints.get("test")):
            raise DataError("[data] `validation` holds the same data as the training or the test set. Hold out a part.")
        train, validation = images, source.open(spec, "validation", content=prints["validation"], folder=folder)
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
    source = source_of(spec)
    content = source.fingerprint(spec, "test")
    held_out = not spec.validation.startswith(("last:", "random:"))
    for part in ("train", *(["validation"] if held_out else [])):
        if source.fingerprint(spec, part) == content:
            raise DataError(f"[data] `{part}` and `test` hold the same data. A test split must be its own.")
    images = source.open(spec, "test", content=content, folder=folder)
    _check_alike(images, "test", shape=splits.train.shape, n_classes=splits.n_classes)
    return images, content
