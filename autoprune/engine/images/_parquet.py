"""The data source ``parquet``."""

from __future__ import annotations

from typing import ClassVar

from autoprune.config import DataSpec
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images.decoding import Arrays, checked, decode, stack
from autoprune.engine.images.paths import fingerprint_of, path_of
from autoprune.errors import DataError

__all__ = ["Parquet"]

_USUAL_COLUMNS = ("img", "label")


class Parquet(DataSource):
    """Encoded images and their labels in columns of a Parquet file for each part."""

    name: ClassVar[str] = "parquet"

    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """By content, and by the columns where they have unusual names."""
        columns = (spec.image_column, spec.label_column)
        # The usual columns add nothing, so that the hash of a usual file is that of its content alone.
        return fingerprint_of(path_of(spec, part), columns if columns != _USUAL_COLUMNS else None)

    def read(self, spec: DataSpec, part: str) -> Arrays:
        """All rows, decoded."""
        path, image_column, label_column = path_of(spec, part), spec.image_column, spec.label_column
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
            n_rows, n_bytes = parquet.read_metadata(path).num_rows, path.stat().st_size
            if n_rows > n_bytes:
                raise DataError(
                    f"{path}: each row must hold an encoded image, but there are {n_rows:,} rows in {n_bytes:,} bytes. "
                    "Write the images into the file."
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
        if None in encoded:
            raise DataError(
                f"{path}: row {encoded.index(None)}: the column `{image_column}` must hold encoded images, but is null "
                "here. Drop the row, or write the image's bytes into it."
            )
        decoded = [decode(data, f"{path}: row {row}") for row, data in enumerate(encoded)]
        return checked(stack(decoded, str(path)), table[label_column].to_numpy(), str(path))
