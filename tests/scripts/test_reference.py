"""What is written of a key: its type, range and default as declared, its meaning as the class tells it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autoprune.config import Range, option
from scripts import reference


@dataclass(frozen=True)
class Own:
    """What is inherited.

    Args:
        kind: Of two; a ``b`` | the
            other.
    """

    kind: str = option("a", choices=("a", "b"))


@dataclass(frozen=True)
class Table(Own):
    """A table.

    Args:
        share: A part.
        values: Where it is searched.
        many: How many.

    Raises:
        ConfigError: share: Never.
    """

    share: float | None = option(None, above=0, high=1)
    values: Range = Range(low=0.5, high=1.5, step=0.125)
    many: tuple[str, ...] = option(("x", "y"))


def test_a_row_for_each_key():
    assert list(reference.rows_of(Table)) == [
        ("`kind`", "`a`, `b`", '`"a"`', "Of two; a `b` \\| the other."),
        ("`share`", "a number, in (0, 1]", "–", "A part."),
        ("`values`", "a range", "`{ low = 0.5, high = 1.5, step = 0.125 }`", "Where it is searched."),
        ("`many`", "a list, each entry a text", '`["x", "y"]`', "How many."),
    ]


def test_a_key_that_is_told_nowhere_is_refused():
    @dataclass(frozen=True)
    class Silent:
        """Says nothing of it."""

        key: int = option(1_000, low=1)

    with pytest.raises(SystemExit, match="Silent: the docstring says nothing of `key`"):
        list(reference.rows_of(Silent))


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(SystemExit, match=r"studies/README\.md: the comments <!-- study"):
        reference.written("studies/README.md", "# Studies\n")


def test_a_changed_table_is_written_and_all_else_stays():
    page = "autoprune/methods/README.md"
    text = (reference.ROOT / page).read_text(encoding="utf-8")
    stale = text.replace("`theta`", "`old`")
    assert stale != text
    assert reference.written(page, stale) == text
