"""The SQL behind lifecycle: single statements over leases and trials, each inside a transaction of the caller."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.storage import schema
from autoprune.search.trials.attributes import Attr

__all__ = [
    "Ended",
    "StaleTrial",
    "attribute",
    "beat",
    "complete_with",
    "count_first_tries",
    "count_retried",
    "create",
    "drop",
    "end",
    "failed_for_good",
    "holder",
    "is_requeued",
    "key_is_taken",
    "last_success",
    "leftovers",
    "oldest_waiting",
    "stale",
    "start",
    "tell_progress",
    "write",
    "write_attributes",
]

_LEASES, _TRIALS, _ATTRIBUTES = schema.leases, schema.optuna_trials, schema.optuna_trial_attributes
_PARAMS, _VALUES = schema.optuna_trial_params, schema.optuna_trial_values
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class StaleTrial:
    """A RUNNING trial that nobody stands for; ``owner`` is None when it has no lease, as earlier versions left some."""

    trial_id: int
    owner: str | None


@dataclass(frozen=True)
class Ended:
    """A trial that has ended; ``at`` orders trials by when they did."""

    number: int
    at: tuple[datetime, int]
    reason: str | None


def count_first_tries(connection: sa.Connection, study_id: int) -> int:
    """Number of trials of the study that retry no other one."""
    of_study = _TRIALS.c.study_id == study_id
    retries = sa.select(_ATTRIBUTES.c.trial_id).where(_ATTRIBUTES.c.key == Attr.RETRY_OF)
    query = sa.select(sa.func.count()).where(of_study, _TRIALS.c.trial_id.not_in(retries))
    n_trials: int = connection.execute(query).scalar_one()
    return n_trials


def stale(connection: sa.Connection, study_id: int, *, now: float, grace_s: float) -> list[StaleTrial]:
    """RUNNING trials whose lease has expired, or that have had none for ``grace_s`` since they were claimed."""
    claimed = _ATTRIBUTES.alias("claimed")
    query = (
        sa.select(_TRIALS.c.trial_id, _LEASES.c.owner, claimed.c.value_json)
        .select_from(_TRIALS)
        .outerjoin(_LEASES, _LEASES.c.trial_id == _TRIALS.c.trial_id)
        .outerjoin(claimed, sa.and_(claimed.c.trial_id == _TRIALS.c.trial_id, claimed.c.key == Attr.CLAIMED_AT))
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
        .where(sa.or_(_LEASES.c.trial_id.is_(None), _LEASES.c.expires_at <= now))
        .order_by(_TRIALS.c.trial_id)
    )
    found = []
    for trial_id, owner, claimed_at in connection.execute(query):
        # A trial without `claimed_at` was not claimed by us, so nobody will ever tell its result to us.
        if owner is not None or claimed_at is None or json.loads(claimed_at) + grace_s <= now:
            found.append(StaleTrial(trial_id=trial_id, owner=owner))
    return found


def oldest_waiting(connection: sa.Connection, study_id: int) -> int | None:
    """The WAITING trial that has waited longest."""
    query = sa.select(sa.func.min(_TRIALS.c.trial_id)).where(
        _TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.WAITING
    )
    found: int | None = connection.execute(query).scalar_one()
    return found


def key_is_taken(connection: sa.Connection, study_id: int, key: str, *, besides: int | None = None) -> bool:
    """Whether a trial of this study that did not fail, other than ``besides``, has this key."""
    query = _having(study_id, Attr.KEY, key).where(_TRIALS.c.state != TrialState.FAIL)
    if besides is not None:
        query = query.where(_TRIALS.c.trial_id != besides)
    return connection.execute(query.limit(1)).first() is not None


def is_requeued(connection: sa.Connection, study_id: int, number: int) -> bool:
    """Whether the trial with this number has been given another try."""
    return connection.execute(_having(study_id, Attr.RETRY_OF, number).limit(1)).first() is not None


def count_retried(connection: sa.Connection, study_id: int) -> int:
    """Number of failed trials of the study that were given another try."""
    again = sa.select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
    query = sa.select(sa.func.count()).where(_ATTRIBUTES.c.key == Attr.RETRY_OF, _ATTRIBUTES.c.trial_id.in_(again))
    found: int = connection.execute(query).scalar_one()
    return found


def complete_with(connection: sa.Connection, study_id: int, result_key: str) -> int | None:
    """The first COMPLETE trial of this study that has this result."""
    query = _having(study_id, Attr.RESULT_KEY, result_key).where(_TRIALS.c.state == TrialState.COMPLETE)
    found: int | None = connection.execute(query.order_by(_TRIALS.c.trial_id).limit(1)).scalar_one_or_none()
    return found


def failed_for_good(connection: sa.Connection, study_id: int, *, since_trial_id: int) -> list[Ended]:
    """Failed trials that were not given another try, in the order in which they ended."""
    reason, retry = _ATTRIBUTES.alias("reason"), _ATTRIBUTES.alias("retry")
    query = (
        sa.select(retry.c.value_json)
        .join(_TRIALS, retry.c.trial_id == _TRIALS.c.trial_id)
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id > since_trial_id, retry.c.key == Attr.RETRY_OF)
    )
    requeued = {json.loads(number) for number in connection.execute(query).scalars()}
    failed = (
        sa.select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.datetime_complete, reason.c.value_json)
        .select_from(_TRIALS)
        .outerjoin(reason, sa.and_(reason.c.trial_id == _TRIALS.c.trial_id, reason.c.key == Attr.REASON))
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.FAIL, _TRIALS.c.trial_id > since_trial_id)
    )
    rows = [row for row in connection.execute(failed) if row.number not in requeued]
    return sorted((_ended(row, row.value_json) for row in rows), key=lambda trial: trial.at)


def last_success(connection: sa.Connection, study_id: int, *, since_trial_id: int) -> Ended | None:
    """The trial that got its result last."""
    query = (
        sa.select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.datetime_complete)
        .where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id > since_trial_id)
        .where(_TRIALS.c.state.in_([TrialState.COMPLETE, TrialState.PRUNED]))
        .order_by(_TRIALS.c.datetime_complete.desc(), _TRIALS.c.trial_id.desc())
    )
    row = connection.execute(query.limit(1)).first()
    return None if row is None else _ended(row, None)


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
    studies = schema.optuna_studies
    # Optuna's own trials, should anybody make some, take this row before they count.
    connection.execute(sa.select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update())
    earlier = sa.select(sa.func.count()).where(_TRIALS.c.study_id == study_id).scalar_subquery()
    row = {
        "study_id": study_id,
        "number": earlier,
        "state": template.state,
        "datetime_start": _utc_now() if template.state is TrialState.RUNNING else None,
    }
    insert = sa.insert(_TRIALS).values(**row).returning(_TRIALS.c.trial_id, _TRIALS.c.number)
    trial_id, number = connection.execute(insert).one()
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
        connection.execute(sa.insert(_PARAMS), params)
    write_attributes(connection, trial_id, user=template.user_attrs, system=template.system_attrs)
    return trial_id, number


def _check_distributions(
    connection: sa.Connection,
    study_id: int,
    distributions: Mapping[str, BaseDistribution],
    *,
    texts: Mapping[str, str],
    fitting: set[tuple[str, str]],
) -> None:
    of_study = sa.select(_PARAMS.c.distribution_json).join(_TRIALS, _TRIALS.c.trial_id == _PARAMS.c.trial_id)
    for name, text in texts.items():
        if (name, text) in fitting:
            continue
        query = of_study.where(_TRIALS.c.study_id == study_id, _PARAMS.c.param_name == name).limit(1)
        recorded = connection.execute(query).scalar_one_or_none()
        if recorded is not None and recorded != text:
            check_distribution_compatibility(json_to_distribution(recorded), distributions[name])
        if recorded is not None:  # And so are all that are recorded later, since they fit this one.
            fitting.add((name, text))


def start(connection: sa.Connection, trial_id: int, booked: Mapping[str, Any]) -> None:
    """Make a WAITING trial RUNNING; ``booked`` are attributes of whoever takes it."""
    write_attributes(connection, trial_id, user=booked)
    now = {"state": TrialState.RUNNING, "datetime_start": _utc_now()}
    connection.execute(sa.update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(**now))


def end(connection: sa.Connection, trial_id: int, state: TrialState, *, values: Sequence[float] = ()) -> None:
    """Make a trial COMPLETE, PRUNED or FAIL, with its finite values, and delete its lease."""
    rows = [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": "FINITE"} for i, value in enumerate(values)
    ]
    if rows:
        connection.execute(sa.insert(_VALUES), rows)
    now = {"state": state, "datetime_complete": _utc_now()}
    connection.execute(sa.update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(**now))
    drop(connection, trial_id)


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def write(connection: sa.Connection, trial_id: int, *, study_id: int, owner: str, expires_at: float) -> None:
    """Give the lease of a trial to ``owner``, whoever had it; only under the study's lock."""
    drop(connection, trial_id)
    values = {"trial_id": trial_id, "study_id": study_id, "owner": owner, "expires_at": expires_at}
    connection.execute(_LEASES.insert().values(**values))


def beat(connection: sa.Connection, trial_ids: Collection[int], *, owner: str, expires_at: float) -> set[int]:
    """Extend the leases of all these trials that are still those of ``owner``; returns which they are."""
    update = sa.update(_LEASES).where(_LEASES.c.owner == owner, _LEASES.c.trial_id.in_(sorted(trial_ids)))
    rows = connection.execute(update.values(expires_at=expires_at).returning(_LEASES.c.trial_id))
    return set(rows.scalars())


def tell_progress(connection: sa.Connection, trial_id: int, progress: Mapping[str, Any]) -> None:
    """Write how far a trial is; in the transaction that has found its lease to be ours."""
    text = json.dumps(progress)
    if not connection.execute(sa.update(_ATTRIBUTES).where(*_is_progress(trial_id)).values(value_json=text)).rowcount:
        row = {"trial_id": trial_id, "key": Attr.PROGRESS, "value_json": text}
        connection.execute(sa.insert(_ATTRIBUTES).values(**row))


def write_attributes(
    connection: sa.Connection, trial_id: int, *, user: Mapping[str, Any], system: Mapping[str, Any] | None = None
) -> None:
    """Write attributes of a trial, all at once: Optuna takes a transaction for each, and a disk a flush.

    Like `tell_progress`, in the transaction that has found its lease to be ours.

    Args:
        connection: Of that transaction.
        trial_id: The trial.
        user: Its user attributes by name, JSON.
        system: Its system attributes by name, JSON.
    """
    for table, attrs in ((_ATTRIBUTES, user), (schema.optuna_trial_system_attributes, system or {})):
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        if rows:
            known = sa.and_(table.c.trial_id == trial_id, table.c.key.in_(sorted(attrs)))
            connection.execute(sa.delete(table).where(known))
            connection.execute(sa.insert(table), rows)


def _is_progress(trial_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return _ATTRIBUTES.c.trial_id == trial_id, _ATTRIBUTES.c.key == Attr.PROGRESS


def drop(connection: sa.Connection, trial_id: int) -> None:
    """Delete the lease of a trial, if there is one, and how far it is."""
    connection.execute(sa.delete(_LEASES).where(_LEASES.c.trial_id == trial_id))
    connection.execute(sa.delete(_ATTRIBUTES).where(*_is_progress(trial_id)))


def holder(connection: sa.Connection, trial_id: int) -> tuple[TrialState | None, str | None]:
    """State of a trial and owner of its lease; None where there is none."""
    query = (
        sa.select(_TRIALS.c.state, _LEASES.c.owner)
        .select_from(_TRIALS)
        .outerjoin(_LEASES, _LEASES.c.trial_id == _TRIALS.c.trial_id)
        .where(_TRIALS.c.trial_id == trial_id)
    )
    row = connection.execute(query).one_or_none()
    return (None, None) if row is None else (row.state, row.owner)


def attribute(connection: sa.Connection, trial_id: int, key: str) -> Any:
    """A user attribute of a trial; None where there is none."""
    query = sa.select(_ATTRIBUTES.c.value_json).where(_ATTRIBUTES.c.trial_id == trial_id, _ATTRIBUTES.c.key == key)
    text = connection.execute(query).scalar_one_or_none()
    return None if text is None else json.loads(text)


def leftovers(connection: sa.Connection, study_id: int) -> list[int]:
    """Trials that have ended, but not their lease, as drivers of earlier versions left some when they died."""
    query = (
        sa.select(_LEASES.c.trial_id)
        .join(_TRIALS, _LEASES.c.trial_id == _TRIALS.c.trial_id)
        .where(_LEASES.c.study_id == study_id, _TRIALS.c.state.in_(_FINISHED))
    )
    return list(connection.execute(query).scalars())


def _ended(row: Any, reason_json: str | None) -> Ended:
    return Ended(
        number=row.number,
        at=(row.datetime_complete or datetime.min, row.trial_id),
        reason=None if reason_json is None else json.loads(reason_json),
    )


def _having(study_id: int, name: str, value: str | int) -> sa.Select[Any]:
    return (
        sa.select(_TRIALS.c.trial_id)
        .join(_ATTRIBUTES, _ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id)
        .where(_TRIALS.c.study_id == study_id)
        .where(_ATTRIBUTES.c.key == name, _ATTRIBUTES.c.value_json == json.dumps(value))
    )
