"""HTML and SVG as text in which nothing from a database can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

__all__ = ["Child", "Markup", "escaped", "join", "tag", "visible"]

_VOID = frozenset({"input", "link", "meta"})
_SHAPES = frozenset({"circle", "path", "rect"})  # which a page of thousands of trials is made of
_UNSAFE = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
# HTML allows no control characters and UTF-8 no lone surrogates; marks of direction make text say something else.
_INVISIBLE = ((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x9F), (0xD800, 0xDFFF), (0x200E, 0x200F),
              (0x202A, 0x202E), (0x2066, 0x2069))  # fmt: skip
_REPLACED = {chr(code): "\N{REPLACEMENT CHARACTER}" for first, last in _INVISIBLE for code in range(first, last + 1)}
_VISIBLE, _TABLE = str.maketrans(_REPLACED), str.maketrans({**_UNSAFE, **_REPLACED})


class Markup(str):
    """Text that is markup already; any other is escaped where it enters a page."""

    __slots__ = ()


Child: TypeAlias = Markup | str | float | Iterable["Child"] | None


def escaped(text: object) -> Markup:
    """A text as it stands in a page, also between quotes of an attribute."""
    return text if isinstance(text, Markup) else Markup(str(text).translate(_TABLE))


def visible(text: str) -> str:
    """A text with a mark in the place of each character that can't be seen; still to be escaped."""
    return text.translate(_VISIBLE)


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
    if not inner and name in _SHAPES:
        return Markup(f"<{' '.join(parts)}/>")
    return Markup(f"<{' '.join(parts)}>{inner}</{name}>")


def _number(value: float) -> str:
    """A coordinate: a tenth of a pixel is more than is seen, and pages are made of thousands."""
    return f"{value:.1f}".removesuffix(".0")
