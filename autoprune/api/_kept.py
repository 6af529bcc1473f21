"""The precision and layout that a stored study has, for a file that leaves them to be measured."""

from __future__ import annotations

import dataclasses

from autoprune.api._reading import Study
from autoprune.config import StudyConfig
from autoprune.errors import StorageError
from autoprune.search.storage import Database, StudyHandle

__all__ = ["kept_at", "kept_in"]


def kept_in(db: Database, config: StudyConfig) -> StudyConfig:
    """The configuration in the precision and layout of the stored study of its name.

    Without such a study, or where the file names a precision, it is as it was.
    """
    if not config.setting.is_measured:
        return config
    try:
        stored = StudyHandle.open(db, config.study.name)
    except StorageError:
        return config
    layout = config.setting.layout or Study(db, stored).config.setting.layout
    setting = dataclasses.replace(config.setting, precision=stored.identity["precision"], layout=layout)
    return dataclasses.replace(config, setting=setting)


def kept_at(url: str, config: StudyConfig) -> StudyConfig:
    """The same of a database that may not be there yet; it is only read."""
    if not config.setting.is_measured or not Database.is_there(url):
        return config
    db = Database.open_readonly(url)
    try:
        return kept_in(db, config)
    finally:
        db.close()
