"""Typed, range-checked dataclass fields, and the one reader that fills them from TOML or JSON tables."""

from __future__ import annotations

import dataclasses
import datetime
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import is_own

__all__ = ["check", "described", "interval", "option", "read"]

T = TypeVar("T")
_MISSING: Any = dataclasses.MISSING


def option(
    default: Any = _MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    or_own: bool = False,
    advice: str = "",
    search: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a dataclass field together with what must hold for it.

    Args:
        default: Its default; without one the key must be given. Containers are copied.
        low: Smallest value allowed. above: every value must be larger than this.
        high: Largest value allowed. below: every value must be smaller than this.
        above: Open lower end.
        below: Open upper end.
        choices: The texts allowed.
        or_own: Whether ``package.module:Class`` is allowed beside them.
        advice: What to do about a wrong value, one sentence.
        search: Range that a search space takes when it names no own one: the keys of
            `config.Range`, such as ``{"low": 1e-6, "high": 1e-3, "scale": "log", "points": 7}``.

    Returns:
        A `dataclasses.field`.
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices, "or_own": or_own}
    metadata = {**limits, "advice": advice, "search": search}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def interval(metadata: Mapping[str, Any]) -> str:
    """The range that a field declares, in words.

    Args:
        metadata: Of a field with at least one of ``low``, ``above``, ``high`` and ``below``.
    """
    low, above, high, below = (metadata[key] for key in ("low", "above", "high", "below"))
    if high is None and below is None:
        return f"at least {low}" if above is None else f"greater than {above}"
    left = f"({above}" if above is not None else f"[{low}" if low is not None else "(-inf"
    right = f"{below})" if below is not None else f"{high}]"
    return f"in {left}, {right}"


def _in_range(value: float, metadata: Mapping[str, Any]) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    tests = (
        metadata["low"] is None or value >= metadata["low"],
        metadata["above"] is None or value > metadata["above"],
        metadata["high"] is None or value <= metadata["high"],
        metadata["below"] is None or value < metadata["below"],
    )
    return all(tests)


def check(instance: Any) -> None:
    """Hold every field of a dataclass instance against the limits declared with `option`.

    Raises:
        ConfigError: A value is outside its range or not among its choices.
    """
    for field in dataclasses.fields(instance):
        metadata, value = field.metadata, getattr(instance, field.name)
        if "choices" not in metadata or value is None:
            continue
        advice = f" {metadata['advice']}" if metadata["advice"] else ""
        is_free = metadata["or_own"] and isinstance(value, str) and is_own(value)
        if metadata["choices"] and isinstance(value, str) and value not in metadata["choices"] and not is_free:
            raise ConfigError(f"`{field.name}`: {unknown_name('choice', value, metadata['choices'])}{advice}")
        bounded = any(metadata[key] is not None for key in ("low", "high", "above", "below"))
        if bounded and isinstance(value, int | float) and not _in_range(value, metadata):
            raise ConfigError(f"`{field.name}` must be {interval(metadata)}, but got {field.name}={value!r}.{advice}")


_NAMES: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    type(None): "nothing",
    datetime.datetime: "a date",
    datetime.date: "a date",
    datetime.time: "a time",
}
_SHOWN_LETTERS = 60


def described(kind: Any) -> str:
    """What a value of a type is, in words, such as ``"a list, each entry a text"``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(arg) for arg in args if arg is not type(None))
    if origin is tuple:
        return f"a list, each entry {described(args[0])}"
    if origin in (dict, Mapping):
        return "a table" if args[1] is Any else f"a table, each entry {described(args[1])}"
    if dataclasses.is_dataclass(kind):
        return "a table"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


class _WrongTypeError(Exception):
    pass


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        for arg in args:
            try:
                return _convert(arg, value, where)
            except _WrongTypeError:
                continue
        raise _WrongTypeError
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise _WrongTypeError
        return read(kind, value, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _WrongTypeError
        return tuple(_convert(args[0], entry, where) for entry in value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _WrongTypeError
        return {str(key): _convert(args[1], entry, f"{where[:-1]}.{key}]") for key, entry in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _WrongTypeError from None
    if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise _WrongTypeError


def read(kind: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """Fill a dataclass from a table of TOML or JSON, checking each key once.

    Args:
        kind: A dataclass whose fields were declared with `option` or plain annotations; fields
            may be dataclasses themselves, and are then read from a sub-table.
        table: What the file holds.
        where: File and table for the message, such as ``"study.toml: [train.dense]"``.

    Returns:
        An instance of ``kind``.

    Raises:
        ConfigError: An unknown key, a missing one, one of another type, or out of range; the
            message names file, key, what must hold and what was found.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}: {unknown_name('key', key, fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in table:
            if field.default is _MISSING and field.default_factory is _MISSING:
                raise ConfigError(
                    f"{where}: the key `{name}` must be given ({described(hints[name])}), but is missing."
                )
            continue
        inner = f"{where[:-1]}.{name}]" if where.endswith("]") else f"{where} [{name}]"
        try:
            values[name] = _convert(hints[name], table[name], inner)
        except _WrongTypeError:
            found = table[name]
            shown = repr(found) if len(repr(found)) <= _SHOWN_LETTERS else f"{repr(found)[:_SHOWN_LETTERS]}..."
            got = f"{shown} ({described(type(found))})"
            raise ConfigError(f"{where}: `{name}` must be {described(hints[name])}, but got {got}.") from None
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
