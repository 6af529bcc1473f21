"""The largest of several linear forms of the widths: what the most that lives at once takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.forms import LinearForm

__all__ = ["Peak", "undominated"]

_CHUNK = 4096  # rows evaluated at once


@dataclass(frozen=True, eq=False)
class Peak:
    """The largest of several linear forms, as a matrix; it never falls when a width grows.

    Args:
        coefficients: Shape (G, S).
        constants: Shape (S,).
    """

    coefficients: NDArray[np.int64]
    constants: NDArray[np.int64]

    @classmethod
    def build(cls, forms: Sequence[LinearForm], n_groups: int) -> Peak:
        """Gather forms, at least one, over ``n_groups`` widths."""
        matrix = np.zeros((n_groups, len(forms)), dtype=np.int64)
        for column, form in enumerate(forms):
            for group, coefficient in form.terms:
                matrix[group, column] = coefficient
        return cls(matrix, np.array([form.constant for form in forms], dtype=np.int64))

    def evaluate(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The largest, shape () or (T,), at integer widths (G,) or (T, G)."""
        if widths.ndim == 1:
            return np.asarray((widths @ self.coefficients + self.constants).max())
        rows = range(0, len(widths), _CHUNK)
        parts = [(widths[at : at + _CHUNK] @ self.coefficients + self.constants).max(axis=1) for at in rows]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def value(self, widths: NDArray[Any]) -> float:
        """The largest at one vector of widths (G,), which may be real-valued."""
        return float((widths @ self.coefficients + self.constants).max())


def undominated(rows: NDArray[np.int64]) -> tuple[LinearForm, ...]:
    """Linear forms without those that another one is never below, at any widths.

    Args:
        rows: Coefficients >= 0 of G groups, then the constant, shape (S, G + 1).

    Example:
        >>> undominated(np.array([[1, 0, 5], [2, 0, 5], [0, 1, 0]]))
        (LinearForm(constant=5, terms=((0, 2),)), LinearForm(constant=0, terms=((1, 1),)))
    """
    kept: list[NDArray[np.int64]] = []
    # A form is only dominated by one with a larger sum, or by its like.
    for row in sorted(np.unique(rows, axis=0), key=lambda row: -int(row.sum())):
        if not kept or not (np.stack(kept) >= row).all(axis=1).any():
            kept.append(row)
    return tuple(
        LinearForm(int(row[-1]), tuple((int(group), int(row[group])) for group in np.flatnonzero(row[:-1])))
        for row in kept
    )
