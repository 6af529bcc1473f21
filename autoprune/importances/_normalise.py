"""Makes scores of different layers comparable: what a ranking of all channels together needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.errors import ConfigError, unknown_name
from autoprune.widths import Scores

__all__ = ["NORMALISATIONS", "normalise"]

NORMALISATIONS = ("none", "mean", "max", "per_mac", "isomorphic")


def normalise(scores: Scores, kind: str, cost: CostModel) -> Scores:
    """Bring the scores of groups to one scale; the order within a group stays.

    Args:
        scores: By group, shape (C,), >= 0.
        kind: ``"none"``; ``"mean"`` or ``"max"``, divided by that of the group's scores; ``"per_mac"``, divided by the
            MACs that one channel less saves in the dense network; ``"isomorphic"``, the share of the channels of all
            groups of the same structure that a channel is ahead of or level with, so that only these compete.
        cost: The network's cost model.

    Returns:
        New scores by group. Where they are divided, a group whose scores are all 0 keeps them.

    Raises:
        ConfigError: There is no such kind.

    References:
        Fang et al. (2024), Isomorphic pruning for vision models, arXiv 2407.04616, who compare sub-structures of one
        topology; here, groups whose layers read and write them alike, whatever their widths.
    """
    if kind not in NORMALISATIONS:
        raise ConfigError(unknown_name("normalisation", kind, NORMALISATIONS))
    if kind == "none":
        return dict(scores)
    if kind == "isomorphic":
        return _ranked(scores, _structures(cost))
    if kind == "per_mac":
        fewer = np.asarray(cost.dense) - np.eye(len(cost.dense), dtype=np.int64)  # Row g: one channel less of group g.
        saved = cost.dense_macs - cost.macs(fewer)
        divisors = dict(zip(cost.groups, saved.tolist(), strict=True))
    else:
        size = np.mean if kind == "mean" else np.max
        divisors = {name: float(size(score)) for name, score in scores.items()}
    return {name: score / (divisors[name] or 1.0) for name, score in scores.items()}


def _structures(cost: CostModel) -> dict[str, tuple[object, ...]]:
    """By group how its layers read and write it: kernel, vectors, and how often a channel lies on either side."""
    found: dict[int, list[tuple[int, ...]]] = {place: [] for place in range(len(cost.groups))}
    for layer in cost.layers:
        read, written = dict(layer.fan_in.terms), dict(layer.fan_out.terms)
        for place in read.keys() | written.keys():
            found[place].append((layer.weights, layer.biases, read.get(place, 0), written.get(place, 0)))
    return {name: tuple(sorted(found[place])) for place, name in enumerate(cost.groups)}


def _ranked(scores: Scores, structures: dict[str, tuple[object, ...]]) -> dict[str, Any]:
    """Each score as the share of the scores of its structure that it is at least as large as; 0 stays."""
    every = {
        structure: np.sort(np.concatenate([score for name, score in scores.items() if structures[name] == structure]))
        for structure in {structures[name] for name in scores}
    }
    found = {}
    for name, score in scores.items():
        others = every[structures[name]]
        found[name] = np.where(score > 0, np.searchsorted(others, score, side="right") / len(others), 0.0)
    return found
