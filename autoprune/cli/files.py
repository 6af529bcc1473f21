"""Tables written to files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENDINGS", "as_csv", "as_json", "write_table"]

ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
"""The format that a file's ending stands for."""


def as_csv(frame: pd.DataFrame) -> str:
    """One line for each row, under the names of the columns."""
    return str(frame.to_csv(index=False))


def as_json(frame: pd.DataFrame) -> str:
    """A list of objects, one for each row."""
    return str(frame.to_json(orient="records", indent=1))


def write_table(frame: pd.DataFrame, file: str, *, form: str) -> None:
    """Write a table.

    Args:
        frame: One row per trial.
        file: Where to; replaced where it is there.
        form: ``"csv"``, ``"json"`` or ``"parquet"``.

    Raises:
        ConfigError: The file can't be written.
    """
    path = Path(file)
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"`--to` must lead to a folder that exists, but got {file!r}. Make the folder first.")
    try:
        if form == "parquet":
            _of_one_kind(frame).to_parquet(path, index=False)
        else:
            path.write_text(as_csv(frame) if form == "csv" else as_json(frame) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"`--to` must be a file that can be written, but {file!r}: {error.strerror}.") from error


def _of_one_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of several kinds, such as choices among numbers and names, as text, as Parquet needs."""
    result = frame.copy()
    for name, column in frame.items():
        known = column[column.notna()]
        if column.dtype == object and len({type(cell) for cell in known}) > 1:
            result[name] = column.where(column.isna(), column.map(str))
    return result
