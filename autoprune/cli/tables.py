"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.config import Metric

__all__ = ["front_table", "score_notes"]

_COLUMNS = {
    "mark": ("front", "{}"),
    "study": ("study", "{}"),
    "number": ("trial", "{:.0f}"),
    "score": ("{}", "{}"),
    "test": ("test {} ± sd", "{}"),
    "macs_ratio": ("macs_ratio", "{:.4f}"),
    "params_ratio": ("params_ratio", "{:.4f}"),
    "macs": ("MACs", "{:,.0f}"),
    "params": ("parameters", "{:,.0f}"),
    "lineage_images": ("images", "{:,.0f}"),
    "method": ("method", "{}"),
    "width_rule": ("widths", "{}"),
    "hyper": ("strengths", "{}"),
}


def _cell(form: str, value: Any) -> str:
    return "" if value is None or value != value else form.format(value)


def _score(metric: Metric, value: Any) -> str:
    return "" if value is None or value != value else metric.text(value)


def _scored(record: Mapping[Any, Any], metric: Metric) -> dict[Any, Any]:
    """The record with its scores as text, under the names of their columns."""
    scored = dict(record)
    by_validation = record.get("like_next_by") == "validation"
    mark = " ~" if record.get("like_next") is True else ""
    if metric.name in record:
        scored["score"] = _score(metric, record[metric.name]) + (mark if by_validation else "")
    if f"test_{metric.name}" in record:
        mean, sd = (_score(metric, record[name]) for name in (f"test_{metric.name}", "test_sd"))
        scored["test"] = f"{mean}{f' ± {sd}' if sd else ''}{'' if by_validation else mark}"
    return scored


def _short(metric: Metric) -> str:
    return "acc" if metric.name == "accuracy" else metric.name


def front_table(front: pd.DataFrame, metric: Metric) -> str:
    """The front as aligned text, one trial a line.

    Args:
        front: Its columns are looked for by their names. Where some trials are off the front, ``*`` marks members.
        metric: What trials are scored by.
    """
    if front.empty:
        return "no trial is on the front yet."
    if "is_pareto" in front.columns and not front["is_pareto"].all():
        front = front.assign(mark=["*" if is_member else "" for is_member in front["is_pareto"]])
    records = [_scored(record, metric) for record in front.to_dict("records")]
    columns = [name for name in _COLUMNS if name in records[0]]
    names = {"score": metric.name, "test": _short(metric)}
    rows = [[_COLUMNS[name][0].format(names.get(name)) for name in columns]]
    rows += [[_cell(_COLUMNS[name][1], record[name]) for name in columns] for record in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    text, lines = {"mark", "study", "test", "method", "width_rule", "hyper"}, []
    if any(row[columns.index("score")].endswith(" ~") for row in rows if "score" in columns):
        text.add("score")  # so that the marks don't push the digits aside
    for row in rows:
        cells = zip(row, widths, columns, strict=True)
        lines.append("  ".join(f"{c:<{w}}" if name in text else f"{c:>{w}}" for c, w, name in cells).rstrip())
    return "\n".join(lines)


def score_notes(front: pd.DataFrame, metric: Metric) -> list[str]:
    """What has to be said under a front of its test scores and marks; nothing where it has none.

    Args:
        front: As it is shown.
        metric: What trials are scored by.
    """
    notes = []
    seeds = [n for n in front.get("test_seeds", []) if n]
    if seeds:
        fewest, most = min(seeds), max(seeds)
        over = f"{fewest} to {most} fine-tunings" if fewest < most else f"{most} fine-tuning{'s' if most > 1 else ''}"
        notes.append(f"test {_short(metric)} ± sd: mean and standard deviation over {over}, on the test split")
    no_marks = [None] * len(front)
    marks = zip(front.get("like_next", no_marks), front.get("like_next_by", no_marks), strict=True)
    by = ["validation" if told_by == "validation" else "test" for is_like, told_by in marks if is_like is True]
    like = "~ can't be told apart from the next costlier one"
    if seeds and "test" in by:
        notes.append(f"{like}: within 2 * sqrt(sd1^2 / K + sd2^2 / K)")
    if "validation" in by:
        notes.append(
            f"{'~ behind ' + metric.name if 'test' in by else like}: within two standard errors of a share "
            "of the validation split"
        )
    return notes
