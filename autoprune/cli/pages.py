"""Pages for people: titled sections of labelled lines, in colour on a terminal, plain in a pipe."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Row", "Section", "print_page"]

_WIDTH = 80
_PLAIN_BARS = str.maketrans({"█": "#", "░": "."})


@dataclass(frozen=True)
class Row:
    """A labelled text; one that is too long goes on below itself.

    Args:
        label: What it is.
        text: For people; a line that must stay as it is holds no more than fits.
        is_whole: Whether it is never broken, such as a path or a command that people copy.
    """

    label: str
    text: str
    is_whole: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under a title; without rows it is left out."""

    title: str
    rows: Sequence[Row]


def print_page(heading: str, sections: Sequence[Section]) -> None:
    """Print a page of 80 columns."""
    shown = [section for section in sections if section.rows]
    if sys.stdout.isatty():
        _print_in_colour(heading, shown)
        return
    lines = [heading]
    for section in shown:
        lines += ["", section.title, *(f"  {label}{text}" for label, text in _lines(section))]
    print("\n".join(_printable(line.rstrip()) for line in lines))


def _lines(section: Section) -> Iterator[tuple[str, str]]:
    """Label, padded, and text of each line."""
    pad = max(len(row.label) for row in section.rows)
    pad += 2 if pad else 0
    for row in section.rows:
        lines = row.text.splitlines() or [""]
        if not row.is_whole:
            lines = [part for line in lines for part in _broken(line, _WIDTH - 2 - pad)]
        for i, line in enumerate(lines):
            yield (row.label if i == 0 else "").ljust(pad), line


def _broken(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2) if line.startswith(" ") else ""
    return textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False) or [""]


def _printable(line: str) -> str:
    """The line without bars that standard output can't show."""
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return line.translate(_PLAIN_BARS).encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding)
    return line


def _print_in_colour(heading: str, sections: Sequence[Section]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(heading, style="bold"))
    for section in sections:
        console.print(Text(f"\n{section.title}", style="bold cyan"))
        for label, text in _lines(section):
            line = Text.assemble((f"  {label}", "dim"), _printable(text))
            line.highlight_regex("█+", style="cyan")
            line.highlight_regex("░+", style="dim")
            console.print(line)
