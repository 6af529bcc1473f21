"""Going on in a history that grows, instead of reading all of it again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial, TrialState

from autoprune.search.trials.attributes import Attr

__all__ = ["Growing"]


class Growing:
    """Tells its reader what is new in the history of a study.

    A trial that has ended is the same object in each history that `StudyHandle.history` gives. Where one of them is
    another object or is gone, or another proposal has come to the place of an open one, this is another history: a
    server was away and has lost what it had said to have.
    """

    def __init__(self) -> None:
        self._seen: list[FrozenTrial] = []
        self._unfinished: dict[int, TrialState] = {}
        self._is_lost = False

    def read(
        self, history: Sequence[FrozenTrial], *, forget: Callable[[], object], take_in: Callable[[list[int]], object]
    ) -> None:
        """Go on to a history; a reader that fails while it takes in what is new starts anew the next time.

        Args:
            history: All trials of the study, by number.
            forget: Called first where this is another history than before.
            take_in: Given the places of the trials that are new, or were read anew since they had not ended; ascending.
        """
        places = self._changed(history)
        self._is_lost = True
        if places is None:
            forget()
            places, self._unfinished = list(range(len(history))), {}
        take_in(places)
        self._is_lost, self._seen = False, list(history)
        states = {place: history[place].state for place in sorted({*self._unfinished, *places})}
        self._unfinished = {place: state for place, state in states.items() if not state.is_finished()}

    def _changed(self, history: Sequence[FrozenTrial]) -> list[int] | None:
        """Places of what is new; None where this is another history."""
        seen, before = self._seen, self._unfinished
        replaced = set[int]()
        if not all(map(operator.is_, seen, history)):
            replaced = {place for place, pair in enumerate(zip(seen, history, strict=False)) if pair[0] is not pair[1]}
        if (
            self._is_lost
            or len(history) < len(seen)
            or not replaced <= before.keys()
            or any(_key(seen[place]) != _key(history[place]) for place in replaced)
        ):
            return None
        moved = {place for place, state in before.items() if history[place].state is not state}
        return [*sorted(replaced | moved), *range(len(seen), len(history))]


def _key(trial: FrozenTrial) -> str | None:
    key: str | None = trial.user_attrs.get(Attr.KEY)
    return key
