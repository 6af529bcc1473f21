"""What a driver and the database say to each other about trials."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

from autoprune.search.trials.attributes import Attr
from autoprune.search.trials.point import Point

__all__ = ["Claim", "EarlierResult", "Failures", "NotClaimed", "Proposal", "Room"]


@dataclass(frozen=True)
class Proposal:
    """A trial that search suggests, still in memory.

    Args:
        params: Hyper-parameters by name.
        distributions: Optuna's distribution of each.
        key: Hash of everything that fixes the trial's result; two finished trials of a study never share it.
        attrs: User attributes that the trial starts with, JSON.
        n_finished: Trials with a result that the study had when it was made.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    key: str
    attrs: dict[str, Any] = field(default_factory=dict)
    n_finished: int = 0

    @property
    def parent(self) -> int | None:
        """Number of the trial whose network it starts from."""
        return self.attrs.get(Attr.PARENT)

    @property
    def point(self) -> Point:
        """What is suggested."""
        return Point.from_dict(self.attrs[Attr.POINT])


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

    @property
    def point(self) -> Point:
        """What is to be run."""
        return Point.from_dict(self.attrs[Attr.POINT])


@dataclass(frozen=True)
class EarlierResult:
    """What a COMPLETE trial found.

    Args:
        number: Number of the trial that computed it.
        attrs: Its attributes but for those of the proposal and of the claim.
    """

    number: int
    attrs: dict[str, Any]


class NotClaimed(enum.Enum):
    """Why a proposal was not claimed."""

    DUPLICATE = "duplicate"
    ORPHAN = "its parent's network is gone"
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
