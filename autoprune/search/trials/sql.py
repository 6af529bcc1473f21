"""The SQL behind lifecycle: single statements over leases and trials, each inside a transaction of the caller.

Statements are built once: to build one costs a driver more than the database takes to answer it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.storage import Position, among, ids_text, in_memory, schema
from autoprune.search.trials.attributes import Attr

__all__ = [
    "Entry",
    "StaleTrial",
    "attribute",
    "beat",
    "count_retried",
    "create",
    "drop",
    "end",
    "holder",
    "leftovers",
    "news",
    "stale",
    "start",
    "tell_progress",
    "write",
    "write_attributes",
]

_LEASES, _TRIALS, _ATTRIBUTES = schema.leases, schema.optuna_trials, schema.optuna_trial_attributes
_PARAMS, _VALUES = schema.optuna_trial_params, schema.optuna_trial_values
_STUDY: sa.BindParameter[int] = sa.bindparam("study_id")
_TRIAL: sa.BindParameter[int] = sa.bindparam("trial_id")
# An UPDATE takes the names of columns for the values that it sets, hence `at_trial`.
_AT_TRIAL: sa.BindParameter[int] = sa.bindparam("at_trial")
_OF_STUDY = _TRIALS.c.study_id == _STUDY
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class StaleTrial:
    """A RUNNING trial that nobody stands for; ``owner`` is None when it has no lease, as earlier versions left some."""

    trial_id: int
    owner: str | None


class Entry(NamedTuple):
    """A trial as far as claims ask for it; see `Register`. What it is known by is JSON, as it is stored."""

    trial_id: int
    number: int
    state: TrialState
    ended_at: datetime | None
    key: str | None
    retry_of: str | None
    result_key: str | None


_KEY, _RETRY, _RESULT = (_ATTRIBUTES.alias(name) for name in ("of_key", "of_retry", "of_result"))
_NEWS = (
    sa.select(
        _TRIALS.c.trial_id,
        _TRIALS.c.number,
        _TRIALS.c.state,
        _TRIALS.c.datetime_complete,
        _KEY.c.value_json,
        _RETRY.c.value_json,
        _RESULT.c.value_json,
    )
    .select_from(_TRIALS)
    .outerjoin(_KEY, sa.and_(_KEY.c.trial_id == _TRIALS.c.trial_id, _KEY.c.key == Attr.KEY))
    .outerjoin(_RETRY, sa.and_(_RETRY.c.trial_id == _TRIALS.c.trial_id, _RETRY.c.key == Attr.RETRY_OF))
    .outerjoin(_RESULT, sa.and_(_RESULT.c.trial_id == _TRIALS.c.trial_id, _RESULT.c.key == Attr.RESULT_KEY))
    .where(Position.CHANGED)
    .order_by(in_memory(_TRIALS.c.trial_id))
)


def news(connection: sa.Connection, position: Position) -> list[Entry]:
    """The trials that are new, or in another state than they were."""
    return [Entry(*row) for row in connection.execute(_NEWS, position.asked)]


_CLAIMED = _ATTRIBUTES.alias("claimed")
_STALE = (
    sa.select(_TRIALS.c.trial_id, _LEASES.c.owner, _CLAIMED.c.value_json)
    .select_from(_TRIALS)
    .outerjoin(_LEASES, _LEASES.c.trial_id == _TRIALS.c.trial_id)
    .outerjoin(_CLAIMED, sa.and_(_CLAIMED.c.trial_id == _TRIALS.c.trial_id, _CLAIMED.c.key == Attr.CLAIMED_AT))
    .where(among(_TRIALS.c.trial_id, "running"), _TRIALS.c.state == TrialState.RUNNING)
    .where(sa.or_(_LEASES.c.trial_id.is_(None), _LEASES.c.expires_at <= sa.bindparam("now")))
    .order_by(_TRIALS.c.trial_id)
)


def stale(connection: sa.Connection, running: Collection[int], *, now: float, grace_s: float) -> list[StaleTrial]:
    """Those of the RUNNING trials whose lease has expired, or that have had none for ``grace_s`` since the claim."""
    found = []
    for trial_id, owner, claimed_at in connection.execute(_STALE, {"running": ids_text(running), "now": now}):
        # A trial without `claimed_at` was not claimed by us, so nobody will ever tell its result to us.
        if owner is not None or claimed_at is None or json.loads(claimed_at) + grace_s <= now:
            found.append(StaleTrial(trial_id=trial_id, owner=owner))
    return found


_COUNT_RETRIED = sa.select(sa.func.count()).where(
    _ATTRIBUTES.c.key == Attr.RETRY_OF, _ATTRIBUTES.c.trial_id.in_(sa.select(_TRIALS.c.trial_id).where(_OF_STUDY))
)


def count_retried(connection: sa.Connection, study_id: int) -> int:
    """Number of failed trials of the study that were given another try."""
    found: int = connection.execute(_COUNT_RETRIED, {"study_id": study_id}).scalar_one()
    return found


# Optuna's own trials, should anybody make some, take this row before they count.
_TAKE_STUDY = (
    sa.select(schema.optuna_studies.c.study_id).where(schema.optuna_studies.c.study_id == _STUDY).with_for_update()
)
_CREATE = (
    sa.insert(_TRIALS)
    .values(
        study_id=_STUDY,
        number=sa.select(sa.func.count()).where(_OF_STUDY).scalar_subquery(),
        state=sa.bindparam("state", type_=_TRIALS.c.state.type),
        datetime_start=sa.bindparam("datetime_start", type_=sa.DateTime()),
    )
    .returning(_TRIALS.c.trial_id, _TRIALS.c.number)
)
_ADD_PARAMS = sa.insert(_PARAMS)


def create(
    connection: sa.Connection, study_id: int, template: FrozenTrial, *, fitting: set[tuple[str, str]]
) -> tuple[int, int]:
    """Write a trial with all that belongs to it, as Optuna does; only under the study's lock.

    Args:
        connection: To write through.
        study_id: Optuna's id of the study.
        template: State, parameters and attributes.
        fitting: Names and distributions of parameters that are known to fit what the study has recorded; more of them
            are known afterwards.

    Returns:
        Its id and its number.

    Raises:
        ValueError: A parameter's distribution contradicts the one under which the study has it.
    """
    texts = {name: distribution_to_json(distribution) for name, distribution in template.distributions.items()}
    _check_distributions(connection, study_id, template.distributions, texts=texts, fitting=fitting)
    if connection.dialect.name != "sqlite":  # There the transaction has the whole database.
        connection.execute(_TAKE_STUDY, {"study_id": study_id})
    started_at = _utc_now() if template.state is TrialState.RUNNING else None
    row = {"study_id": study_id, "state": template.state, "datetime_start": started_at}
    trial_id, number = connection.execute(_CREATE, row).one()
    params = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(template.params[name]),
            "distribution_json": texts[name],
        }
        for name, distribution in template.distributions.items()
    ]
    if params:
        connection.execute(_ADD_PARAMS, params)
    write_attributes(connection, trial_id, user=template.user_attrs, system=template.system_attrs, is_new=True)
    return trial_id, number


_RECORDED = (
    sa.select(_PARAMS.c.distribution_json)
    .join(_TRIALS, _TRIALS.c.trial_id == _PARAMS.c.trial_id)
    .where(_OF_STUDY, _PARAMS.c.param_name == sa.bindparam("name"))
    .limit(1)
)


def _check_distributions(
    connection: sa.Connection,
    study_id: int,
    distributions: Mapping[str, BaseDistribution],
    *,
    texts: Mapping[str, str],
    fitting: set[tuple[str, str]],
) -> None:
    for name, text in texts.items():
        if (name, text) in fitting:
            continue
        recorded = connection.execute(_RECORDED, {"study_id": study_id, "name": name}).scalar_one_or_none()
        if recorded is not None and recorded != text:
            check_distribution_compatibility(json_to_distribution(recorded), distributions[name])
        if recorded is not None:  # And so are all that are recorded later, since they fit this one.
            fitting.add((name, text))


_START = (
    sa.update(_TRIALS)
    .where(_TRIALS.c.trial_id == _AT_TRIAL)
    .values(state=TrialState.RUNNING, datetime_start=sa.bindparam("now"))
)


def start(connection: sa.Connection, trial_id: int, booked: Mapping[str, Any]) -> None:
    """Make a WAITING trial RUNNING; ``booked`` are attributes of whoever takes it."""
    write_attributes(connection, trial_id, user=booked)
    connection.execute(_START, {"at_trial": trial_id, "now": _utc_now()})


_ADD_VALUES = sa.insert(_VALUES)
_END = (
    sa.update(_TRIALS)
    .where(_TRIALS.c.trial_id == _AT_TRIAL)
    .values(state=sa.bindparam("now_is", type_=_TRIALS.c.state.type), datetime_complete=sa.bindparam("now"))
)


def end(connection: sa.Connection, trial_id: int, state: TrialState, *, values: Sequence[float] = ()) -> None:
    """Make a trial COMPLETE, PRUNED or FAIL, with its finite values, and delete its lease."""
    rows = [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": "FINITE"} for i, value in enumerate(values)
    ]
    if rows:
        connection.execute(_ADD_VALUES, rows)
    connection.execute(_END, {"at_trial": trial_id, "now_is": state, "now": _utc_now()})
    drop(connection, trial_id)


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


_ADD_LEASE = sa.insert(_LEASES)


def write(connection: sa.Connection, trial_id: int, *, study_id: int, owner: str, expires_at: float) -> None:
    """Give the lease of a trial to ``owner``, whoever had it; only under the study's lock."""
    drop(connection, trial_id)
    row = {"trial_id": trial_id, "study_id": study_id, "owner": owner, "expires_at": expires_at}
    connection.execute(_ADD_LEASE, row)


_BEAT = (
    sa.update(_LEASES)
    .where(_LEASES.c.owner == sa.bindparam("whose"), among(_LEASES.c.trial_id, "trial_ids"))
    .values(expires_at=sa.bindparam("until"))
    .returning(_LEASES.c.trial_id)
)


def beat(connection: sa.Connection, trial_ids: Collection[int], *, owner: str, expires_at: float) -> set[int]:
    """Extend the leases of all these trials that are still those of ``owner``; returns which they are."""
    if not trial_ids:
        return set()
    asked = {"whose": owner, "trial_ids": ids_text(sorted(trial_ids)), "until": expires_at}
    return set(connection.execute(_BEAT, asked).scalars())


_TELL = (
    sa.update(_ATTRIBUTES)
    .where(_ATTRIBUTES.c.trial_id == _AT_TRIAL, _ATTRIBUTES.c.key == Attr.PROGRESS)
    .values(value_json=sa.bindparam("text"))
)
_TELL_FIRST = sa.insert(_ATTRIBUTES)


def tell_progress(connection: sa.Connection, trial_id: int, progress: Mapping[str, Any]) -> None:
    """Write how far a trial is; in the transaction that has found its lease to be ours."""
    text = json.dumps(progress)
    if not connection.execute(_TELL, {"at_trial": trial_id, "text": text}).rowcount:
        connection.execute(_TELL_FIRST, {"trial_id": trial_id, "key": Attr.PROGRESS, "value_json": text})


_AMONG: sa.BindParameter[list[str]] = sa.bindparam("names", expanding=True)
_WRITE = tuple(
    (sa.delete(table).where(table.c.trial_id == _TRIAL, table.c.key.in_(_AMONG)), sa.insert(table))
    for table in (_ATTRIBUTES, schema.optuna_trial_system_attributes)
)


def write_attributes(
    connection: sa.Connection,
    trial_id: int,
    *,
    user: Mapping[str, Any],
    system: Mapping[str, Any] = _NOTHING,
    is_new: bool = False,
) -> None:
    """Write attributes of a trial, all at once: Optuna takes a transaction for each, and a disk a flush.

    Like `tell_progress`, in the transaction that has found its lease to be ours.

    Args:
        connection: Of that transaction.
        trial_id: The trial.
        user: Its user attributes by name, JSON.
        system: Its system attributes by name, JSON.
        is_new: Whether the trial is known to have none of them yet.
    """
    for (delete, insert), attrs in zip(_WRITE, (user, system), strict=True):
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        if rows and not is_new:
            connection.execute(delete, {"trial_id": trial_id, "names": sorted(attrs)})
        if rows:
            connection.execute(insert, rows)


_DROP = sa.delete(_LEASES).where(_LEASES.c.trial_id == _TRIAL)
_DROP_PROGRESS = sa.delete(_ATTRIBUTES).where(_ATTRIBUTES.c.trial_id == _TRIAL, _ATTRIBUTES.c.key == Attr.PROGRESS)


def drop(connection: sa.Connection, trial_id: int) -> None:
    """Delete the lease of a trial, if there is one, and how far it is."""
    connection.execute(_DROP, {"trial_id": trial_id})
    connection.execute(_DROP_PROGRESS, {"trial_id": trial_id})


_HOLDER = (
    sa.select(_TRIALS.c.state, _LEASES.c.owner)
    .select_from(_TRIALS)
    .outerjoin(_LEASES, _LEASES.c.trial_id == _TRIALS.c.trial_id)
    .where(_TRIALS.c.trial_id == _TRIAL)
)


def holder(connection: sa.Connection, trial_id: int) -> tuple[TrialState | None, str | None]:
    """State of a trial and owner of its lease; None where there is none."""
    row = connection.execute(_HOLDER, {"trial_id": trial_id}).one_or_none()
    return (None, None) if row is None else (row.state, row.owner)


_ATTRIBUTE = sa.select(_ATTRIBUTES.c.value_json).where(
    _ATTRIBUTES.c.trial_id == _TRIAL, _ATTRIBUTES.c.key == sa.bindparam("name")
)


def attribute(connection: sa.Connection, trial_id: int, key: str) -> Any:
    """A user attribute of a trial; None where there is none."""
    return _loaded(connection.execute(_ATTRIBUTE, {"trial_id": trial_id, "name": key}).scalar_one_or_none())


_LEFTOVERS = (
    sa.select(_LEASES.c.trial_id)
    .join(_TRIALS, _LEASES.c.trial_id == _TRIALS.c.trial_id)
    .where(_LEASES.c.study_id == _STUDY, _TRIALS.c.state.in_(_FINISHED))
)


def leftovers(connection: sa.Connection, study_id: int) -> list[int]:
    """Trials that have ended, but not their lease, as drivers of earlier versions left some when they died."""
    return list(connection.execute(_LEFTOVERS, {"study_id": study_id}).scalars())


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
