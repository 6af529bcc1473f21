"""Makes scores of different layers comparable: what a ranking of all channels together needs."""

from __future__ import annotations

import numpy as np

from autoprune.cost import CostModel
from autoprune.errors import ConfigError, unknown_name
from autoprune.widths import Scores

__all__ = ["NORMALISATIONS", "normalise"]

NORMALISATIONS = ("none", "mean", "max", "per_mac")


def normalise(scores: Scores, kind: str, cost: CostModel) -> Scores:
    """Divide the scores of each group by one number; the order within a group stays.

    Args:
        scores: By group, shape (C,), >= 0.
        kind: ``"none"``; ``"mean"`` or ``"max"`` of the group's scores; ``"per_mac"``, the MACs that one channel less
            saves in the dense network.
        cost: The network's cost model.

    Returns:
        New scores by group. A group whose scores are all 0 keeps them.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in NORMALISATIONS:
        raise ConfigError(unknown_name("normalisation", kind, NORMALISATIONS))
    if kind == "none":
        return dict(scores)
    if kind == "per_mac":
        fewer = np.asarray(cost.dense) - np.eye(len(cost.dense), dtype=np.int64)  # Row g: one channel less of group g.
        saved = cost.dense_macs - cost.macs(fewer)
        divisors = dict(zip(cost.groups, saved.tolist(), strict=True))
    else:
        size = np.mean if kind == "mean" else np.max
        divisors = {name: float(size(score)) for name, score in scores.items()}
    return {name: score / (divisors[name] or 1.0) for name, score in scores.items()}
