"""A method by the name that search spaces know it by: a recipe, and for some the part that it is made with."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from autoprune.config import Range, read
from autoprune.engine.contracts import Importance, Method, Penalty
from autoprune.errors import ConfigError, unknown_name
from autoprune.methods._ranking import Ranking
from autoprune.methods._slimming import Slimming

__all__ = ["NamedMethod", "named_method", "of_class", "of_importance", "of_penalty"]


@dataclass(frozen=True)
class NamedMethod:
    """How a name and flat hyper-parameters become a method.

    Args:
        name: What studies and their databases call it.
        recipe: The method's class, a frozen dataclass.
        part: The class of the penalty or importance that it is made with, a frozen dataclass too, or None.
        summary: One sentence for people.
        defaults: Of the recipe's hyper-parameters, where they differ for this part.
    """

    name: str
    recipe: type[Method]
    part: type[Any] | None = None
    summary: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether there is a sparsify phase at all."""
        return self.recipe.trains

    @property
    def shares_batches(self) -> bool:
        """Whether several processes may train its sparsify phase."""
        return self.recipe.shares_batches

    @property
    def least_steps(self) -> int | None:
        """See `Method.least_steps`; of a part where there is one."""
        kind: Any = self.part or self.recipe
        found: int | None = kind.least_steps
        return found

    @property
    def classes(self) -> tuple[type[Any], ...]:
        """What it is made of, the part first."""
        return (self.recipe,) if self.part is None else (self.part, self.recipe)

    @property
    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """Its hyper-parameters by name: the recipe's, then its part's."""
        own = {each.name: each for each in _fields(self.recipe) if each.name not in self._slot}
        return own | {each.name: each for each in (_fields(self.part) if self.part else ())}

    @property
    def catalogue(self) -> dict[str, Range | None]:
        """The range of each hyper-parameter that is searched unasked; None for one that then stays at its default."""
        found = {}
        for name, each in self.fields.items():
            search = each.metadata["search"]
            found[name] = None if search is None else read(Range, search, where=f"{self.name}.{name}")
        if found.get("strength") is not None and "reach" in found:
            found["reach"] = None  # It would go before the strength.
        return found

    def build(self, hyper: Mapping[str, Any]) -> Method:
        """Make the method.

        Ranges hold floats, so a whole one does for a field that takes whole numbers.

        Raises:
            ConfigError: An unknown hyper-parameter, or one out of range.
        """
        where, fields = f"[method.{self.name}]", self.fields
        for key in hyper:
            if key not in fields:
                raise ConfigError(f"{where}: {unknown_name('key', key, fields)}")
        if self.part is None:
            return read(self.recipe, _whole(self.recipe, hyper), where=where)
        parts = {each.name for each in _fields(self.part)}
        own = {key: value for key, value in hyper.items() if key not in parts}
        part = read(self.part, _whole(self.part, {k: v for k, v in hyper.items() if k in parts}), where=where)
        made = {**self.defaults, **_whole(self.recipe, own), **dict.fromkeys(self._slot, part)}
        return read(self.recipe, made, where=where)

    def hyper_of(self, method: Method) -> dict[str, Any]:
        """The hyper-parameters of what `build` made, flat again."""
        part = getattr(method, self.recipe.part) if self.part else method
        parts = {each.name for each in _fields(self.part)} if self.part else set()
        return {name: getattr(part if name in parts else method, name) for name in self.fields}

    @property
    def _slot(self) -> tuple[str, ...]:
        """The recipe's field that holds the part."""
        return () if self.part is None else (self.recipe.part,)


def of_class(recipe: type[Method], name: str) -> NamedMethod:
    """A method that is made of one class."""
    return NamedMethod(name, recipe, summary=_first_line(recipe))


def of_penalty(kind: type[Penalty], name: str) -> NamedMethod:
    """Network slimming with a penalty."""
    return NamedMethod(name, Slimming, kind, f"Network slimming with {_first_line(kind)}")


def of_importance(kind: type[Importance], name: str) -> NamedMethod:
    """The dense network, ranked by an importance."""
    summary = f"{_first_line(kind).rstrip('.')}; ranks the dense network as it is."
    return NamedMethod(name, Ranking, kind, summary, {"normalisation": "none" if kind.is_comparable else "mean"})


_MADE_OF: tuple[tuple[type[Any], Callable[[type[Any], str], NamedMethod]], ...] = (
    (Penalty, of_penalty),
    (Importance, of_importance),
    (Method, of_class),
)


def named_method(kind: type[Any], name: str) -> NamedMethod:
    """The method that somebody's own class is, or that it is the penalty or importance of.

    Raises:
        ConfigError: It is no class of these contracts, or not one of hyper-parameters with defaults.
    """
    where = f"`methods`: {name!r}"
    make = next((make for base, make in _MADE_OF if isinstance(kind, type) and issubclass(kind, base)), None)
    if make is None or inspect.isabstract(kind):
        raise ConfigError(f"{where} must be a class of a method, penalty or importance, with all that these ask for.")
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"{where} must be a frozen dataclass, whose fields are its hyper-parameters, but is none.")
    made = make(kind, name)
    odd = [key for key, each in made.fields.items() if "search" not in each.metadata]
    if odd:
        raise ConfigError(f"{where}: the field {odd[0]!r} must be declared with autoprune.config.option(...).")
    return made


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").splitlines()[0] if kind.__doc__ else kind.__name__


def _fields(kind: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _whole(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = typing.get_type_hints(kind)
    whole = {k: int(v) for k, v in values.items() if kinds.get(k) is int and isinstance(v, float) and v.is_integer()}
    return {**values, **cast(dict[str, Any], whole)}
