"""Fronts of one study or several: asked for as a whole or for one network, and held against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from autoprune.api._reading import Study, storage_url
from autoprune.config import Metric, SearchConfig
from autoprune.errors import ConfigError
from autoprune.search.front import Candidates, Front
from autoprune.search.storage import Database, StudyHandle

__all__ = ["FrontAnswer", "agreed", "ask_front", "check_same_objectives", "open_studies"]

_REFERENCE = "reference point"  # in a study's identity


@dataclass(frozen=True)
class FrontAnswer:
    """What was asked of the fronts of one study or several.

    Args:
        rows: The trials that were asked for, best first.
        metric: What they are scored by.
        reference_point: By objective; where studies have several, the worst of each objective.
        hypervolume: Of all trials that keep their constraints, whatever else was asked, as a share of the box up to the
            reference point; None with more than three objectives.
        unlike: In what the studies differ that has to be the same for their scores to be comparable, in words.
    """

    rows: pd.DataFrame
    metric: Metric
    reference_point: Mapping[str, float]
    hypervolume: float | None
    unlike: str


def ask_front(
    names: Sequence[str],
    *,
    where: str | Sequence[str] | None = None,
    sort: str | None = None,
    spacing: float | None = None,
    dominated: bool = False,
    best: str | None = None,
    knee: bool = False,
    top: int | None = None,
    storage: str | None = None,
) -> FrontAnswer:
    """The front of one study, or that of several together, or the members of it that are asked for.

    Args:
        names: Studies of the same objectives in one database. Of several, ``study`` is the first column, and each
            trial keeps the constraints of its own study.
        where: See `Study.front`.
        sort: See `Study.front`.
        spacing: See `Study.front`.
        dominated: See `Study.front`.
        best: Only the one member that is best by this column: the largest of a maximised metric, else the least.
        knee: Only the member at the knee of the front (`search.front.choosing.knee`).
        top: Only so many members, which together keep most of the hypervolume (`search.front.choosing.spread`).
        storage: Database URL; see `storage_url`.

    Raises:
        ConfigError: The studies have other objectives, there is no such column, no knee, or a condition can't be
            understood.
        StorageError: The database or a study is not there.
    """
    _check_choice(dominated, best is not None, knee, top is not None)
    studies = open_studies(names, storage)
    search = agreed(studies)
    studies[0].check_spacing(spacing)
    conditions = (where,) if isinstance(where, str) else where or ()
    candidates = Candidates(
        [study.source for study in studies], search, where=conditions, columns={"sort": sort, "best": best}
    )
    front = candidates.front(dominated=dominated)
    if spacing is not None:
        front = front.spaced(spacing)
    front = _chosen(front, best=best, knee=knee, top=top)
    volume = candidates.hypervolume() if search.has_hypervolume else None
    reference = {objective: search.reference_point[objective] for objective in search.objectives}
    return FrontAnswer(front.sorted(sort).filled(), search.score_metric, reference, volume, _unlike(studies))


def _check_choice(*given: bool) -> None:
    if sum(given) > 1:
        raise ConfigError(
            "only one of `dominated`, `best`, `knee` and `top` must be given, but several are. Drop the others."
        )


def _chosen(front: Front, *, best: str | None, knee: bool, top: int | None) -> Front:
    if best is not None:
        return front.best(best)
    if top is not None:
        if top < 1:
            raise ConfigError(f"`top` must be at least 1, but got top={top}.")
        return front.top(top)
    if knee and len(front):
        found = front.knee()
        if not len(found):
            raise ConfigError(
                f"a knee must lie below the chord between the front's ends, but none of its {len(front)} members does. "
                "Choose by --best, --top or --under."
            )
        return found
    return front


def _unlike(studies: Sequence[Study]) -> str:
    """In what a study differs from the first one that makes scores hard to compare, which no reference point does."""
    first = studies[0].handle
    for study in studies[1:]:
        if told := first.differences({**study.handle.identity, _REFERENCE: first.identity.get(_REFERENCE)}):
            return told
    return ""


def open_studies(names: Sequence[str], storage: str | None) -> list[Study]:
    """Studies of one database, each named once, opened for reading."""
    db = Database.open_readonly(storage_url(storage))
    return [Study(db, StudyHandle.open(db, name)) for name in dict.fromkeys(names)]


def agreed(studies: Sequence[Study]) -> SearchConfig:
    """The objectives that all studies have, with the worst of their reference points.

    Raises:
        ConfigError: They differ in objectives or directions.
    """
    check_same_objectives(studies)
    configs = [study.config.study for study in studies]
    worst = {
        objective: (min if direction == "maximize" else max)(config.reference_point[objective] for config in configs)
        for objective, direction in zip(configs[0].objectives, configs[0].directions, strict=True)
    }
    return dataclasses.replace(configs[0], reference_point={**configs[0].reference_point, **worst})


def check_same_objectives(studies: Sequence[Study]) -> None:
    """See to it that studies can be held against each other.

    Raises:
        ConfigError: They differ in objectives or directions.
    """
    searches = [study.config.study for study in studies]
    goals = [dict(zip(search.objectives, search.directions, strict=True)) for search in searches]
    for study, own in zip(studies, goals, strict=True):
        if own != goals[0]:
            raise ConfigError(
                f"studies must have the same objectives to be compared, but {studies[0].name!r} has "
                f"{_told(goals[0])} and {study.name!r} has {_told(own)}. Name studies of the same objectives."
            )


def _told(goals: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({way}d)" for name, way in goals.items())
