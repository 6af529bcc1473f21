"""What a driver and the database say to each other about trials."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

__all__ = ["Claim", "Counts", "Failures", "Proposal", "Refusal", "Result", "Room"]


@dataclass(frozen=True)
class Proposal:
    """A trial that search suggests, still in memory.

    Args:
        params: Hyper-parameters by name.
        distributions: Optuna's distribution of each.
        key: Hash of everything that fixes the trial's result; two finished trials of a study never share it.
        attrs: User attributes that the trial starts with, JSON.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    key: str
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A trial that is now ours to run.

    Args:
        trial_id: Optuna's id, unique in the database.
        number: Its number within the study.
        params: Hyper-parameters by name.
        attrs: The attributes that came with the proposal.
        attempt: How many earlier tries of the same proposal ended without a result.
        seed_number: The number that it would have if no trial had been tried again; it seeds what differs between
            trials, so that a retry repeats what was lost and those after it are as they would have been.
    """

    trial_id: int
    number: int
    params: dict[str, Any]
    attrs: dict[str, Any]
    attempt: int
    seed_number: int


@dataclass(frozen=True)
class Result:
    """What a COMPLETE trial found.

    Args:
        number: Number of the trial that computed it.
        attrs: Its attributes but for those of the proposal and of the claim.
    """

    number: int
    attrs: dict[str, Any]


class Refusal(enum.Enum):
    """Why a proposal was not claimed."""

    DUPLICATE = "duplicate"
    FULL = "full"


class Room(enum.Enum):
    """Whether a study wants more trials."""

    OPEN = "open"
    FULL_FOR_NOW = "full for now"
    FINISHED = "finished"


@dataclass(frozen=True)
class Failures:
    """Failed trials that were not given another try.

    Args:
        consecutive: How many ended after the last result.
        total: All of them.
        first_number: Number of the trial that failed first.
        first_reason: Why it did.
    """

    consecutive: int
    total: int
    first_number: int | None
    first_reason: str | None


@dataclass(frozen=True)
class Counts:
    """Number of trials of a study by state."""

    waiting: int
    running: int
    complete: int
    pruned: int
    failed: int

    @property
    def finished(self) -> int:
        """Trials with a result: complete, or stopped early."""
        return self.complete + self.pruned

    @property
    def taken(self) -> int:
        """Trials that fill a place among ``n_trials``: all but the failed ones."""
        return self.waiting + self.running + self.finished
