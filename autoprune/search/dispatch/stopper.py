"""Ends trials early that others of their cost have left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import ACCURACY, Metric
from autoprune.search.pareto import crowding_distance, non_domination_rank
from autoprune.search.trials import Attr, Point, StoredTrial

__all__ = ["Reached", "Stopper", "reached"]

_BIN = math.log(1.25)  # Costs within a factor of 1.25 of each other are alike.
_KEEP = 3  # One of so many trials of a bin goes on, as in successive halving.
_LEAST = 4  # Trials of a bin that must have reached a rung before it says anything.
_LEAST_EPOCHS = 5.0  # What is saved must outweigh the odd good trial that is lost.


@dataclass(frozen=True)
class Reached:
    """A trial at a rung.

    Args:
        macs_ratio: What its network costs.
        score: At the rung.
    """

    macs_ratio: float
    score: float


@dataclass(frozen=True)
class Stopper:
    """Ends a trial at a rung of its fine-tune phase where it is dominated among trials of about its cost.

    Of the trials in its bin of costs that reached the same rung, the best third goes on: front by front, each by
    falling crowding distance. Who is on the first front always does. Rung 0 says nothing, since ranks change while
    networks recover from their cut, and neither does a rung behind which too little is left to be saved.

    Args:
        rungs: Shares of the fine-tune phase at which the score is measured, rung 1 first.
        epochs: Length of the phase where a point has none of its own.
        metric: What trials are scored by.

    References:
        Schmucker et al. (2021), arXiv 2106.12639, from whom bins of cost and the order by crowding depart: a front is
        wanted over the whole range of costs, so that trials compete with their like only.
    """

    rungs: tuple[float, ...]
    epochs: float
    metric: Metric = ACCURACY

    def is_watching(self, point: Point, rung: int) -> bool:
        """Whether a trial of this point may be ended at this rung."""
        if not 1 <= rung <= len(self.rungs):
            return False
        epochs = self.epochs if point.epochs is None else point.epochs
        return epochs * (1 - self.rungs[rung - 1]) >= _LEAST_EPOCHS

    def is_behind(self, trial: Reached, others: Sequence[Reached]) -> bool:
        """Whether a trial is to end.

        Args:
            trial: At a rung.
            others: Trials that reached the same rung.
        """
        alike = [trial, *(other for other in others if _bin(other) == _bin(trial))]
        if len(alike) < _LEAST:
            return False
        losses = np.array([(self.metric.error(each.score), each.macs_ratio) for each in alike])
        ranks = non_domination_rank(losses)
        if ranks[0] == 0:
            return False
        peers = np.flatnonzero(ranks == ranks[0])
        crowding = crowding_distance(losses[peers])
        n_before = np.count_nonzero(ranks < ranks[0]) + np.count_nonzero(crowding > crowding[0])
        return bool(n_before >= len(alike) // _KEEP)


def _bin(trial: Reached) -> int:
    return math.floor(math.log(trial.macs_ratio) / _BIN)


def reached(rung: int, history: Sequence[FrozenTrial]) -> list[Reached]:
    """The trials that have ended and were at a rung before.

    Args:
        rung: Its number.
        history: All trials of the study.
    """
    found = []
    for trial in map(StoredTrial, history):
        ratio = trial.attrs.get("macs_ratio", trial.attrs.get(f"{Attr.PARTIAL}macs_ratio"))
        # The last rung of a complete trial is its score after the whole phase, whatever its number.
        is_complete = trial.state is TrialState.COMPLETE
        is_between = trial.state is TrialState.PRUNED or (is_complete and rung < max(trial.rungs, default=0))
        if is_between and ratio is not None and rung in trial.rungs:
            found.append(Reached(float(ratio), trial.rungs[rung]))
    return found
