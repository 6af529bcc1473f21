"""The data source ``factory``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from autoprune.config import DataSpec, digest
from autoprune.engine.images._contract import DataSource, untested
from autoprune.engine.images.decoding import Arrays, checked
from autoprune.errors import ConfigError, DataError
from autoprune.importing import call_factory

__all__ = ["Factory"]


class Factory(DataSource):
    """What a function of the user's returns: a mapping of parts to (images, labels)."""

    name: ClassVar[str] = "factory"

    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """By content; the function is called for it."""
        images, labels = self.read(spec, part)
        content = hashlib.sha256(digest(images.shape).encode())
        content.update(np.ascontiguousarray(images).data)
        content.update(labels.data)
        return content.hexdigest()[:16]

    def read(self, spec: DataSpec, part: str) -> Arrays:
        """What the function returns for the part."""
        parts = call_factory(str(spec.factory), key="data.factory")
        if isinstance(parts, Mapping) and part == "test" and part not in parts:
            raise ConfigError(untested(f"the factory {spec.factory!r} returns no 'test'"))
        if not isinstance(parts, Mapping) or part not in parts:
            raise DataError(
                f"the data factory {spec.factory!r} must return a mapping with {part!r}: (images, labels), "
                f"but returned {type(parts).__name__}."
            )
        try:
            images, labels = parts[part]
        except (TypeError, ValueError):
            raise DataError(f"the data factory {spec.factory!r} must return {part!r} as (images, labels).") from None
        return checked(images, labels, f"{spec.factory} {part!r}")
