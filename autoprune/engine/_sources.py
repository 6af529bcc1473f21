"""Where images come from: digits, Parquet, folders, torchvision and factories, and what identifies their content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.engine.factory import call_factory
from autoprune.errors import ConfigError, DataError, unknown_name
from autoprune.spec import DataSpec, digest

__all__ = ["Arrays", "decode_square", "fingerprint", "folder_classes", "folder_files", "path_of", "read_arrays"]

_HASHED_BYTES = 2**30  # Above this a content hash costs minutes at every launch; names, sizes and times must do.
_READ_BYTES = 2**24
_USUAL_COLUMNS = ("img", "label")

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8, shape (N, C, H, W), and labels, shape (N,)."""


def _open_image(data: bytes, where: str, convert: Callable[[Any], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return convert(image)
    except Exception as error:  # Pillow's decoders raise whatever the bytes make them stumble over.
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{where}: this must be an image, but can't be decoded: {reason}.") from error


def _decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode an image, shape (C, H, W): grey ones have one channel, all others are RGB."""

    def convert(image: Any) -> NDArray[np.uint8]:
        return np.array(image if image.mode == "L" else image.convert("RGB"), dtype=np.uint8)

    return _channels_first(_open_image(data, where, convert))


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_square(path: str, size: int) -> NDArray[np.uint8]:
    """Decode an image file, scale its short side to ``size`` and crop the middle; RGB, shape (3, size, size).

    Raises:
        DataError: It can't be decoded.
    """

    def convert(image: Any) -> NDArray[np.uint8]:
        scale = size / min(image.size)
        resized = image.convert("RGB").resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        )
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return np.array(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)

    return _channels_first(_open_image(Path(path).read_bytes(), path, convert))


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
        negative = " with values below 0" if np.issubdtype(classes.dtype, np.integer) and classes.min() < 0 else ""
        raise DataError(
            f"{where}: labels must be whole numbers >= 0, one per image, "
            f"but got {classes.dtype} of shape {classes.shape}{negative} for {len(pixels)} images."
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
    decoded = [_decode(data, f"{path}: row {row}") for row, data in enumerate(encoded)]
    return _checked(_stack(decoded, str(path)), table[label_column].to_numpy(), str(path))


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


def _read_torchvision(spec: DataSpec, part: str) -> Arrays:
    import torchvision

    datasets = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
    if spec.name not in datasets:
        raise ConfigError(f"[data] `name`: {unknown_name('torchvision data set', str(spec.name), datasets)}")
    try:
        data = datasets[spec.name](root=spec.train, train=part == "train", download=True)
        rows = [data[i] for i in range(len(data))]
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise DataError(f"torchvision's {spec.name} can't be loaded into {spec.train}: {error}.") from error
    pixels = [_channels_first(np.asarray(image, dtype=np.uint8)) for image, _ in rows]
    return _checked(_stack(pixels, str(spec.name)), [label for _, label in rows], str(spec.name))


def _read_factory(spec: DataSpec, part: str) -> Arrays:
    parts = call_factory(str(spec.factory), key="data.factory")
    if isinstance(parts, Mapping) and part == "test" and part not in parts:
        raise ConfigError(_untested(f"the factory {spec.factory!r} returns no 'test'"))
    if not isinstance(parts, Mapping) or part not in parts:
        raise DataError(
            f"the data factory {spec.factory!r} must return a mapping with {part!r}: (images, labels), "
            f"but returned {type(parts).__name__}."
        )
    try:
        images, labels = parts[part]
    except (TypeError, ValueError):
        raise DataError(f"the data factory {spec.factory!r} must return {part!r} as (images, labels).") from None
    return _checked(images, labels, f"{spec.factory} {part!r}")


def _untested(what: str) -> str:
    return (
        f"[data] must have a test split to be scored on, but {what}. Add it and launch the study under a new name: "
        "a study's data can't change."
    )


def path_of(spec: DataSpec, part: str) -> Path | None:
    """The file or folder of one part, or None where the data lies in none.

    Raises:
        ConfigError: It is the test set and not named.
        DataError: There is nothing there.
    """
    if spec.source not in ("parquet", "image_folder"):
        return None
    value = {"train": spec.train, "test": spec.test, "validation": spec.validation}[part]
    if value is None:
        raise ConfigError(_untested("it names no `test`"))
    path = Path(value)
    if not path.exists():
        raise DataError(f"[data] `{part}`: there is nothing at {path}. Check the path.")
    if spec.source == "image_folder" and not path.is_dir():
        raise DataError(f"[data] `{part}`: an image folder must be a folder, but {path} is a file. Check the path.")
    return path


def fingerprint(spec: DataSpec, part: str) -> str:
    """Hash one part of the data: equal hashes mean equal images and labels.

    Files are hashed by content, where that is large by names, sizes and times; a data set of torchvision by its name.
    What makes other images of the same files (columns, image size) counts too.
    """
    path = path_of(spec, part)
    if path is None:
        if spec.source == "digits":
            return digest("digits", part)
        if spec.source == "torchvision":
            return digest("torchvision", spec.name, part)
        images, labels = _read_factory(spec, part)
        content = hashlib.sha256(digest(images.shape).encode())
        content.update(np.ascontiguousarray(images).data)
        content.update(labels.data)
        return content.hexdigest()[:16]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    columns = (spec.image_column, spec.label_column)
    # The usual columns add nothing, so that the hash of a usual file is that of its content alone.
    view = spec.image_size if spec.source == "image_folder" else columns if columns != _USUAL_COLUMNS else None
    if sum(size for _, size, _ in stats) > _HASHED_BYTES:
        return digest("files", stats, *([] if view is None else [view]))
    content = hashlib.sha256(b"" if view is None else digest(view).encode())
    for file in files:
        content.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_READ_BYTES):
                content.update(chunk)
    return content.hexdigest()[:16]


def read_arrays(spec: DataSpec, part: str) -> Arrays:
    """Read and decode one part of a data set into memory.

    Args:
        spec: Where the data is; an image folder is read file by file instead, see `folder_files`.
        part: ``"train"``, ``"test"`` or ``"validation"``.

    Raises:
        DataError: The data is missing, unreadable or not of one size.
    """
    if spec.source == "parquet":
        path = path_of(spec, part)
        assert path is not None
        return _read_parquet(path, spec.image_column, spec.label_column)
    if spec.source == "torchvision":
        return _read_torchvision(spec, part)
    if spec.source == "factory":
        return _read_factory(spec, part)
    return _read_digits(part)
