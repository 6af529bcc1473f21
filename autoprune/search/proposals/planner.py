"""Which network a trial starts from, what it is cut down to and how long it is trained: decided from the history."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.trial import FrozenTrial

from autoprune.config import ACCURACY, Metric
from autoprune.search import pareto
from autoprune.search.proposals.digest import Digest
from autoprune.search.proposals.gains import ErrorModel, Member
from autoprune.search.proposals.pace import Pace, TimeLeft
from autoprune.search.trials import Point

__all__ = ["Budget", "Look", "Planner", "Step"]

_OPENING = 0.85  # Share of the time that the ladder of the opening takes.
_NEAREST = 1.08  # Two members of the front nearer than this factor of MACs leave no gap to be filled.
_BELOW = 0.75  # The next target under the smallest member.
_TRIES = 2  # Cuts of one network to about the same target: a third would come out like these.
_PARENTS = 2  # From which a new target may be cut, the smallest that can be: it may be worse than it should be.
_PHASE_SHARE = 0.05  # Of the workers' time: what a sparsify phase may take under a time limit.
_PROBES = 0.15  # Of the workers' time: what trials of recipes take together.
_TO_EXPLORE = 10  # Trials that must still fit for methods and rules to be explored, so that the answer is of use.
_SPARE = 0.015  # Share of the whole time that is left free at its end, against trials that take longer than expected.
_SPARE_S = 2.0
_MOST_TOLD = 500  # Trials, the newest, that pace and errors are told from: more tell nothing new.
_ANY_PACE = Pace(base_s=0.25e-3, macs_s=0.75e-3, overhead_s=0.0)


@dataclass(frozen=True)
class Step:
    """What is proposed of a trial, beside how its channels are ranked.

    Args:
        macs_target: What it is cut down to.
        parent: The trial whose network it starts from; None for the dense network.
        epochs: Length of its fine-tune phase; None: as the study says.
        why: It is worth trying, for people.
        method: What ranks its channels: in the opening, and where the time is too short to look for a better one. None:
            whatever the sampler says.
        again: The parent's own point, where its network keeps its widths and is trained on; None where it is cut.
    """

    macs_target: float
    parent: Member | None
    epochs: float | None
    why: str
    method: str | None = None
    again: Point | None = None


@dataclass(frozen=True)
class Budget:
    """How long trials are trained.

    Args:
        n_images: Training images, so that images can be told in epochs.
        epochs: Of a trial where no time limit says otherwise; under one, the longest of the opening.
        least_epochs: The shortest that is worth a trial under a time limit.
        phase_epochs: Of a sparsify phase, which trains at the cost of the dense network.
    """

    n_images: int
    epochs: float
    least_epochs: float
    phase_epochs: float = 0.0


@dataclass(frozen=True)
class _Option:
    """A step with the error that it is expected to come to, and the seconds that it takes."""

    step: Step
    error: float
    seconds: float


class Planner:
    """Lets trials start from each other's networks, so that training accumulates.

    A ladder of MACs targets comes first, from the top. Its first rungs try one ranking each, on the dense network; the
    others take the one that lost least before any training, and are cut from the smallest finished network above. Then
    each proposal is what is expected to add most hypervolume for its seconds: a target in a gap of the front, one below
    it, more training for one of its members, or one of them cut anew from a larger one. What is under way counts as if
    it had turned out as expected.

    All follows from the history, and under a time limit from the clock.

    Args:
        ladder: MACs targets of the opening, in the order in which they are tried.
        within: The smallest and the largest MACs ratio that may be targeted.
        budget: How long trials are trained.
        worst: Reference point: (error, MACs ratio).
        metric: What trials are scored by.
        methods: What may rank channels in the opening, best known first: such as need no sparsify phase.
    """

    def __init__(
        self,
        ladder: Sequence[float],
        *,
        within: tuple[float, float],
        budget: Budget,
        worst: tuple[float, float],
        metric: Metric = ACCURACY,
        methods: Sequence[str] = ("magnitude",),
    ) -> None:
        self.ladder, self._within, self._budget, self._worst = tuple(ladder), within, budget, worst
        self._metric, self.methods = metric, tuple(methods)
        self._digest = Digest(metric)
        self.pace = _ANY_PACE
        """As it is taken to be before there are trials to tell it; a launch that ends at a time measures it."""

    def look(self, history: Sequence[FrozenTrial], time: TimeLeft | None = None) -> Look:
        """Read the history once for all that is asked of it at this moment; an earlier look is over by then.

        Args:
            history: All trials of the study, by number.
            time: What is left of it; None without a time limit.
        """
        self._digest.read(history)
        return Look(self._digest, metric=self._metric, budget=self._budget, pace=self.pace, time=time)

    def steps(self, look: Look) -> list[Step] | None:
        """What to do next, best first; none while nothing is known of what the ladder gave.

        Args:
            look: At the moment.

        Returns:
            The steps, or None where the time is too short for another trial.
        """
        waiting = [target for target in self.ladder if not look.was_targeted(target)]
        if waiting:
            found = self._rung(waiting[0], look, left=sum(map(_effort, waiting)))
        elif look.model is None:
            return []
        else:
            found = self._best(look, look.model)
        return found if found or not look.is_timed else None

    def probe(self, target: float, look: Look, *, n_probes: int) -> Step | None:
        """A trial from the dense network that tries a recipe, or None where the time is too short for it.

        Args:
            target: Its MACs target.
            look: At the moment.
            n_probes: How many of its kind share their part of the time.
        """
        why, time = f"{target:.3g} of the MACs, to try a recipe", look.time
        if time is None:
            return Step(target, None, None, why, self.methods[0])
        epochs = look.epochs(target, seconds=_PROBES * time.of * time.workers / n_probes)
        return None if epochs is None else Step(target, None, min(epochs, self._budget.epochs), why, self.methods[0])

    def after_phase(self, target: float, look: Look) -> Step | None:
        """A trial that starts from a sparsify phase, or None where the phase would take too much of the time.

        Args:
            target: Its MACs target.
            look: At the moment.
        """
        why, time = f"{target:.3g} of the MACs, from a sparsify phase", look.time
        if time is None:
            return Step(target, None, None, why)
        phase_s = look.pace.seconds(self._budget.phase_epochs * self._budget.n_images, 1.0)
        if phase_s > min(_PHASE_SHARE * time.of * time.workers, time.seconds):
            return None
        epochs = look.epochs(target, seconds=look.later_s(), after_s=phase_s)
        return None if epochs is None else Step(target, None, epochs, why)

    def _rung(self, target: float, look: Look, *, left: float) -> list[Step]:
        # Rankings are told apart by what they leave of the same network.
        place = self.ladder.index(target)
        is_first = place < len(self.methods)
        method = self.methods[place] if is_first else self._ranking(look)
        parent = None if is_first else next(iter(look.parents(target)), None)
        epochs = look.epochs(target, seconds=look.rung_s(_effort(target), left=left))
        if epochs is None and look.is_timed:
            return []
        epochs = None if epochs is None else min(epochs, self._budget.epochs)
        why = f"opening: {target:.3g} of the MACs by {method}, from {_named(parent)}"
        return [Step(target, parent, epochs, why, method)]

    def _ranking(self, look: Look) -> str:
        """The method whose first rung lost least before it was trained, for as much as was cut.

        Each further cut of a network costs more than the one before, so a method that was tried on a deeper cut has to
        do better than the others to be taken for as good.
        """
        losses = {m: look.loss_at_once(m, target) for m, target in zip(self.methods, self.ladder, strict=False)}
        known = {method: loss for method, loss in losses.items() if loss is not None}
        best_known = self.methods[0]
        return min(known, key=known.__getitem__) if best_known in known else best_known

    def _best(self, look: Look, model: ErrorModel) -> list[Step]:
        method = self._ranking(look) if look.n_to_come() < _TO_EXPLORE else None
        metric, seconds, found = self._metric, look.later_s(), []
        for target, parent, is_more in self._candidates(look):
            epochs = look.epochs(target, seconds=seconds)
            if epochs is None and look.is_timed:
                continue
            images = (self._budget.epochs if epochs is None else epochs) * self._budget.n_images
            if is_more and parent is not None:
                score, what = model.of_more(parent, images=images), f"more training for {_named(parent)}"
            else:
                score = model.of_child(parent, macs_ratio=target, images=images)
                what = f"{target:.3g} of the MACs, from {_named(parent)}"
            again = look.point(parent) if is_more and parent is not None else None
            reached = f"{what}: {metric.name} {metric.text(score, digits=3)}"
            step = Step(target, parent, epochs, reached, method, again)
            found.append(_Option(step, error=metric.error(score), seconds=look.pace.seconds(images, target)))
        return self._by_gain(found, look)

    def _by_gain(self, options: Sequence[_Option], look: Look) -> list[Step]:
        """The steps, what is expected to add most hypervolume a second first; each says how much."""
        points = np.array([(option.error, option.step.macs_target) for option in options]).reshape(-1, 2)
        front = np.array(look.front()).reshape(-1, 2)
        gains = pareto.gains(points, front, self._worst) / (self._worst[0] * self._worst[1])
        ordered = sorted(
            zip(options, gains.tolist(), strict=True),
            key=lambda pair: (-pair[1] / pair[0].seconds, pair[0].step.macs_target),
        )
        return [
            dataclasses.replace(
                option.step,
                why=f"{option.step.why} and {gain:+.4f} hypervolume expected in {option.seconds:.0f} s",
            )
            for option, gain in ordered
        ]

    def _candidates(self, look: Look) -> Iterator[tuple[float, Member | None, bool]]:
        """Targets with their parents, and whether the parent keeps its widths."""
        least, most = self._within
        for member in look.members:
            if least <= member.macs_ratio <= most:
                yield member.macs_ratio, member, True
                # One that has lost what no training brings back, such as a class, is better cut anew.
                for larger in look.parents(member.macs_ratio * _NEAREST)[:1]:
                    if look.n_cut(larger, member.macs_ratio) < _TRIES:
                        yield member.macs_ratio, larger, False
        ratios = sorted({*look.taken, self._worst[1]})
        targets = [(low * high) ** 0.5 for low, high in itertools.pairwise(ratios) if high / low >= _NEAREST**2]
        for target in (*targets, ratios[0] * _BELOW):
            short = float(f"{target:.4g}")
            if least <= short <= most:
                parents = look.parents(short)[:_PARENTS]
                for parent in parents:
                    if look.n_cut(parent, short) < _TRIES:
                        yield short, parent, False
                if not parents:
                    yield short, None, False


class Look:
    """The history at one moment, as far as planning goes; `Planner.look` makes it."""

    def __init__(self, digest: Digest, *, metric: Metric, budget: Budget, pace: Pace, time: TimeLeft | None) -> None:
        self._digest, self._metric, self._budget, self.time = digest, metric, budget, time
        told = digest.complete[-_MOST_TOLD:]
        self.pace = pace.after([digest.frozen(number) for number in told])
        self._best, self.members = digest.front, digest.members
        every = [member for member in map(digest.member, told) if member.images > 0]
        dense = digest.dense_score
        self._dense_error = 0.0 if dense is None else metric.error(dense)
        least = min((error for error, _ in self._best), default=math.inf)
        self.model = None
        if every:
            self.model = ErrorModel.fitted(every, dense_score=dense, metric=metric, least_error=least)

    @property
    def is_timed(self) -> bool:
        """Whether the study ends at a time."""
        return self.time is not None

    @property
    def taken(self) -> list[float]:
        """MACs ratios at which the front has a network, or soon will."""
        return [m.macs_ratio for m in self.members] + [point.macs_target for point in self._running]

    def was_targeted(self, target: float) -> bool:
        """Whether a trial, whatever became of it, was to be cut down to just this."""
        return target in self._digest.targets

    def point(self, member: Member) -> Point:
        """Where a member lies in the space."""
        return self._digest.point(member.number)

    def parents(self, target: float) -> list[Member]:
        """The networks of the front that can be cut to a target, the smallest first."""
        return [member for member in self.members if member.macs_ratio >= target]

    def n_cut(self, parent: Member, target: float) -> int:
        """How many trials have cut a network to about a target, or are at it."""
        cuts = itertools.chain(self._digest.cuts(parent.number), self._cuts_under_way[parent.number])
        return sum(max(other, target) < _NEAREST * min(other, target) for other in cuts)

    @property
    def _running(self) -> Collection[Point]:
        return self._digest.running.values()

    @cached_property
    def _cuts_under_way(self) -> defaultdict[int | None, list[float]]:
        """MACs targets by the number of the trial whose network is being cut."""
        found = defaultdict[int | None, list[float]](list)
        for point in self._running:
            found[point.parent].append(point.macs_target)
        return found

    def front(self) -> list[tuple[float, float]]:
        """(error, MACs ratio) of the front of what is complete, and of what runs as it is expected to turn out."""
        if self.model is None:
            return self._best
        expected = []
        for point in self._running:
            parent = None if point.parent is None else self._digest.member(point.parent)
            images = (self._budget.epochs if point.epochs is None else point.epochs) * self._budget.n_images
            ratio = point.macs_target
            if parent is not None and parent.images > 0 and ratio >= parent.macs_ratio:
                score = self.model.of_more(parent, images=images)
            else:
                score = self.model.of_child(parent, macs_ratio=ratio, images=images)
            expected.append((self._metric.error(score), ratio))
        return [*self._best, *expected]

    def loss_at_once(self, method: str, target: float) -> float | None:
        """What a method's cut of the dense network cost before any training, over -log(target).

        None where it is not known. 0.02 at a target of 0.5 is less than 0.01 at 0.9: 0.029 and 0.095.
        """
        score = self._digest.at_once(method, target)
        if score is None:
            return None
        lost = self._metric.error(score) - self._dense_error
        return max(lost, 0.0) / max(-math.log(target), 0.01)

    def rung_s(self, effort: float, *, left: float) -> float:
        """Seconds for the next rung, whose effort is a part of what is ``left``; what runs is half done, on average."""
        if self.time is None:
            return 0.0
        there_s = max(self.time.seconds - (1 - _OPENING) * self.time.of, 0.0)
        left += sum(_effort(point.macs_target) for point in self._running) / 2
        return there_s * min(self.time.workers * effort / left, 1.0)

    def later_s(self) -> float:
        """Seconds for a trial after the opening: as much as a rung of it got."""
        if self.time is None:
            return 0.0
        own = [seconds for seconds in self._digest.seconds.values() if seconds > self.pace.overhead_s]
        return float(np.median(own)) if own else self.time.of / 10

    def n_to_come(self) -> float:
        """How many trials the time is still long enough for."""
        return math.inf if self.time is None else self.time.seconds * self.time.workers / self.later_s()

    def epochs(self, macs_ratio: float, *, seconds: float, after_s: float = 0.0) -> float | None:
        """Length of a trial that is to take so long, or all of the time where the rest would be too short for another.

        None without a time limit, and where the time is too short.

        Args:
            macs_ratio: Of its network.
            seconds: That it is to take.
            after_s: Seconds before it begins.
        """
        if self.time is None:
            return None
        left = self.time.seconds - after_s - max(_SPARE * self.time.of, _SPARE_S)
        if left < 1.5 * seconds:
            seconds = left
        least_s = self.pace.seconds(self._budget.least_epochs * self._budget.n_images, macs_ratio)
        if left < least_s:
            return None
        n_images = self.pace.n_images(max(seconds, least_s), macs_ratio)
        return float(f"{n_images / self._budget.n_images:.4g}")


def _named(parent: Member | None) -> str:
    return "the dense network" if parent is None else f"trial {parent.number}"


def _effort(macs_target: float) -> float:
    """A rung's part of the time of the opening, up to a factor.

    Who is cut by little has little to regain, but all that come after it inherit what it learns.
    """
    return math.sqrt(max(1 - macs_target, 0.1))
