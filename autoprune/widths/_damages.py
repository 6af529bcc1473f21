"""What channels do together when they leave: sums over the matrices of `Damages`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.widths._contract import Damages, Kept

__all__ = ["joint_damages", "largest_damage"]


def joint_damages(matrix: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """The damage of removing the first m channels of ``order`` together, for m = 1 … C; it never falls.

    Args:
        matrix: Of one group, shape (C, C); see `Damages`.
        order: Its channels, shape (C,).

    Returns:
        Shape (C,). What one channel makes up for that others did is not counted in its favour.
    """
    nested = matrix[np.ix_(order, order)]
    added = 2 * np.tril(nested).sum(1) - np.diag(nested)  # What channel m adds to those before it.
    return np.asarray(np.maximum.accumulate(np.cumsum(added)).clip(min=0))  # Less is rounding.


def largest_damage(damages: Damages, kept: Kept) -> float:
    """The largest joint damage that the removed channels of any group do; 0 where none is removed."""
    gone = {name: np.setdiff1d(np.arange(len(matrix)), kept[name]) for name, matrix in damages.items()}
    return max((float(damages[name][np.ix_(each, each)].sum()) for name, each in gone.items()), default=0.0)
