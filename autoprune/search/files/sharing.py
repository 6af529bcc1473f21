"""Whether a folder of networks is one study's alone: studies of one name in two databases may share it unknowingly."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from autoprune.search.storage import StudyHandle, schema

__all__ = ["enter_folder", "is_shared"]

_NAME = ".studies"  # A line for each study that ever kept its networks in the folder.


def enter_folder(folder: Path, study: StudyHandle) -> None:
    """Write down that a study keeps its networks in a folder."""
    key = _key(study)
    folder.mkdir(parents=True, exist_ok=True)
    if key not in _keys(folder):
        with (folder / _NAME).open("a") as file:
            file.write(f"{key}\n")


def is_shared(folder: Path, study: StudyHandle) -> bool:
    """Whether another database's study of the name has kept its networks in the folder as well."""
    return bool(_keys(folder) - {_key(study)})


def _keys(folder: Path) -> set[str]:
    try:
        return set((folder / _NAME).read_text().split())
    except OSError:
        return set()


def _key(study: StudyHandle) -> str:
    """What no other study has: when it was made, to the microsecond. A database that was moved keeps it."""
    table = schema.studies
    with study.db.reading() as connection:
        query = sa.select(table.c.created_at).where(table.c.study_id == study.study_id)
        return f"{connection.execute(query).scalar_one():.6f}"
