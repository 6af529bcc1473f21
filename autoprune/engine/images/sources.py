"""The data sources, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.config import DataSpec
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images._digits import Digits
from autoprune.engine.images._factory import Factory
from autoprune.engine.images._image_folder import ImageFolder
from autoprune.engine.images._parquet import Parquet
from autoprune.engine.images._torchvision import Torchvision

__all__ = ["DATA_SOURCES", "source_of"]

DATA_SOURCES: Mapping[str, DataSource] = {
    source.name: source for source in (Digits(), Parquet(), ImageFolder(), Torchvision(), Factory())
}
"""By name; the keys that each takes stand in `config.DATA_SOURCES`."""


def source_of(spec: DataSpec) -> DataSource:
    """Where the spec's images come from."""
    return DATA_SOURCES[spec.source]
