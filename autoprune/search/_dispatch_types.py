"""What the dispatcher and those around it say to each other."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from autoprune.search.claims import Claim, Result

__all__ = ["FailureCaps", "Live", "Nothing", "Stopping"]


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
    BROKEN = "the driver met an error"


@dataclass(frozen=True)
class FailureCaps:
    """How many failed trials end a study, counted from the launch.

    Args:
        in_a_row: Failures with no finished trial between them, >= 1.
        in_all: Failures in total, >= 1.
    """

    in_a_row: int
    in_all: int


@dataclass
class Live:
    """A trial that runs under this driver, as last heard.

    Args:
        claim: What was claimed.
        rungs: Accuracy by rung reached.
        macs_ratio: Pruned / dense MACs, once known.
        phase: The phase it is in.
        progress: Share of it done, in [0, 1].
        runs_on: Where it runs: ``host``, and ``node`` of the cluster.
        result_key: Hash of all that fixes its result but the fine-tune seed, once known.
        earlier: That very result, where another trial has it already.
        lost: Whether its lease is no longer ours.
    """

    claim: Claim
    rungs: dict[str, float] = field(default_factory=dict)
    macs_ratio: float | None = None
    phase: str = "starting"
    progress: float = 0.0
    runs_on: dict[str, str] = field(default_factory=dict)
    result_key: str | None = None
    earlier: Result | None = None
    lost: bool = False
