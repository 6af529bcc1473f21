"""What the JSON record beside a network must say before a network is built by it.

A record comes with its file, from wherever that was copied: what it says fixes sizes and names, so each of them is held
against what it can be.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.config import TASKS
from autoprune.errors import WeightsError

__all__ = ["check_record", "require"]

_MOST_PIXELS = 2**22  # 2048 × 2048; a record must not make us compute on more than networks are trained on.
_MOST_NUMBERS = 2**24  # In all inputs of one example.
_MOST_CHANNELS = 2**20
_DEEPEST = 20
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_TAKE = "Take the record that the trial wrote."


def check_record(record: Mapping[str, Any], *, where: str) -> None:
    """Hold what a record says against what it can be; a key that is missing or null is let through.

    Args:
        record: As it was read.
        where: The file, for the message.

    Raises:
        WeightsError: A value is of another type, or too large.
    """
    for key, (holds, what) in _MUST_BE.items():
        value = record.get(key)
        if value is not None and not holds(value):
            raise WeightsError(f"{where}: `{key}` must be {what}, but is {reprlib.repr(value)}. {_TAKE}")


def require(record: Mapping[str, Any], keys: Sequence[str], *, where: Path) -> None:
    """See to it that a record has these keys.

    Raises:
        WeightsError: It lacks one of them.
    """
    lacking = [key for key in keys if record.get(key) is None]
    if lacking:
        raise WeightsError(f"{where} must hold {', '.join(keys)}, but lacks {', '.join(lacking)}. {_TAKE}")


def _is_size(value: Any, most: int = _MOST_CHANNELS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_image_shape(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 3 and all(map(_is_size, value))):
        return False
    return math.prod(value[1:]) <= _MOST_PIXELS and math.prod(value) <= _MOST_NUMBERS


def _is_normalisation(value: Any) -> bool:
    parts = [value.get(key) for key in ("mean", "std")] if isinstance(value, dict) else [None]
    return all(isinstance(part, list) and all(map(_is_number, part)) for part in parts)


def _is_table_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _are_channels(value: Any) -> bool:
    if not (isinstance(value, list) and value):
        return False
    return all(
        isinstance(index, int) and not isinstance(index, bool) and 0 <= index < _MOST_CHANNELS for index in value
    )


def _is_task(value: Any) -> bool:
    if not (isinstance(value, dict) and value.keys() >= {"kind", "submodule", "has_forward"}):
        return False
    kind, submodule = value["kind"], value["submodule"]
    return isinstance(kind, str) and kind in TASKS and isinstance(submodule, str | None)


def _numbers_in(structure: Any, depth: int = 0) -> float:
    """How many numbers the inputs of an example are; infinitely many where it is no structure of inputs."""
    if not isinstance(structure, dict) or depth > _DEEPEST:
        return math.inf
    if "shape" in structure:
        shape = structure["shape"]
        is_told = isinstance(shape, list) and all(_is_size(size, _MOST_NUMBERS) for size in shape)
        return math.prod(shape) if is_told and structure.get("dtype") in _DTYPES else math.inf
    for kind, holder in (("mapping", dict), ("tuple", list), ("list", list)):
        if kind in structure:
            parts = structure[kind]
            if not isinstance(parts, holder):
                return math.inf
            inside = parts.values() if isinstance(parts, dict) else parts
            return sum(_numbers_in(part, depth + 1) for part in inside)
    return 0 if "value" in structure and not isinstance(structure["value"], list | dict) else math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_MUST_BE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "sha256": (_is_text, "a text"),
    "architecture": (_is_text, "a text"),
    "factory": (_is_text, "a text"),
    "method": (_is_text, "a text"),
    "width_rule": (_is_text, "a text"),
    "memory_format": (_is_text, "a text"),
    "macs_target": (_is_number, "a number"),
    "macs_ratio": (_is_number, "a number"),
    "n_classes": (_is_size, "a whole number from 1 to 2**20"),
    "image_shape": (_is_image_shape, "channels, height and width of an image of at most 2**22 pixels"),
    "normalisation": (_is_normalisation, "a table of `mean` and `std`, lists of numbers"),
    "kept": (_is_table_of(_are_channels), "a table of lists of channels, whole numbers >= 0"),
    "widths": (_is_table_of(_is_size), "a table of whole numbers >= 1"),
    "hyper": (_is_table_of(lambda value: not isinstance(value, list | dict)), "a table of plain values"),
    "task": (_is_task, f"a table of `kind` ({', '.join(TASKS)}), `submodule` and `has_forward`"),
    "example": (lambda value: _numbers_in(value) <= _MOST_NUMBERS, "the structure of inputs of at most 2**24 numbers"),
}
