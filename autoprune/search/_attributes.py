"""What a trial may carry: checked before anything is stored, because Optuna would leave the trial RUNNING."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["RESERVED_ATTRS", "cut", "plain", "wrong_attrs", "wrong_numbers", "wrong_values"]

RESERVED_ATTRS = frozenset({"key", "revision", "owner", "claimed_at", "attempt", "retry_of", "seed_number", "reason"})
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
    taken = sorted(RESERVED_ATTRS & set(attrs))
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
