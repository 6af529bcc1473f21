"""Images and labels: read once, kept as bytes, split honestly, augmented in whole batches."""

from __future__ import annotations

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from autoprune.engine.factory import call_factory
from autoprune.errors import ConfigError, DataError
from autoprune.spec import DataSpec, digest, seed_of

__all__ = ["ImageSet", "Preprocess", "Splits", "augment", "load_splits", "load_test"]

_HASHED_BYTES = 2**30  # Above this a content hash costs minutes at every launch; names, sizes and times must do.
_HELD_BYTES = 4 * 2**30  # Decoded image folders above this are read through a DataLoader instead.

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


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


class _FolderFiles(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(_decode_square(Path(self.paths[index]).read_bytes(), self.size))


class _FolderImages(ImageSet):
    """Images too many to hold decoded: read by DataLoader workers, batch by batch."""

    def __init__(self, paths: list[str], labels: Tensor, size: int) -> None:
        self._paths, self._size = paths, size
        self.labels, self.shape = labels, (3, size, size)

    def read(self, index_batches: Iterable[Tensor]) -> Iterator[Tensor]:
        loader = torch.utils.data.DataLoader(
            _FolderFiles(self._paths, self._size),
            batch_sampler=[batch.tolist() for batch in index_batches],
            num_workers=min(8, os.cpu_count() or 1),
            pin_memory=torch.accelerator.is_available(),
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


def _decode(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"), dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        scale = size / min(image.size)
        resized = image.convert("RGB").resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        )
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return np.array(resized.crop((left, top, left + size, top + size)), dtype=np.uint8).transpose(2, 0, 1)


def _stack(images: list[NDArray[np.uint8]], where: str) -> NDArray[np.uint8]:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise DataError(f"{where}: all images must be of one size, but {shapes[0]} and {shapes[1]} are both there.")
    return np.stack(images)


def _checked(images: Any, labels: Any, where: str) -> Arrays:
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0:
        raise DataError(
            f"{where}: images must be uint8 of shape (N, C, H, W), but got {pixels.dtype} of shape {pixels.shape}."
        )
    if classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
        raise DataError(
            f"{where}: labels must be whole numbers >= 0, one per image, "
            f"but got {classes.dtype} of shape {classes.shape} for {len(pixels)} images."
        )
    return pixels, classes.astype(np.int64)


def _read_digits(part: str) -> Arrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)[:, None]
    cut = 1437  # The last fifth is the test split, as in scikit-learn's own example.
    part_of = slice(None, cut) if part == "train" else slice(cut, None)
    return _checked(pixels[part_of], digits.target[part_of], "digits")


def _read_parquet(path: Path, image_column: str, label_column: str) -> Arrays:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        columns = parquet.read_schema(path).names
        for column in (image_column, label_column):
            if column not in columns:
                raise DataError(
                    f"{path}: a column `{column}` must be there, but the file has {', '.join(columns)}. "
                    "Set `image_column` and `label_column` in [data]."
                )
        table = parquet.read_table(path, columns=[image_column, label_column])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: this is not a readable Parquet file: {error}.") from error
    images = table[image_column].combine_chunks()
    if pyarrow.types.is_struct(images.type):
        if "bytes" not in [field.name for field in images.type]:
            raise DataError(f"{path}: the column `{image_column}` must hold `bytes`, but holds {images.type}.")
        images = images.field("bytes")
    encoded = images.to_pylist()
    if not encoded or not isinstance(encoded[0], bytes):
        raise DataError(f"{path}: the column `{image_column}` must hold encoded images, but holds {images.type}.")
    return _checked(_stack([_decode(data) for data in encoded], str(path)), table[label_column].to_numpy(), str(path))


def _folder_files(root: Path) -> tuple[list[str], list[int]]:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
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


def _read_torchvision(spec: DataSpec, part: str) -> Arrays:
    import torchvision

    datasets = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
    if spec.name not in datasets:
        from autoprune.errors import unknown_name

        raise ConfigError(f"[data] `name`: {unknown_name('torchvision data set', str(spec.name), datasets)}")
    try:
        data = datasets[spec.name](root=spec.train, train=part == "train", download=True)
        rows = [data[i] for i in range(len(data))]
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise DataError(f"torchvision's {spec.name} can't be loaded into {spec.train}: {error}.") from error
    pixels = [np.asarray(image, dtype=np.uint8) for image, _ in rows]
    shaped = [p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in pixels]
    return _checked(_stack(shaped, str(spec.name)), [label for _, label in rows], str(spec.name))


def _read_factory(spec: DataSpec, part: str) -> Arrays:
    parts = call_factory(str(spec.factory), key="data.factory")
    if not isinstance(parts, Mapping) or part not in parts:
        raise DataError(
            f"the data factory {spec.factory!r} must return a mapping with {part!r}: (images, labels), "
            f"but returned {type(parts).__name__}."
        )
    return _checked(*parts[part], f"{spec.factory} {part!r}")


def _path_of(spec: DataSpec, part: str) -> Path | None:
    if spec.source not in ("parquet", "image_folder"):
        return None
    value = {"train": spec.train, "test": spec.test, "validation": spec.validation}[part]
    if value is None:
        raise DataError(f"[data] names no `{part}` set, but it is needed. Add `{part}` to the study file.")
    path = Path(value)
    if not path.exists():
        raise DataError(f"[data] `{part}`: there is nothing at {path}. Check the path.")
    return path


def _fingerprint(spec: DataSpec, part: str) -> str:
    """Hash the content of one part, or its names, sizes and times where the content is large."""
    path = _path_of(spec, part)
    if path is None:
        if spec.source == "digits":
            return digest("digits", part)
        if spec.source == "torchvision":
            return digest("torchvision", spec.name, part)
        images, labels = _read_factory(spec, part)
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    if sum(size for _, size, _ in stats) > _HASHED_BYTES:
        return digest("files", stats)
    content = hashlib.sha256()
    for file in files:
        content.update(str(file.relative_to(path)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]


def _held(folder: Path, key: str, read: Callable[[], Arrays]) -> ImageSet:
    """Decode once into ``folder``; afterwards every process maps the same bytes."""
    names = {part: folder / f"{key}.{part}.npy" for part in ("images", "labels")}
    if not all(path.exists() for path in names.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for part, array in zip(("images", "labels"), read(), strict=True):
            temporary = folder / f"{key}.{part}.{os.getpid()}.tmp.npy"
            np.save(temporary, array)
            os.replace(temporary, names[part])
    # Copy-on-write: pages are shared between workers, yet torch sees a writable array and stays silent.
    images = torch.from_numpy(np.load(names["images"], mmap_mode="c"))
    return _HeldImages(images, torch.from_numpy(np.load(names["labels"])))


def _open(spec: DataSpec, part: str, *, folder: Path) -> ImageSet:
    path, key = _path_of(spec, part), digest("images", _fingerprint(spec, part), spec.image_size)
    if spec.source == "image_folder":
        assert path is not None
        assert spec.image_size is not None
        size = spec.image_size
        paths, labels = _folder_files(path)
        if 3 * size * size * len(paths) > _HELD_BYTES:
            return _FolderImages(paths, torch.tensor(labels), size)
        return _held(
            folder,
            key,
            lambda: (np.stack([_decode_square(Path(p).read_bytes(), size) for p in paths]), np.array(labels)),
        )
    readers: dict[str, Callable[[], Arrays]] = {
        "digits": lambda: _read_digits(part),
        "parquet": lambda: _read_parquet(Path(str(path)), spec.image_column, spec.label_column),
        "torchvision": lambda: _read_torchvision(spec, part),
        "factory": lambda: _read_factory(spec, part),
    }
    return _held(folder, key, readers[spec.source])


def _split(n: int, rule: str, fingerprint: str) -> tuple[Tensor, Tensor]:
    kind, _, amount = rule.partition(":")
    try:
        held = round(float(amount) * n) if kind == "random" else int(amount)
    except ValueError:
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
    picked = torch.linspace(0, len(images) - 1, min(len(images), 10_000)).long()
    pixels = torch.cat(list(images.read(picked.split(500)))).double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp_min(1e-3)
    return Preprocess(tuple(mean.tolist()), tuple(std.tolist()))


def load_splits(spec: DataSpec, *, folder: Path) -> Splits:
    """Open the training data and split it; the test split is fingerprinted, never decoded.

    Args:
        spec: Where the data is.
        folder: Where decoded images are kept, to be shared between processes.

    Raises:
        DataError: Missing or unreadable data, images of different sizes.
        ConfigError: A split that leaves one side empty.
    """
    images = _open(spec, "train", folder=folder)
    prints = {"train": _fingerprint(spec, "train")}
    if spec.source == "digits" or spec.test is not None:
        prints["test"] = _fingerprint(spec, "test")
        if prints["test"] == prints["train"]:
            raise DataError("[data] `train` and `test` hold the same data. A test split must be its own.")
    if spec.validation.startswith(("last:", "random:")):
        train_at, held_at = _split(len(images), spec.validation, prints["train"])
        train, validation = images.subset(train_at), images.subset(held_at)
        indices_digest = hashlib.sha256(json.dumps([train_at.tolist(), held_at.tolist()]).encode()).hexdigest()[:16]
    elif spec.source in ("parquet", "image_folder"):
        train, validation = images, _open(spec, "validation", folder=folder)
        prints["validation"] = _fingerprint(spec, "validation")
        indices_digest = prints["validation"]
        if prints["validation"] in (prints["train"], prints.get("test")):
            raise DataError("[data] `validation` holds the same data as the training or the test set. Hold out a part.")
    else:
        raise ConfigError(
            f'[data] `validation` must look like "last:5000" or "random:0.1" here, but got {spec.validation!r}.'
        )
    n_classes = int(images.labels.max()) + 1
    return Splits(train, validation, n_classes, _statistics(train, spec), digest(prints), indices_digest)


def load_test(spec: DataSpec, *, folder: Path) -> ImageSet:
    """Open the test split, which no part of the search may see."""
    return _open(spec, "test", folder=folder)
