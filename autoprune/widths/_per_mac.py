"""The width rule ``per_mac``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.cost import Limits
from autoprune.widths._contract import Evidence, WidthRule
from autoprune.widths._damages import joint_damages
from autoprune.widths._ranking import least_important_first, settled

__all__ = ["PerMAC"]


class PerMAC(WidthRule):
    """Channel by channel, the one that adds the least damage for each MAC that goes with it.

    The added damage is the joint one, of all that have left the group before; the MACs are those that its leaving saves
    at the widths of the moment, since a channel is cheaper once its neighbours are thin. Of the scores only the order
    within a group counts. It removes most where maps are small, so its networks train longer than others of their MACs.
    """

    name: ClassVar[str] = "per_mac"
    summary: ClassVar[str] = "again and again the channel that does the least damage per MAC saved"
    ranks: ClassVar[bool] = True
    is_default: ClassVar[bool] = False

    def widths(self, evidence: Evidence, limits: Limits) -> dict[str, int]:
        """What is left once the limits hold."""
        cost = evidence.cost
        smallest = [limits.min_widths.get(name, 1) for name in cost.groups]
        limits.check_reachable(cost, dict(zip(cost.groups, smallest, strict=True)))
        # By group, what each further channel adds; none can be taken beyond the smallest width.
        added = []
        for name, least in zip(cost.groups, smallest, strict=True):
            joint = joint_damages(evidence.damages[name], least_important_first(evidence.scores[name]))
            added.append(np.append(np.diff(joint, prepend=0)[: len(joint) - least], np.inf))
        left, one_less = np.asarray(cost.dense).copy(), np.eye(len(cost.dense), dtype=np.int64)
        gone, removed = np.zeros_like(left), list[int]()
        while not limits.keeps(cost, left):
            saved = cost.macs(left) - cost.macs(np.maximum(left - one_less, 1))
            damage = np.array([of_group[n] for of_group, n in zip(added, gone.tolist(), strict=True)])
            group = int(np.argmin(damage / np.maximum(saved, 1)))
            left[group] -= 1
            gone[group] += 1
            removed.append(group)
        return settled(cost, left, removed=np.array(removed, dtype=np.int64), limits=limits)
