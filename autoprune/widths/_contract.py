"""What a width rule is, and what it may go by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel, Limits

__all__ = ["Damages", "Evidence", "Kept", "Scores", "WidthRule"]

Scores = Mapping[str, NDArray[np.float64]]
"""Importance by group name, each of shape (C,); higher stays. One of 0 or less says that nothing is lost without it."""

Kept = Mapping[str, NDArray[np.int64]]
"""Sorted indices of the kept channels by group name; an absent group keeps all."""

Damages = Mapping[str, NDArray[np.float64]]
"""By group a matrix G of shape (C, C): to remove the channels R together does the damage ``sum(G[R][:, R])``."""


def _unmeasured() -> Damages:
    raise AssertionError("the damages of channels were not measured")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a width rule may go by.

    Args:
        cost: The network's cost model.
        scores: By group; empty for a rule that does not rank.
        multipliers: Of the keep ratio, by group, > 0; an absent group has 1.
        measure: Measures the damage that channels do at the next layer when they leave; called at most once.
    """

    cost: CostModel
    scores: Scores = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)
    measure: Callable[[], Damages] = _unmeasured

    @cached_property
    def damages(self) -> Damages:
        """What `measure` found."""
        return self.measure()


class WidthRule(ABC):
    """How scores and limits become widths. Rules have no state and no hyper-parameters."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """A few words for people, such as ``"one keep ratio for all"``."""
    ranks: ClassVar[bool] = False
    """Whether it goes by what a trial ranks, so that no parameter fixes the widths before."""
    decides: ClassVar[bool] = False
    """Whether channels may go that every limit allows to stay."""
    unit: ClassVar[str] = ""
    """What one multiplier is for, such as ``"stage"``; empty for a rule that samples none."""
    is_default: ClassVar[bool] = True
    """Whether spaces that name no rules have it. A rule that is added later must not change what they propose."""

    def sampled(self, cost: CostModel) -> Mapping[str, tuple[str, ...]]:
        """The multipliers that the search samples, by name, and the groups whose keep ratios each multiplies.

        Args:
            cost: The network's cost model.
        """
        return {}

    @abstractmethod
    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """A width for every group, allowed and within the limits, which are used up: no group could be wider alone.

        Only a rule that ``decides`` may leave room.

        Args:
            evidence: What it may go by.
            limits: What the widths must keep, of MACs, of parameters, or of both.

        Raises:
            InfeasibleError: Even the smallest widths cost more.
        """

    def findings(self, evidence: Evidence, kept: Kept) -> dict[str, float]:
        """What a trial should note besides its widths, by name of the fact.

        Args:
            evidence: What the rule went by.
            kept: The channels that stay.
        """
        return {}
