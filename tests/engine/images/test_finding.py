"""What lies at a path is told by its form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from autoprune.engine.images import find_data
from autoprune.errors import DataError


def table(path: Path, image: str, label: str, *, as_struct: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": b"x", "path": None}] if as_struct else [b"x"]
    parquet.write_table(pa.table({"id": pa.array(["a"]), image: images, label: [1]}), path)


def folder(path: Path, *sizes: tuple[int, int]) -> None:
    for number, size in enumerate(sizes):
        (path / "class").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(path / "class" / f"{number}.png")


@pytest.mark.parametrize(
    ("image", "label", "as_struct", "columns"),
    [
        ("img", "label", True, {}),
        ("image", "label", True, {"image_column": "image", "label_column": "label"}),
        ("image", "fine_label", False, {"image_column": "image", "label_column": "fine_label"}),
    ],
)
def test_parquet(image: str, label: str, as_struct: bool, columns: dict[str, str], tmp_path: Path) -> None:
    table(tmp_path / "train-00000.parquet", image, label, as_struct=as_struct)
    file = str(tmp_path / "train-00000.parquet")
    assert find_data(Path(file)) == {"source": "parquet", "train": file, **columns}
    table(tmp_path / "test.parquet", image, label, as_struct=as_struct)
    assert find_data(tmp_path) == {
        "source": "parquet", "train": file, "test": str(tmp_path / "test.parquet"), **columns,
    }  # fmt: skip


def test_folders(tmp_path: Path) -> None:
    folder(tmp_path / "plain", (30, 40), (20, 50), (500, 28))
    assert find_data(tmp_path / "plain") == {
        "source": "image_folder", "train": str(tmp_path / "plain"), "image_size": 28,
    }  # fmt: skip
    folder(tmp_path / "parts" / "train", (600, 400))
    folder(tmp_path / "parts" / "valid", (10, 10))
    folder(tmp_path / "parts" / "test", (10, 10))
    assert find_data(tmp_path / "parts") == {
        "source": "image_folder", "train": str(tmp_path / "parts/train"),
        "validation": str(tmp_path / "parts/valid"), "test": str(tmp_path / "parts/test"), "image_size": 224,
    }  # fmt: skip


def test_what_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be a folder or a \.parquet file, but there is none at"):
        find_data(tmp_path / "nothing")
    parquet.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "words.parquet")
    with pytest.raises(DataError, match=r"a column of encoded images .* but has text \(string\), n \(int64\)"):
        find_data(tmp_path / "words.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        find_data(tmp_path / "broken.parquet")
    (tmp_path / "bad" / "class").mkdir(parents=True)
    (tmp_path / "bad" / "class" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="this image can't be read"):
        find_data(tmp_path / "bad")
