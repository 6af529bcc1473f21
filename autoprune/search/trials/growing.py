"""Going on in a history that grows, instead of reading all of it again."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from autoprune.search.trials.attributes import Attr

__all__ = ["Growing", "News"]


@dataclass(frozen=True)
class News:
    """What a history says that it did not say before.

    Args:
        places: Of the trials that are new, or were read anew since they had not ended; ascending.
        is_anew: Whether it is another history than before, so that all of its trials are among them and what was known
            of the other one is to be forgotten.
    """

    places: list[int]
    is_anew: bool


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

    @contextmanager
    def reading(self, history: Sequence[FrozenTrial]) -> Iterator[News]:
        """Go on to a history; who does not come to the end of what is told is told all of it anew.

        Args:
            history: All trials of the study, by number.
        """
        news = self._news(history)
        self._is_lost = True
        yield news
        self._is_lost = False
        self._seen = list(history)
        among = range(len(history)) if news.is_anew else sorted({*self._unfinished, *news.places})
        states = {place: history[place].state for place in among}
        self._unfinished = {place: state for place, state in states.items() if not state.is_finished()}

    def _news(self, history: Sequence[FrozenTrial]) -> News:
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
            return News(list(range(len(history))), is_anew=True)
        moved = {place for place, state in before.items() if history[place].state is not state}
        return News([*sorted(replaced | moved), *range(len(seen), len(history))], is_anew=False)


def _key(trial: FrozenTrial) -> str | None:
    key: str | None = trial.user_attrs.get(Attr.KEY)
    return key
