"""What a trial carries, by which names; checked before anything is stored, since Optuna would leave it RUNNING."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["RESERVED", "Attr", "cut", "plain", "wrong_attrs", "wrong_numbers", "wrong_values"]


class Attr:
    """Names of the user attributes of a trial: a part of the stored format."""

    # What is booked with the claim; nobody else may write it.
    KEY = "key"
    REVISION = "revision"
    OWNER = "owner"
    CLAIMED_AT = "claimed_at"
    ATTEMPT = "attempt"
    RETRY_OF = "retry_of"
    SEED_NUMBER = "seed_number"
    REASON = "reason"
    PROGRESS = "progress"  # of a running trial, as of the last beat; gone when it has ended

    # What comes with the proposal.
    POINT = "point"
    HYPER = "hyper"
    PHASE = "phase"  # key of the shared phase that the trial starts from
    WHY = "why"  # it was proposed, for people
    PARENT = "parent"  # number of the trial whose network it starts from; the following come with it
    PARENT_SHA256 = "parent_sha256"
    DEPTH = "depth"  # trials before it in its lineage

    # What the trial finds, beyond the fields of its result.
    RUNGS = "rungs"
    IMAGES = "images"  # that its own fine-tune phase has seen
    STARTED_FROM = "started_from"  # number of the trial whose network was there to start from
    WALL_S = "wall_s"
    WEIGHTS = "weights"
    SHA256 = "sha256"
    RESULT_KEY = "result_key"
    TAKEN_OVER_FROM = "taken_over_from"
    STOP_REASON = "stop_reason"
    PARTIAL = "partial_"  # and the name of an objective


RESERVED = frozenset(
    {
        Attr.KEY,
        Attr.REVISION,
        Attr.OWNER,
        Attr.CLAIMED_AT,
        Attr.ATTEMPT,
        Attr.RETRY_OF,
        Attr.SEED_NUMBER,
        Attr.REASON,
        Attr.PROGRESS,
    }
)
_REASON_LENGTH = 10_000


def plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """``attrs`` as they are stored: plain Python numbers for numpy's, lists for tuples, null for what is not finite."""
    # JSON proper has no NaN; Python writes one all the same, on which other readers of the database choke.
    plain = json.loads(json.dumps(dict(attrs), default=_to_python), parse_constant=lambda _: None)
    assert isinstance(plain, dict)
    return plain


def _to_python(value: Any) -> Any:
    convert = getattr(value, "tolist", None)
    if convert is None:
        raise TypeError(f"a {type(value).__name__} is not JSON")
    return convert()


def wrong_attrs(attrs: Mapping[str, Any]) -> str:
    """What keeps these attributes from being stored; empty if nothing does."""
    taken = sorted(RESERVED & set(attrs))
    if taken:
        return f"the attribute name {taken[0]!r} is reserved by autoprune"
    for name, value in attrs.items():
        try:
            json.dumps(value, default=_to_python)
        except (TypeError, ValueError) as error:
            return f"the attribute {name!r} can't be stored: {error}"
    return ""


def wrong_values(values: Sequence[float | None] | None, objectives: Sequence[str]) -> str:
    """What keeps these values from being a result; empty if nothing does."""
    if values is None or len(values) != len(objectives):
        n = 0 if values is None else len(values)
        return f"a result must give one value for each of {', '.join(objectives)}, but it gave {n}"
    return wrong_numbers(dict(zip(objectives, values, strict=True)))


def wrong_numbers(values: Mapping[str, float | None]) -> str:
    """Which of these values is not a finite number; empty if all are."""
    for name, value in values.items():
        try:
            finite = value is not None and math.isfinite(value)
        except (TypeError, ValueError):
            finite = False
        if not finite:
            return f"`{name}` must be a finite number, but the trial gave {value!r}"
    return ""


def cut(reason: str) -> str:
    """A reason as it is stored."""
    # PostgreSQL stores no NUL, and a reason is for reading.
    reason = reason.replace("\0", "")
    return reason if len(reason) <= _REASON_LENGTH else reason[:_REASON_LENGTH] + " ..."
