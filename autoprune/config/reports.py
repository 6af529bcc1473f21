"""What a worker tells its driver of a trial: that it goes on, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.config.fields import option

__all__ = ["Completed", "Failed", "Progressed", "Report", "Stopped"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """One word of a worker; its classes are the kinds of it.

    Args:
        host: Name of the machine that the trial runs on.
        node: That machine's name within the cluster.
    """

    host: str | None = None
    node: str | None = None

    @property
    def runs_on(self) -> dict[str, str]:
        """Where the trial runs, as far as it is known."""
        return {name: value for name, value in (("host", self.host), ("node", self.node)) if value is not None}


@dataclass(frozen=True, kw_only=True)
class Progressed(Report):
    """The trial goes on.

    Args:
        phase: The phase it is in.
        progress: Share of that phase done, in [0, 1].
        rung: Index of the rung reached, or None between rungs; 0 is after BN recalibration.
        score: The study's metric on the validation split, at the rung.
        macs_ratio: Pruned / dense MACs, once the widths are known.
        phase_file: Once the sparsify phase's result lies in the cache: its key, place, sha256 and size_bytes.
        result_key: Once the channels are chosen: hash of all that fixes the result, so that an earlier one can be
            taken over.
        images_per_s: Training images (of a task: examples) a second in this phase; None before that can be told.
        seconds_left: Of this phase, at its pace so far; None likewise.
    """

    phase: str
    progress: float
    rung: int | None = None
    score: float | None = None
    macs_ratio: float | None = None
    phase_file: Mapping[str, Any] | None = None
    result_key: str | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Completed(Report):
    """The trial has a result.

    Args:
        result: What it found, JSON (`TrialResult.to_dict`).
    """

    result: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stopped(Report):
    """The trial has ended itself early, since it would not become admissible.

    Args:
        reason: Why, for people.
        found: What it knows beyond its rungs, JSON.
    """

    reason: str
    found: Mapping[str, Any] = option({})


@dataclass(frozen=True, kw_only=True)
class Failed(Report):
    """The trial has met an error.

    Args:
        reason: The error, for people.
        traceback: Where it was raised.
    """

    reason: str
    traceback: str = ""
