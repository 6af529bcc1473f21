"""What planning asks of a history, kept up as it grows."""

from __future__ import annotations

import bisect
import operator
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import Metric
from autoprune.search import pareto
from autoprune.search.proposals.gains import Member, worth
from autoprune.search.trials import Attr, Growing, Point, StoredTrial, lineage_of

__all__ = ["Digest"]

_TRIED = (TrialState.COMPLETE, TrialState.PRUNED)


class Digest:
    """The history of a study as far as planning goes; a trial that has ended is read once.

    It is a function of the history that was read last alone.

    Args:
        metric: What trials are scored by.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._growing = Growing()
        self._forget()

    def _forget(self) -> None:
        self._trials: dict[int, StoredTrial] = {}
        self._members: dict[int, Member] = {}
        self._cuts = defaultdict[int, list[float]](list)
        self._at_once: dict[tuple[str | None, float | None], tuple[int, float]] = {}
        self._dense: tuple[int, float] | None = None
        self._front: list[tuple[int, float, float]] = []
        self.targets = set[float | None]()
        """MACs targets of all trials, whatever became of them."""
        self.complete: list[int] = []
        """Trials with a network, by number."""
        self.running: dict[int, Point] = {}
        """The points of what is under way, by number, ascending."""
        self.seconds: dict[int, float] = {}
        """What trials have taken, by number."""

    def read(self, history: Sequence[FrozenTrial]) -> None:
        """Go on to a history.

        Args:
            history: All trials of the study, by number.
        """

        def take_in(places: list[int]) -> None:
            fresh = [self._take_in(StoredTrial(history[place])) for place in places]
            self.running = dict(sorted(self.running.items()))
            self._compete([trial for trial in fresh if trial is not None])

        self._growing.read(history, forget=self._forget, take_in=take_in)

    def _take_in(self, trial: StoredTrial) -> StoredTrial | None:
        """Note a trial that is new or in another state; it is given back where it now has a network."""
        number, state, attrs = trial.number, trial.state, trial.attrs
        self._trials[number] = trial
        self.targets.add(trial.macs_target)
        self.running.pop(number, None)
        if state is TrialState.RUNNING and Attr.POINT in attrs:
            self.running[number] = trial.point
        if attrs.get(Attr.WALL_S):
            self.seconds[number] = sum(attrs[Attr.WALL_S].values())
        if state in _TRIED and trial.parent is not None and trial.macs_target is not None:
            self._cuts[trial.parent].append(trial.macs_target)
        if state is not TrialState.COMPLETE:
            return None
        self._note_rung_0(trial)
        if trial.weights is None:
            return None
        bisect.insort(self.complete, number)
        if not trial.images and attrs.get("macs_ratio", 0) >= 1 and (self._dense is None or number < self._dense[0]):
            self._dense = number, float(attrs[self._metric.name])
        return trial

    def _note_rung_0(self, trial: StoredTrial) -> None:
        tried = trial.method, trial.macs_target
        first = self._at_once.get(tried)
        if trial.parent is None and (first is None or trial.number < first[0]):
            score = trial.rungs.get(0)
            if score is not None:
                self._at_once[tried] = trial.number, score

    def _compete(self, fresh: Sequence[StoredTrial]) -> None:
        """Let trials that now have a network on the front, and from it those that they beat."""
        if fresh:
            error, name = self._metric.error, self._metric.name
            found = self._front + [(t.number, error(t.attrs[name]), t.attrs["macs_ratio"]) for t in fresh]
            mask = pareto.front_mask(np.array([point[1:] for point in found]).reshape(-1, 2)).tolist()
            self._front = [point for point, is_best in zip(found, mask, strict=True) if is_best]

    @property
    def front(self) -> list[tuple[float, float]]:
        """(error, MACs ratio) of the trials that no other beats."""
        return [(error, ratio) for _, error, ratio in self._front]

    @property
    def members(self) -> list[Member]:
        """Those of the front that were trained, by MACs ratio."""
        found = [self.member(number) for number, _, _ in self._front]
        return sorted((m for m in found if m.images > 0), key=operator.attrgetter("macs_ratio", "number"))

    @property
    def dense_score(self) -> float | None:
        """Of the untouched dense network, where a trial tells it."""
        return None if self._dense is None else self._dense[1]

    def frozen(self, number: int) -> FrozenTrial:
        """A trial as it is stored."""
        return self._trials[number].frozen

    def point(self, number: int) -> Point:
        """What was proposed of a trial."""
        return self._trials[number].point

    def member(self, number: int) -> Member:
        """A complete trial as one that others may start from."""
        if number not in self._members:
            trial = self._trials[number]
            line, ratio = lineage_of(trial, self._trials), trial.attrs["macs_ratio"]
            self._members[number] = Member(
                number=number,
                macs_ratio=ratio,
                score=trial.attrs[self._metric.name],
                images=sum(worth(each.images, of=each.attrs["macs_ratio"], at=ratio) for each in line),
                depth=len(line) - 1,
                sha256=str(trial.sha256),
            )
        return self._members[number]

    def cuts(self, parent: int) -> Sequence[float]:
        """MACs targets that a trial's network was cut to by trials that have ended."""
        return self._cuts.get(parent, ())

    def at_once(self, method: str, target: float) -> float | None:
        """What a method's cut of the dense network to a target scored before any training, where a trial tells it."""
        found = self._at_once.get((method, target))
        return None if found is None else found[1]
