"""Small random harm to valid inputs: to bytes, to texts, to tables, and to the files that are made of them."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

__all__ = ["ODD_TEXTS", "harmed_bytes", "harmed_table", "harmed_text", "keys_in", "odd_value", "to_toml"]

ODD_TEXTS = (
    "", " ", "*", "a" * 5000, "é☃𝄞", "\x00", "\x1b[31m", "a\nb", "..", "../../..", "/dev/null", "/dev/zero", "~nobody",
    "-1", "nan", "1e999", "{}", "[", "%s", "{0}", "'", '"', "\\", "last:5", "random:2", "pickle:/dev/null#0",
    "os:nothing",
    "no_such_module:f", "module:", ":", "torchvision/", "latency_ms", "true",
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (
    True, False, 0, -1, 1, 2, 3, 255, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e-300, 1e300,
    math.inf, -math.inf, math.nan, [], {}, [[]], [{}], {"": 0}, {"low": 0.2, "high": 0.1},
    {"low": 0.1, "high": 0.9, "step": 0}, {"values": []},
    ["a", 1], [1, 1], [None], None,
)  # fmt: skip
_ODD_BYTES = (b"\x00", b"\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"{", b"[" * 50, b'"', b"\n", b"\xef\xbb\xbf")
_DEEPEST = 20_000


def odd_value(rng: Random) -> Any:
    """A value that hardly any key expects."""
    return rng.choice(ODD_TEXTS) if rng.random() < 0.4 else copy.deepcopy(rng.choice(_ODD_VALUES))


def harmed_bytes(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, put in, left out, repeated or cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(found) + 1)
        # Headers are where a format says what comes, so that half of the harm is done there.
        if rng.random() < 0.5:
            start = min(start, rng.randrange(1, 128))
        end = min(len(found), start + rng.choice((1, 1, 2, 4, 16, 200)))
        match rng.randrange(6):
            case 0:
                found[start:end] = rng.randbytes(end - start)
            case 1:
                found[start:start] = rng.choice(_ODD_BYTES)
            case 2:
                del found[start:end]
            case 3:
                found[start:start] = found[start:end] * rng.choice((1, 2, 50))
            case 4:
                found[start:end] = rng.choice(_ODD_BYTES)
            case _:
                del found[start:]
    return bytes(found)


def harmed_text(rng: Random, text: str) -> bytes:
    """The same of a text; now and then one that is nested deeper than anybody writes."""
    if rng.random() < 0.03:
        opening, closing = rng.choice((("[", "]"), ("{", "}"), ("(", ")"), ('{"a":', "}"), ("-", ""), ("a.", "b")))
        depth = rng.choice((50, 1_000, _DEEPEST))
        place = rng.randrange(len(text) + 1)
        text = text[:place] + opening * depth + closing * depth + text[place:]
        return text.encode(errors="replace")
    return harmed_bytes(rng, text.encode(errors="replace"))


def _places(table: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value in nested tables and lists."""
    found = [way] if way else []
    pairs = table.items() if isinstance(table, dict) else enumerate(table[:20]) if isinstance(table, list) else ()
    for key, value in pairs:
        found += _places(value, (*way, key))
    return found


def _at(table: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        table = table[key]
    return table


def keys_in(table: Any) -> set[str]:
    """Every key of nested tables."""
    return {key for way in _places(table) for key in way if isinstance(key, str)}


def harmed_table(rng: Random, table: Any, *, keys: tuple[str, ...]) -> Any:
    """A copy in which some values are odd, missing, moved, or under a key that belongs elsewhere.

    Args:
        rng: Where the harm is drawn from.
        table: Nested tables and lists of plain values.
        keys: Names that mean something somewhere.
    """
    found = copy.deepcopy(table)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(found)
        if not places:
            return odd_value(rng)
        *way, last = rng.choice(places)
        holder = _at(found, tuple(way))
        match rng.randrange(6):
            case 0 | 1:
                holder[last] = odd_value(rng)
            case 2:
                del holder[last]
            case 3:
                holder[last] = copy.deepcopy(_at(found, rng.choice(places)))
            case 4 if isinstance(holder, dict):
                holder[rng.choice(keys)] = odd_value(rng)
            case _:
                holder[last] = _beside(rng, holder[last])
    return found


def _beside(rng: Random, value: Any) -> Any:
    """A value of the same type, not far away."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 10, -100, 10**6, -value, -2 * value))
    if isinstance(value, float):
        return value * rng.choice((-1, 0, 1e-9, 1.5, 10, 1e9))
    if isinstance(value, str):
        return harmed_bytes(rng, value.encode()).decode(errors="replace")
    if isinstance(value, list):
        return value * 2 if rng.random() < 0.5 else value[:-1]
    return [value]


def to_toml(tables: dict[str, Any]) -> str:
    """Tables as TOML, each in one line; what TOML has no word for (nothing) becomes a text."""
    return "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in tables.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value))
