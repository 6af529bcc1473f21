"""Which data source reads what lies at a path, and with which keys."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from PIL import Image

from autoprune.engine.images._image_folder import folder_classes, folder_files
from autoprune.errors import DataError

__all__ = ["find_data"]

_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_N_LOOKED_AT = 50
_LARGEST = 224  # Larger images are trained on at this size, as networks for photographs are.


def find_data(path: Path) -> dict[str, Any]:
    """The keys of [data] for a folder of images, a folder of parts, or Parquet files.

    Args:
        path: A folder with a sub-folder for each class, or with the folders or Parquet files of train, val and test;
            or a Parquet file to train on.

    Raises:
        DataError: Nothing that is read lies there.
    """
    if path.suffix == ".parquet" and path.is_file():
        return {"source": "parquet", "train": str(path), **_columns(path)}
    if not path.is_dir():
        raise DataError(f"the data must be a folder or a .parquet file, but there is none at {path}. Check the path.")
    tables = {part: found for part, names in _PARTS.items() if (found := _table(path, names)) is not None}
    if "train" in tables:
        return {"source": "parquet", **{part: str(file) for part, file in tables.items()}, **_columns(tables["train"])}
    folders = {part: path / name for part, names in _PARTS.items() for name in names if (path / name).is_dir()}
    if "train" not in folders:
        folders = {"train": path}
    size = _size(folders["train"])
    return {"source": "image_folder", **{part: str(folder) for part, folder in folders.items()}, "image_size": size}


def _table(folder: Path, names: tuple[str, ...]) -> Path | None:
    """A Parquet file of a part, such as ``train.parquet`` or ``train-00000-of-00001.parquet``."""
    return next((file for name in names for file in sorted(folder.glob(f"{name}*.parquet"))), None)


def _columns(path: Path) -> dict[str, str]:
    """The columns of images and labels, where they have other names than those that are read unasked.

    Raises:
        DataError: They can't be told.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: this is not a readable Parquet file: {error}.") from error
    kinds = {field.name: field.type for field in schema}
    images = [name for name, kind in kinds.items() if _holds_images(kind)]
    labels = [name for name, kind in kinds.items() if pyarrow.types.is_integer(kind)]
    if not images or not labels:
        raise DataError(
            f"{path} must have a column of encoded images and one of whole numbers, their labels, but has "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}."
        )
    found = {"image_column": images[0], "label_column": "label" if "label" in labels else labels[0]}
    return {} if found == {"image_column": "img", "label_column": "label"} else found


def _holds_images(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _size(folder: Path) -> int:
    """The middle of the shorter sides of some images."""
    files, _ = folder_files(folder, folder_classes(folder))
    looked_at = files[:: max(1, len(files) // _N_LOOKED_AT)]
    sides = []
    for file in looked_at:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except OSError as error:
            raise DataError(f"{file}: this image can't be read: {error}.") from error
    return min(_LARGEST, int(statistics.median(sides)))
