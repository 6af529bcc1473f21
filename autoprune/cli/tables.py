"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["front_table"]

_COLUMNS = {
    "number": ("trial", "{:.0f}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "macs_ratio": ("macs_ratio", "{:.4f}"),
    "params_ratio": ("params_ratio", "{:.4f}"),
    "macs": ("MACs", "{:,.0f}"),
    "params": ("parameters", "{:,.0f}"),
    "method": ("method", "{}"),
    "width_rule": ("widths", "{}"),
    "hyper": ("strengths", "{}"),
}


def _cell(form: str, value: Any) -> str:
    return "" if value is None or value != value else form.format(value)


def front_table(front: pd.DataFrame) -> str:
    """The front as aligned text, one trial a line."""
    if front.empty:
        return "no trial is on the front yet."
    columns = [name for name in _COLUMNS if name in front.columns]
    rows = [[_COLUMNS[name][0] for name in columns]]
    records = front.to_dict("records")
    rows += [[_cell(_COLUMNS[name][1], record[name]) for name in columns] for record in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    text = {"method", "width_rule", "hyper"}
    lines = []
    for row in rows:
        cells = zip(row, widths, columns, strict=True)
        lines.append("  ".join(f"{c:<{w}}" if name in text else f"{c:>{w}}" for c, w, name in cells).rstrip())
    return "\n".join(lines)
