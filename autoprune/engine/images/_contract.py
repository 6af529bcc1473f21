"""What a data source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from autoprune.config import DataSpec, digest
from autoprune.engine.images.decoding import READING, Arrays
from autoprune.engine.images.image_set import ImageSet, held

__all__ = ["DataSource", "untested"]


class DataSource(ABC):
    """Where images come from. Sources have no state; the keys of [data] that each takes stand in `config.DATA_SOURCES`.

    Parts are ``"train"``, ``"test"`` and, where ``validation`` may be a path, ``"validation"``.
    """

    name: ClassVar[str]

    def has_test(self, spec: DataSpec) -> bool:
        """Whether the test part is known to be there, so that it counts among what tells the data."""
        return spec.test is not None

    @abstractmethod
    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """Hash one part of the data, without decoding it: equal hashes mean equal images and labels.

        Raises:
            ConfigError: There is no test part.
            DataError: There is nothing where the part should be.
        """

    @abstractmethod
    def read(self, spec: DataSpec, part: str) -> Arrays:
        """Read and decode one part into memory.

        Raises:
            ConfigError: There is no test part.
            DataError: The data is missing, unreadable or not of one size.
        """

    def open(self, spec: DataSpec, part: str, *, content: str, folder: Path) -> ImageSet:
        """The images of one part, decoded once for all processes.

        Args:
            spec: Where the data is.
            part: Which part.
            content: Its fingerprint.
            folder: Where decoded images are kept.
        """
        return held(folder, digest("images", READING, content, spec.image_size), lambda: self.read(spec, part))


def untested(what: str) -> str:
    """What is wrong with data that have no test split, because of ``what``."""
    return (
        f"[data] must have a test split to be scored on, but {what}. Add it and launch the study under a new name: "
        "a study's data can't change."
    )
