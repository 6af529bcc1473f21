"""What the dispatcher and those around it say to each other."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from autoprune.config import Progressed, Report
from autoprune.search.trials import Claim, EarlierResult, Point

__all__ = ["Live", "Nothing", "RunningTrial", "Snapshot", "Stopping"]


class Nothing(enum.Enum):
    """Why no trial is handed out."""

    NOW = "nothing to do now; ask again"
    EVER = "the study is finished or stopping"


class Stopping(enum.Enum):
    """Why a driver winds down before its study is finished."""

    TIME = "the time limit is reached"
    INTERRUPT = "interrupted"
    REQUEST = "stopped from another terminal"
    FAILURES = "too many trials failed"
    EXHAUSTED = "the space has nothing new"
    STALLED = "the hypervolume has stalled"
    BROKEN = "the driver met an error"


@dataclass(frozen=True)
class RunningTrial:
    """A trial under way, for people.

    Args:
        number: Its number within the study.
        point: What is tried.
        phase: The phase it is in.
        progress: Share of it done, in [0, 1].
        images_per_s: Training images a second in this phase, or None.
        seconds_left: Of this phase, or None.
    """

    number: int
    point: Point
    phase: str
    progress: float
    images_per_s: float | None = None
    seconds_left: float | None = None

    @property
    def progress_told(self) -> dict[str, str | float | None]:
        """What the database keeps of its progress, JSON; see `StoredTrial.progress`."""
        shown = ("phase", "progress", "images_per_s", "seconds_left")
        return {name: getattr(self, name) for name in shown}


@dataclass(frozen=True)
class Snapshot:
    """A driver at one moment.

    Args:
        running: Its trials under way.
        seconds_left: Until its time limit, or None without one.
    """

    running: tuple[RunningTrial, ...]
    seconds_left: float | None


@dataclass
class Live:
    """A trial that runs under this driver, as last heard.

    Args:
        claim: What was claimed.
        rungs: Score by rung reached.
        macs_ratio: Pruned / dense MACs, once known.
        phase: The phase it is in.
        progress: Share of it done, in [0, 1].
        images_per_s: Training images a second in this phase, or None.
        seconds_left: Of this phase, or None.
        runs_on: Where it runs: ``host``, and ``node`` of the cluster.
        result_key: Hash of all that fixes its result but the fine-tune seed, once known.
        earlier: That very result, where another trial has it already.
        lost: Whether its lease is no longer ours.
        behind: Why it was ended early for its score, or None.
        since: When its worker began, by the monotonic clock; None while it has none yet.
        overdue: Why its worker was ended, where it took longer than a trial may.
    """

    claim: Claim
    rungs: dict[str, float] = field(default_factory=dict)
    macs_ratio: float | None = None
    phase: str = "starting"
    progress: float = 0.0
    images_per_s: float | None = None
    seconds_left: float | None = None
    runs_on: dict[str, str] = field(default_factory=dict)
    result_key: str | None = None
    earlier: EarlierResult | None = None
    lost: bool = False
    behind: str | None = None
    since: float | None = None
    overdue: str | None = None

    @property
    def underway(self) -> RunningTrial:
        """For people."""
        return RunningTrial(
            self.claim.number, self.claim.point, self.phase, self.progress, self.images_per_s, self.seconds_left
        )

    def hear(self, report: Report) -> None:
        """Take in what the trial says."""
        self.runs_on.update(report.runs_on)
        if not isinstance(report, Progressed):
            return
        self.phase, self.progress = report.phase, report.progress
        self.images_per_s, self.seconds_left = report.images_per_s, report.seconds_left
        if report.macs_ratio is not None:
            self.macs_ratio = report.macs_ratio
        if report.rung is not None and report.score is not None:
            self.rungs[str(report.rung)] = report.score
        if report.result_key is not None:
            self.result_key = report.result_key
