"""The data source ``digits``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.config import DataSpec, digest
from autoprune.engine.images._contract import DataSource
from autoprune.engine.images.decoding import Arrays, checked

__all__ = ["Digits"]


class Digits(DataSource):
    """The handwritten digits of scikit-learn, which come with it: 8×8, grey."""

    name: ClassVar[str] = "digits"

    def has_test(self, spec: DataSpec) -> bool:
        """It has, and needs no key for it."""
        return True

    def fingerprint(self, spec: DataSpec, part: str) -> str:
        """By name: they never change."""
        return digest("digits", part)

    def read(self, spec: DataSpec, part: str) -> Arrays:
        """The first four fifths, or the last one for the test."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = (digits.images * (255 / 16)).round().astype(np.uint8)[:, None]
        cut = 1437  # The last fifth is the test split, as in scikit-learn's own example.
        part_of = slice(None, cut) if part == "train" else slice(cut, None)
        return checked(pixels[part_of], digits.target[part_of], "digits")
