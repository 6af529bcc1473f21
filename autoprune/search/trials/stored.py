"""A stored trial, read by the ideas of it rather than by the names under which they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autoprune.search.trials.attributes import RESERVED, Attr
from autoprune.search.trials.point import Point

__all__ = ["StoredTrial", "TrialProgress", "dense_score", "lineage_of"]

# System attribute: which user attributes came with the proposal, and so belong to a second try as well.
GIVEN = "autoprune:given"


@dataclass(frozen=True)
class TrialProgress:
    """How far a running trial is, as its driver wrote with its last beat.

    Args:
        at: When that was, in the database's seconds.
        phase: The phase it is in.
        progress: Share of it done, in [0, 1].
        images_per_s: Training images a second in this phase, or None.
        seconds_left: Of this phase, or None.
    """

    at: float
    phase: str
    progress: float
    images_per_s: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class StoredTrial:
    """What the database says of one trial; what was not stored is None, or its default.

    Args:
        frozen: The trial as Optuna reads it.
    """

    frozen: FrozenTrial

    @property
    def number(self) -> int:
        """Its number within the study."""
        return self.frozen.number

    @property
    def state(self) -> TrialState:
        """RUNNING, WAITING, COMPLETE, PRUNED or FAIL."""
        return self.frozen.state

    @property
    def attrs(self) -> dict[str, Any]:
        """All that was found and booked, by the names it is stored under."""
        return self.frozen.user_attrs

    @property
    def key(self) -> str | None:
        """Hash of everything that fixes the result; None for a trial that another tool has made."""
        return self.attrs.get(Attr.KEY)

    @property
    def point(self) -> Point:
        """What was proposed."""
        return Point.from_dict(self.attrs[Attr.POINT])

    @property
    def macs_target(self) -> float | None:
        """The MACs target of its point, looked up; None for a trial that another tool has made."""
        target: float | None = self.attrs.get(Attr.POINT, {}).get("macs_target")
        return target

    @property
    def method(self) -> str | None:
        """The method of its point, looked up; None for a trial that another tool has made."""
        method: str | None = self.attrs.get(Attr.POINT, {}).get("method")
        return method

    @property
    def given(self) -> dict[str, Any]:
        """The attributes that came with the proposal, as far as they were read."""
        return {name: self.attrs[name] for name in self.frozen.system_attrs.get(GIVEN, []) if name in self.attrs}

    @property
    def found(self) -> dict[str, Any]:
        """The attributes that came neither with the proposal nor with the claim."""
        before = RESERVED | self.given.keys()
        return {name: value for name, value in self.attrs.items() if name not in before}

    @property
    def progress(self) -> TrialProgress | None:
        """How far it is; None where it does not run, or where nothing is known yet."""
        told = self.attrs.get(Attr.PROGRESS)
        return TrialProgress(**told) if told is not None and self.state is TrialState.RUNNING else None

    @property
    def revision(self) -> int | None:
        """Revision of the study's configuration under which it was claimed."""
        return self.attrs.get(Attr.REVISION)

    @property
    def owner(self) -> str | None:
        """The driver that claimed it last."""
        return self.attrs.get(Attr.OWNER)

    @property
    def claimed_at(self) -> float | None:
        """When it was claimed last, in the database's seconds."""
        return self.attrs.get(Attr.CLAIMED_AT)

    @property
    def attempt(self) -> int:
        """How many earlier tries of the same proposal ended without a result."""
        return int(self.attrs.get(Attr.ATTEMPT, 0))

    @property
    def retry_of(self) -> int | None:
        """Number of the trial that it tries again."""
        return self.attrs.get(Attr.RETRY_OF)

    @property
    def seed_number(self) -> int:
        """The number that it would have if no trial had been tried again."""
        return int(self.attrs.get(Attr.SEED_NUMBER, self.number))

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        return self.attrs.get(Attr.REASON)

    @property
    def taken_over_from(self) -> int | None:
        """Number of the trial that computed its result, where that was another one."""
        return self.attrs.get(Attr.TAKEN_OVER_FROM)

    @property
    def computed_by(self) -> int:
        """Number of the trial that computed its result."""
        other = self.taken_over_from
        return self.number if other is None else int(other)

    @property
    def parent(self) -> int | None:
        """Number of the trial whose network it was to start from."""
        return self.attrs.get(Attr.PARENT)

    @property
    def started_from(self) -> int | None:
        """Number of the trial whose network it did start from, once it has a result."""
        return self.attrs.get(Attr.STARTED_FROM)

    @property
    def depth(self) -> int:
        """How many trials come before it in its lineage."""
        return int(self.attrs.get(Attr.DEPTH, 0))

    @property
    def images(self) -> int:
        """Images that its own fine-tune phase has seen; 0 where nothing was told of it."""
        return int(self.attrs.get(Attr.IMAGES) or 0)

    @property
    def rungs(self) -> dict[int, float]:
        """Score by rung reached, without those that were no number."""
        stored = self.attrs.get(Attr.RUNGS) or {}
        return {int(rung): float(score) for rung, score in stored.items() if score is not None}

    @property
    def weights(self) -> str | None:
        """Path of its network."""
        return self.attrs.get(Attr.WEIGHTS)

    @property
    def sha256(self) -> str | None:
        """Hash of that file."""
        return self.attrs.get(Attr.SHA256)


def lineage_of(trial: StoredTrial, trials: Mapping[int, StoredTrial]) -> list[StoredTrial]:
    """The trials that a trial's network came through: the first one, ..., the trial itself.

    Args:
        trial: With a result, its own or one that it took over.
        trials: All trials of its study by number.
    """
    line = [trials[trial.computed_by]]
    while (number := line[-1].started_from) is not None:
        line.append(trials[trials[number].computed_by])
    return line[::-1]


def dense_score(trials: Iterable[StoredTrial], metric: str) -> float | None:
    """Score of the untouched dense network, where one of the trials tells it.

    Args:
        trials: Of a study.
        metric: The name of what they are scored by.
    """
    complete = (trial for trial in trials if trial.state is TrialState.COMPLETE and not trial.images)
    return next((float(t.attrs[metric]) for t in complete if t.attrs.get("macs_ratio", 0) >= 1), None)
