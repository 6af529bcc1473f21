"""The data source ``digits``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

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
        values, labels = _table()
        pixels = (values.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)[:, None]
        cut = 1437  # The last fifth is the test split, as in scikit-learn's own example.
        part_of = slice(None, cut) if part == "train" else slice(cut, None)
        return checked(pixels[part_of], labels[part_of], "digits")


def _table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Pixels from 0 to 16, shape (N, 64), and labels, shape (N,), from the file in which scikit-learn has them.

    Importing scikit-learn takes longer than all else that a worker does before it trains on them.
    """
    spec = importlib.util.find_spec("sklearn")
    file = None if spec is None or spec.origin is None else Path(spec.origin).parent / "datasets/data/digits.csv.gz"
    if file is None or not file.is_file():  # Another scikit-learn has them elsewhere, and knows where.
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.data, digits.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)
