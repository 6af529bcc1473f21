"""Makes methods of a recipe and a part: a penalty or an importance that brings its own hyper-parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from autoprune.engine.contracts import Method

__all__ = ["composed", "part_of"]

M = TypeVar("M", bound=Method)


def composed(recipe: type[M], part: type[Any], *, name: str, summary: str, **defaults: Any) -> type[M]:
    """A method that is ``recipe`` with ``part`` in it; its hyper-parameters are those of both.

    Args:
        recipe: A method that takes its part from `part_of`.
        part: A frozen dataclass of hyper-parameters.
        name: Of the method.
        summary: First line of its docstring; the docstrings of part and recipe follow.
        defaults: Of the recipe's hyper-parameters, where they differ for this part.
    """
    own = [(field, field.default) for field in dataclasses.fields(part)]
    own += [(field, defaults[field.name]) for field in _fields_of(recipe) if field.name in defaults]
    fields: list[Any] = [
        (field.name, field.type, dataclasses.field(default=default, metadata=field.metadata)) for field, default in own
    ]
    words = f"{recipe.__name__}_{part.__name__}"
    namespace = {
        "name": name,
        "part": part,
        "__doc__": f"{summary}\n\n{part.__doc__}\n\n{recipe.__doc__}",
        "__module__": recipe.__module__,
    }
    made: type[M] = dataclasses.make_dataclass(words, fields, bases=(recipe,), frozen=True, namespace=namespace)
    return made


def _fields_of(recipe: type[Method]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(recipe)  # type: ignore[arg-type]  # recipes are dataclasses; their contract is not


def part_of(method: Method, part: type[Any]) -> Any:
    """The part with the hyper-parameters that the method holds for it."""
    return part(**{field.name: getattr(method, field.name) for field in dataclasses.fields(part)})
