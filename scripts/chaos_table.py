"""What a log of faults comes to, as a table in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["table_of"]


def table_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """Faults by kind: how many, how many hit something live, how many broke a promise.

    Args:
        lines: Of the log: one for each fault, and one for the end of each study.
    """
    struck = [line for line in lines if "fault" in line]
    ends = [line for line in lines if "end" in line]
    rows = [
        "| fault | drawn | hit a live operation | SQLite | PostgreSQL | violations |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in sorted({line["fault"] for line in struck}):
        of = [line for line in struck if line["fault"] == name]
        rows.append(_row(name, of))
    rows.append(_row("**all**", struck))
    endings = sum((Counter(line["endings"]) for line in ends), Counter())
    told = ", ".join(f"{n} with {code}" for code, n in sorted(endings.items()))
    finished = sum(not line["violations"] for line in ends)
    rows.append(
        f"\nStudies resumed to their ends: {len(ends)}, of which {finished} without any violation there. "
        f"Drivers ended: {told or 'none'}."
    )
    return "\n".join(rows)


def _row(name: str, of: Sequence[Mapping[str, Any]]) -> str:
    hits = [line for line in of if line["hit"]]
    on = Counter(line["database"] for line in of)
    n_violations = sum(len(line["violations"]) for line in of)
    return f"| {name} | {len(of)} | {len(hits)} | {on['SQLite']} | {on['PostgreSQL']} | {n_violations} |"
