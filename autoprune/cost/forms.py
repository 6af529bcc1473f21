"""Linear forms of the widths, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LinearForm", "form_from_list", "form_to_list"]


@dataclass(frozen=True)
class LinearForm:
    """A count of channels: ``constant + sum(coefficient * width[group])``.

    Args:
        constant: Channels that are never removed, >= 0.
        terms: Pairs (index of the group, coefficient > 0), by rising index.
    """

    constant: int
    terms: tuple[tuple[int, int], ...] = ()

    def __call__(self, widths: Sequence[int]) -> int:
        """The count at ``widths``, shape (G,), in the order of the model's groups."""
        return self.constant + sum(coefficient * int(widths[group]) for group, coefficient in self.terms)


def form_to_list(form: LinearForm) -> list[Any]:
    """A form as plain lists for JSON."""
    return [form.constant, [list(term) for term in form.terms]]


def form_from_list(data: Sequence[Any]) -> LinearForm:
    """The inverse of `form_to_list`."""
    return LinearForm(int(data[0]), tuple((int(group), int(coefficient)) for group, coefficient in data[1]))
