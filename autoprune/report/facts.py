"""What a report is made of: one study as plain data, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Axis", "Group", "Growth", "Importance", "ImportanceTable", "StudyFacts", "TestedScore", "TrialFacts"]

Value = float | str | bool


@dataclass(frozen=True)
class TestedScore:
    """What a network scores on the test split.

    Args:
        mean: Over the repetitions.
        sd: Their sample standard deviation; None for a single one.
        n_seeds: How many there are.
        like_next: Whether it can't be told apart from the next costlier member; None where that is not known.
    """

    __test__ = False  # pytest takes what is called Test for one

    mean: float
    sd: float | None
    n_seeds: int
    like_next: bool | None


@dataclass(frozen=True, kw_only=True)
class TrialFacts:
    """One trial.

    Args:
        number: Its number within the study.
        state: ``COMPLETE``, ``PRUNED`` (stopped early), ``FAIL``, ``RUNNING`` or ``WAITING``.
        values: The score and what the network costs, by name; of a trial that was stopped, as far as they were known.
        searched: What was proposed, by name.
        keeps_limits: Whether it keeps the study's constraints.
        rungs: Scores in the order of the rungs; rung 0 is after BN recalibration.
        started_from: The trial whose network it was cut from; None for the dense one.
        depth: Trials before it in its lineage.
        images: Images that its own fine-tuning has seen.
        lineage_images: The same of it and all before it.
        started_s: When it began, seconds since 1970; None where it did not.
        ended_s: When it ended.
        host: Machine that it ran on.
        seconds: Of its work, by phase.
        reason: Why it failed or was stopped.
        why: Why it was proposed.
        retry_of: The trial that it tries again.
        taken_over_from: The trial that computed its result, where that was another one.
        widths: Width by group; empty where unknown.
        tested: Its score on the test split.
    """

    number: int
    state: str
    values: Mapping[str, float]
    searched: Mapping[str, Value]
    keeps_limits: bool = True
    rungs: tuple[float, ...] = ()
    started_from: int | None = None
    depth: int = 0
    images: int = 0
    lineage_images: int = 0
    started_s: float | None = None
    ended_s: float | None = None
    host: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    why: str | None = None
    retry_of: int | None = None
    taken_over_from: int | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    tested: TestedScore | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it has a result."""
        return self.state == "COMPLETE"


@dataclass(frozen=True)
class Group:
    """One channel group: its name, its dense width, the stage of the network that it belongs to."""

    name: str
    width: int
    stage: str


@dataclass(frozen=True)
class Axis:
    """The range that one searched number has; choices have none.

    Args:
        low: Its least value.
        high: Its largest value.
        is_log: Whether it is searched on a logarithmic scale.
    """

    low: float
    high: float
    is_log: bool = False


@dataclass(frozen=True)
class Growth:
    """The front when a trial has ended.

    Args:
        number: The trial.
        device_s: What the study had cost by then: time of its trials added up.
        hypervolume: As a share of the box up to the reference point.
    """

    number: int
    device_s: float
    hypervolume: float


@dataclass(frozen=True)
class Importance:
    """How much of the variation of one objective a parameter explains, a share."""

    parameter: str
    share: float


@dataclass(frozen=True)
class ImportanceTable:
    """Importances for one objective, the largest first; where there are none, ``note`` says why."""

    objective: str
    rows: tuple[Importance, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """One study.

    Args:
        name: Its name.
        about: What it is, for people: pairs of a term and its description.
        metric: What networks are scored by.
        metric_is_maximised: Whether more of it is better.
        metric_digits: Digits after the point that people read; None for a metric of any size.
        objectives: Names, in order; all but the metric minimise.
        cost: The objective along which the front is drawn.
        reference_point: By objective.
        limits: Largest value allowed, by name.
        n_wanted: Trials asked for; None where only time ends the study.
        trials: By number.
        front: Members by rising cost.
        uniform_front: The front of the trials of the rule ``uniform`` alone, by rising cost.
        dense_score: Of the untouched network.
        groups: Of the network, in its order.
        axes: Ranges of what is searched, by name.
        growth: In the order in which trials ended; empty where a hypervolume can't be told.
        importances: One for each objective.
        devices: What one device is, such as ``"1 GPU"``.
        storage: What ``--storage`` has to be for the commands; None where it can be left out.
    """

    name: str
    about: tuple[tuple[str, str], ...]
    metric: str
    metric_is_maximised: bool
    metric_digits: int | None
    objectives: tuple[str, ...]
    cost: str
    reference_point: Mapping[str, float]
    limits: Mapping[str, float]
    n_wanted: int | None
    trials: Mapping[int, TrialFacts]
    front: tuple[int, ...]
    uniform_front: tuple[int, ...]
    dense_score: float | None
    groups: tuple[Group, ...]
    axes: Mapping[str, Axis]
    growth: tuple[Growth, ...]
    importances: tuple[ImportanceTable, ...]
    devices: str
    storage: str | None = None

    @property
    def members(self) -> list[TrialFacts]:
        """The front's trials by rising cost."""
        return [self.trials[number] for number in self.front]

    @property
    def complete(self) -> list[TrialFacts]:
        """The trials with a result."""
        return [trial for trial in self.trials.values() if trial.is_complete]

    def score_text(self, value: float | None) -> str:
        """A score for people."""
        if value is None:
            return "–"
        return f"{value:#.4g}".rstrip(".") if self.metric_digits is None else f"{value:.{self.metric_digits}f}"

    def is_better(self, one: float, other: float) -> bool:
        """Whether the first score is better than the second."""
        return one > other if self.metric_is_maximised else one < other

    def lineage(self, number: int) -> list[int]:
        """The trials that a trial's network came through: the first one, ..., the trial itself."""
        line = [self._computed_by(number)]
        while (before := self.trials[line[-1]].started_from) is not None and before in self.trials:
            line.append(self._computed_by(before))
        return line[::-1]

    def _computed_by(self, number: int) -> int:
        other = self.trials[number].taken_over_from
        return number if other is None or other not in self.trials else other
