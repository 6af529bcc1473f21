"""When a study has found what it will find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoprune.search import pareto

__all__ = ["Patience"]

_LEAST_GAIN = 1e-3  # Of the box up to the reference point: less is chance.


@dataclass(frozen=True)
class Patience:
    """Ends a study whose hypervolume has stalled.

    Args:
        n_trials: How many complete trials in a row may bring no gain, >= 1.
        maximised: Whether each objective is; what is maximised is at most 1.
        worst: Reference point in the objectives' own units.
    """

    n_trials: int
    maximised: tuple[bool, ...]
    worst: tuple[float, ...]

    def is_over(self, history: Sequence[FrozenTrial]) -> bool:
        """Whether the last ``n_trials`` complete trials have added next to nothing.

        Args:
            history: All trials of the study.
        """
        complete = [trial for trial in history if trial.state is TrialState.COMPLETE]
        if len(complete) <= self.n_trials:
            return False
        complete.sort(key=lambda trial: (trial.datetime_complete or datetime.min, trial.number))
        maximised, values = np.array(self.maximised), np.array([trial.values for trial in complete], dtype=np.float64)
        points = np.where(maximised, 1 - values, values)
        worst = np.where(maximised, 1 - np.array(self.worst), np.array(self.worst))
        before, now = (pareto.hypervolume(rows, worst) for rows in (points[: -self.n_trials], points))
        return now - before < _LEAST_GAIN * float(np.prod(worst))
