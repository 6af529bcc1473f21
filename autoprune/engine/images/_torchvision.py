"""The data source ``torchvision``."""

from __future__ import annotations

from typing import ClassVar

from autoprune.config import DataSpec, digest
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images.decoding import Arrays, checked, pixels_of, stack
from autoprune.errors import ConfigError, DataError, unknown_name

__all__ = ["Torchvision"]


class Torchvision(DataSource):
    """A data set of torchvision that has a training and a test part, downloaded where it is not there."""

    name: ClassVar[str] = "torchvision"

    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """By the name of the data set."""
        return digest("torchvision", spec.name, part)

    def read(self, spec: DataSpec, part: str) -> Arrays:
        """All images of the part."""
        import torchvision

        datasets = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
        if spec.name not in datasets:
            raise ConfigError(f"[data] `name`: {unknown_name('torchvision data set', str(spec.name), datasets)}")
        try:
            data = datasets[spec.name](root=spec.train, train=part == "train", download=True)
            rows = [data[i] for i in range(len(data))]
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            raise DataError(f"torchvision's {spec.name} can't be loaded into {spec.train}: {error}.") from error
        pixels = [pixels_of(image, f"torchvision's {spec.name}: image {row}") for row, (image, _) in enumerate(rows)]
        return checked(stack(pixels, str(spec.name)), [label for _, label in rows], str(spec.name))
