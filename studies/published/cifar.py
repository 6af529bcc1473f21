"""CIFAR-10 and CIFAR-100, downloaded by torchvision, as the Parquet files of these studies: `python cifar.py raw`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def write(images: Iterable[tuple[Image.Image, int]], path: Path) -> None:
    """Images and their labels as a Parquet file, without loss."""
    columns: dict[str, list[object]] = {"img": [], "label": []}
    for image, label in images:
        held = io.BytesIO()
        image.save(held, "png")
        columns["img"].append({"bytes": held.getvalue()})
        columns["label"].append(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def main(folder: Path) -> None:
    """Download and write both."""
    from torchvision import datasets

    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        for part in ("train", "test"):
            images = kind(folder / "torchvision", train=part == "train", download=True)
            write(images, folder / kind.__name__.lower() / f"{part}.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
