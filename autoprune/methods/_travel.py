"""How far a constant pull moves a weight within a phase."""

from __future__ import annotations

from autoprune.config import TrainSpec
from autoprune.engine.training import learning_rate

__all__ = ["travel"]


def travel(recipe: TrainSpec, n_steps: int, *, first: int = 0, momentum: float) -> float:
    """How far a slope of 1 moves a weight from a step on to the end of the phase: ``Σ rate / (1 - momentum)``.

    Args:
        recipe: Of the phase; its learning rates count.
        n_steps: Length of the phase.
        first: The first step that counts.
        momentum: Of SGD, in [0, 1).
    """
    return sum(learning_rate(recipe, step, n_steps) for step in range(first, n_steps)) / (1 - momentum)
