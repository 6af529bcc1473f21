"""What a stored study has measured, for a file that leaves it to be measured."""

from __future__ import annotations

import dataclasses

from autoprune.api._reading import Study
from autoprune.config import AUTO, StudyConfig
from autoprune.errors import StorageError
from autoprune.search.storage import Database, StudyHandle

__all__ = ["kept_at", "kept_in"]


def kept_in(db: Database, config: StudyConfig) -> StudyConfig:
    """The configuration with what the stored study of its name has measured: precision, layout, multiple and compiling.

    Without such a study, or where the file names all of them, it is as it was.
    """
    if not config.setting.is_open:
        return config
    try:
        stored = StudyHandle.open(db, config.study.name)
    except StorageError:
        return config
    setting, kept = config.setting, Study(db, stored).config.setting
    if setting.is_measured:
        layout = setting.layout or kept.layout
        setting = dataclasses.replace(setting, precision=stored.identity["precision"], layout=layout)
    if setting.network.multiple == AUTO:
        setting = setting.with_multiple(kept.network.width_multiple)
    if setting.compile == AUTO:
        setting = dataclasses.replace(setting, compile=kept.compile)
    return dataclasses.replace(config, setting=setting)


def kept_at(url: str, config: StudyConfig) -> StudyConfig:
    """The same of a database that may not be there yet; it is only read."""
    if not config.setting.is_open or not Database.is_there(url):
        return config
    db = Database.open_readonly(url)
    try:
        return kept_in(db, config)
    finally:
        db.close()
