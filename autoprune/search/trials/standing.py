"""What can be told of a study's trials without reading them: the database looks them up and counts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.storage import StudyHandle, schema
from autoprune.search.trials.attributes import Attr

__all__ = ["Work", "failures", "last_end", "retries", "work_of"]

_TRIALS, _ATTRIBUTES = schema.optuna_trials, schema.optuna_trial_attributes
_WITH_RESULT = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Work:
    """What some drivers have done in a study.

    Args:
        n_finished: Their trials that are COMPLETE or PRUNED.
        since: When they claimed the first of their trials, in the database's seconds; None: they have claimed none.
    """

    n_finished: int
    since: float | None


def failures(study: StudyHandle) -> list[tuple[int, str | None]]:
    """Number and reason of every failed trial, by number; None where no reason was stored."""
    reason = _ATTRIBUTES.alias("reason")
    query = (
        sa.select(_TRIALS.c.number, reason.c.value_json)
        .select_from(_TRIALS)
        .outerjoin(reason, sa.and_(reason.c.trial_id == _TRIALS.c.trial_id, reason.c.key == Attr.REASON))
        .where(_TRIALS.c.study_id == study.study_id, _TRIALS.c.state == TrialState.FAIL)
        .order_by(_TRIALS.c.number)
    )
    with study.db.reading() as connection:
        rows = connection.execute(query).all()
    return [(number, None if text is None else json.loads(text)) for number, text in rows]


def retries(study: StudyHandle) -> dict[int, list[int]]:
    """By trial that was given another try, the numbers of the trials that try it again."""
    query = (
        sa.select(_TRIALS.c.number, _ATTRIBUTES.c.value_json)
        .join(_ATTRIBUTES, _ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id)
        .where(_TRIALS.c.study_id == study.study_id, _ATTRIBUTES.c.key == Attr.RETRY_OF)
        .order_by(_TRIALS.c.number)
    )
    found: defaultdict[int, list[int]] = defaultdict(list)
    with study.db.reading() as connection:
        for number, text in connection.execute(query):
            found[int(json.loads(text))].append(number)
    return dict(found)


def work_of(study: StudyHandle, owners: Collection[str]) -> Work:
    """What these drivers have done in a study."""
    owner, claimed = _ATTRIBUTES.alias("owner"), _ATTRIBUTES.alias("claimed")
    is_finished = sa.case((_TRIALS.c.state.in_(_WITH_RESULT), 1), else_=0)
    query = (
        sa.select(sa.func.sum(is_finished), sa.func.min(sa.cast(claimed.c.value_json, sa.Double)))
        .select_from(_TRIALS)
        .join(owner, sa.and_(owner.c.trial_id == _TRIALS.c.trial_id, owner.c.key == Attr.OWNER))
        .join(claimed, sa.and_(claimed.c.trial_id == _TRIALS.c.trial_id, claimed.c.key == Attr.CLAIMED_AT))
        .where(_TRIALS.c.study_id == study.study_id, owner.c.value_json.in_([json.dumps(each) for each in owners]))
    )
    with study.db.reading() as connection:
        n_finished, since = connection.execute(query).one()
    return Work(int(n_finished or 0), None if since is None else float(since))


def last_end(study: StudyHandle) -> datetime | None:
    """When a trial got its result last, by the clock of the machine that wrote it; None: none has."""
    query = sa.select(sa.func.max(_TRIALS.c.datetime_complete)).where(
        _TRIALS.c.study_id == study.study_id, _TRIALS.c.state.in_(_WITH_RESULT)
    )
    with study.db.reading() as connection:
        found: datetime | None = connection.execute(query).scalar_one()
    return None if found is None else found.replace(tzinfo=UTC)  # Optuna stores UTC without saying so.
