"""HTML and SVG as text in which nothing from a database can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

__all__ = ["Child", "Markup", "escaped", "join", "tag"]

_VOID = frozenset({"input", "link", "meta"})
_UNSAFE = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
# No control character is allowed in HTML, and those that reorder text can make it say something else.
_INVISIBLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(55296, 57344), 8206, 8207, *range(8234, 8239), *range(8294, 8298)), "�")  # fmt: skip
_TABLE = str.maketrans({**_UNSAFE, **{chr(code): text for code, text in _INVISIBLE.items()}})


class Markup(str):
    """Text that is markup already; any other is escaped where it enters a page."""

    __slots__ = ()


Child: TypeAlias = Markup | str | float | None | Iterable["Child"]


def escaped(text: object) -> Markup:
    """A text as it stands in a page, also between quotes of an attribute."""
    return text if isinstance(text, Markup) else Markup(str(text).translate(_TABLE))


def join(children: Child) -> Markup:
    """Everything of a nested sequence as one markup; None is nothing."""
    if children is None:
        return Markup()
    if isinstance(children, str | float | int):
        return escaped(children)
    return Markup("".join(join(child) for child in children))


def tag(name: str, /, *children: Child, attrs: Mapping[str, Any] | None = None, **more: Any) -> Markup:
    """One element.

    Args:
        name: Of the element.
        children: Markup stays, other text is escaped, None is left out, sequences are laid flat.
        attrs: Attributes by name.
        more: Attributes whose names are Python names: ``class_`` is ``class``, ``data_t`` is ``data-t``. None and False
            leave one out, True sets it without a value.

    Example:
        >>> tag("p", "a < b", class_="note", hidden=True)
        '<p class="note" hidden>a &lt; b</p>'
    """
    named = {**(attrs or {}), **{key.rstrip("_").replace("_", "-"): value for key, value in more.items()}}
    parts = [name]
    for key, value in named.items():
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{_number(value) if isinstance(value, float) else escaped(value)}"')
    inner = join(children)
    if not inner and name in _VOID:
        return Markup(f"<{' '.join(parts)}>")
    return Markup(f"<{' '.join(parts)}>{inner}</{name}>")


def _number(value: float) -> str:
    """A coordinate: a tenth of a pixel is more than is seen, and pages are made of thousands."""
    return f"{value:.1f}".removesuffix(".0")
