"""Going on in a history that grows, instead of reading all of it again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

__all__ = ["Growing", "News"]


@dataclass(frozen=True)
class News:
    """What a history says that it did not say before.

    Args:
        places: Of the trials that are new, or in another state than they were; ascending.
        is_anew: Whether it is another history than before, so that all of its trials are among them and what was known
            of the other one is to be forgotten.
    """

    places: list[int]
    is_anew: bool


class Growing:
    """Tells its reader what is new in the history of a study.

    A trial that has ended is the same object in each history that `StudyHandle.history` gives. Where one of them is
    another object, or is gone, this is another history.
    """

    def __init__(self) -> None:
        self._seen: list[FrozenTrial] = []
        self._unfinished: dict[int, TrialState] = {}

    def read(self, history: Sequence[FrozenTrial]) -> News:
        """Go on to a history.

        Args:
            history: All trials of the study, by number.
        """
        seen, open_before = self._seen, self._unfinished
        replaced = set[int]()
        if not (len(history) >= len(seen) and all(map(operator.is_, seen, history))):
            replaced = {place for place, pair in enumerate(zip(seen, history, strict=False)) if pair[0] is not pair[1]}
        is_anew = len(history) < len(seen) or not replaced <= open_before.keys()
        if is_anew:
            places = list(range(len(history)))
        else:
            moved = {place for place, state in open_before.items() if history[place].state is not state}
            places = [*sorted(replaced | moved), *range(len(seen), len(history))]
        self._seen = list(history)
        places_now = range(len(history)) if is_anew else {*open_before, *places}
        states = {place: history[place].state for place in sorted(places_now)}
        self._unfinished = {place: state for place, state in states.items() if not state.is_finished()}
        return News(places, is_anew)
