"""Named recipes: what is penalised, by what, when, and how channels are ranked afterwards."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from autoprune.engine.contracts import Method
from autoprune.errors import ConfigError, unknown_name
from autoprune.fields import read
from autoprune.importances import IMPORTANCES
from autoprune.methods._aofp import AOFP
from autoprune.methods._bwcp import BWCP
from autoprune.methods._halo import Halo
from autoprune.methods._implicit import Implicit
from autoprune.methods._ranking import Ranking, ranking
from autoprune.methods._resrep import ResRep
from autoprune.methods._slimming import Slimming, slimming
from autoprune.penalties import PENALTIES
from autoprune.spec import Range

__all__ = [
    "AOFP",
    "BWCP",
    "METHODS",
    "Halo",
    "Implicit",
    "Ranking",
    "ResRep",
    "Slimming",
    "build",
    "catalogue",
    "ranges",
]

_ALL: tuple[type[Method], ...] = (
    *(slimming(name, penalty) for name, penalty in PENALTIES.items()),
    Halo,
    Implicit,
    ResRep,
    AOFP,
    BWCP,
    *(ranking(name, importance) for name, importance in IMPORTANCES.items()),
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}
"""By name; a penalty or an importance that is added to its own mapping is a method here."""


def build(name: str, hyper: Mapping[str, Any]) -> Method:
    """Make the method ``name`` with its hyper-parameters.

    Ranges hold floats, so a whole one does for a field that takes whole numbers.

    Raises:
        ConfigError: An unknown method or hyper-parameter, or one out of range.
    """
    if name not in METHODS:
        raise ConfigError(unknown_name("method", name, METHODS))
    kinds = typing.get_type_hints(METHODS[name])
    whole = {key: int(value) for key, value in hyper.items() if kinds.get(key) is int and _is_whole(value)}
    return read(METHODS[name], {**hyper, **whole}, where=f"[method.{name}]")


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def catalogue() -> dict[str, dict[str, Range | None]]:
    """Every hyper-parameter of every method, from the fields' own metadata.

    Each comes with the range that is searched where a space names none; None stands for one that then stays at its
    default.
    """
    return {
        name: {field.name: _range_of(name, field) for field in dataclasses.fields(method)}  # type: ignore[arg-type]
        for name, method in METHODS.items()
    }


def _range_of(method: str, field: dataclasses.Field[Any]) -> Range | None:
    search = field.metadata["search"]
    return None if search is None else read(Range, search, where=f"{method}.{field.name}")


def ranges() -> dict[str, dict[str, Range]]:
    """What of the `catalogue` is searched where a space names nothing."""
    return {
        name: {key: values for key, values in fields.items() if values is not None}
        for name, fields in catalogue().items()
    }
