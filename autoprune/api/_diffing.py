"""Two studies held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autoprune.api._fronts import agreed, open_studies
from autoprune.api._reading import Study
from autoprune.config import Metric, SearchConfig
from autoprune.errors import ConfigError
from autoprune.search.front import (
    Candidates,
    Stretch,
    alike_by_share,
    hypervolume_of,
    n_beaten,
    stretches,
)

__all__ = ["Difference", "Lead", "diff"]

_ABSENT = "(absent)"
_OF_PLACE = ("study.name", "setting.artifacts")  # They differ between any two studies, or say where files lie.


@dataclass(frozen=True)
class Lead:
    """An interval of the first cost on which one study is ahead.

    Args:
        low: Where it begins.
        high: Where it ends; None: nowhere.
        ahead: Name of the study whose best network of at most that cost scores better; None: they are level.
        at: The cost where the gap is widest.
        scores: The best score of each study there, by name; None of one that has no network as cheap as that.
        within_noise: Whether even the widest gap is within two standard errors of shares of the validation split
            (`search.front.noise.alike_by_share`); None where that is not known.
    """

    low: float
    high: float | None
    ahead: str | None
    at: float
    scores: Mapping[str, float | None]
    within_noise: bool | None


@dataclass(frozen=True)
class Difference:
    """What sets two studies apart.

    Args:
        names: Of the two studies.
        metric: What both are scored by.
        cost: The first cost, along which they are compared.
        reference_point: By objective, the worse one of both studies.
        hypervolumes: By study, and of both together under ``"both"``, as a share of the box up to the reference point;
            empty with more than three objectives.
        n_members: Members of the front, by study.
        n_beaten: How many of them a member of the other front beats, by study.
        leads: Who is ahead where, from the cheapest networks on.
        settings: What differs in configuration and identity: each key with the value of either study.
    """

    names: tuple[str, str]
    metric: Metric
    cost: str
    reference_point: Mapping[str, float]
    hypervolumes: Mapping[str, float]
    n_members: Mapping[str, int]
    n_beaten: Mapping[str, int]
    leads: tuple[Lead, ...]
    settings: Mapping[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON-serialisable data."""
        return {
            "studies": list(self.names),
            "metric": self.metric.name,
            "cost": self.cost,
            "reference_point": dict(self.reference_point),
            "hypervolumes": dict(self.hypervolumes),
            "n_members": dict(self.n_members),
            "n_beaten": dict(self.n_beaten),
            "leads": [{**vars(lead), "scores": dict(lead.scores)} for lead in self.leads],
            "settings": {key: list(values) for key, values in self.settings.items()},
        }


def diff(one: str, other: str, *, storage: str | None = None) -> Difference:
    """Hold two studies of one database against each other: their fronts, their hypervolumes, their settings.

    Each trial keeps the constraints of its own study. Hypervolumes are taken at one reference point, the worse one of
    both for each objective.

    Raises:
        ConfigError: They are the same study, or have other objectives.
        StorageError: The database or a study is not there.
    """
    if one == other:
        raise ConfigError(f"two studies must be named to be compared, but got {one!r} twice.")
    studies = open_studies([one, other], storage)
    search = agreed(studies)
    fronts = [Candidates([study.source], search).front().narrow for study in studies]
    return Difference(
        names=(one, other),
        metric=search.score_metric,
        cost=studies[0].cost,
        reference_point={objective: search.reference_point[objective] for objective in search.objectives},
        hypervolumes=_hypervolumes((one, other), fronts, search),
        n_members={study.name: len(front) for study, front in zip(studies, fronts, strict=True)},
        n_beaten={one: n_beaten(fronts[0], fronts[1], search), other: n_beaten(fronts[1], fronts[0], search)},
        leads=tuple(_leads(studies, fronts, search.score_metric)),
        settings=_settings(studies[0], studies[1]),
    )


def _hypervolumes(names: tuple[str, str], fronts: list[pd.DataFrame], search: SearchConfig) -> dict[str, float]:
    if not search.has_hypervolume:
        return {}
    goals = search.objectives, search.directions
    tables = dict(zip((*names, "both"), [*fronts, pd.concat(fronts)], strict=True))
    return {
        name: hypervolume_of(table, *goals, reference_point=search.reference_point) for name, table in tables.items()
    }


def _leads(studies: list[Study], fronts: list[pd.DataFrame], metric: Metric) -> list[Lead]:
    names, sizes = [study.name for study in studies], [study.source.n_validation for study in studies]
    return [
        Lead(
            low=each.low,
            high=each.high,
            ahead=None if each.ahead is None else names[each.ahead],
            at=each.at,
            scores=dict(zip(names, each.scores, strict=True)),
            within_noise=_within_noise(each, sizes),
        )
        for each in stretches(*fronts, cost=studies[0].cost, metric=metric)
    ]


def _within_noise(stretch: Stretch, sizes: list[int | None]) -> bool | None:
    (one, other), (n_one, n_other) = stretch.scores, sizes
    if one is None or other is None or n_one is None or n_other is None:
        return None
    return alike_by_share(one, other, n=(n_one, n_other))


def _settings(one: Study, other: Study) -> dict[str, tuple[Any, Any]]:
    """What differs, by dotted keys of the configuration; what can't change stands behind ``identity``."""
    flat = [{**_flat(study.config.to_dict()), **_flat({"identity": study.handle.identity})} for study in (one, other)]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if key not in _OF_PLACE]
    pairs = {key: (flat[0].get(key, _ABSENT), flat[1].get(key, _ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, Mapping) and each:
            found |= _flat(each, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(each) if isinstance(each, tuple) else each
    return found
