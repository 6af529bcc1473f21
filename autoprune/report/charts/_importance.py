"""Which of the searched parameters matter, for each objective."""

from __future__ import annotations

from autoprune.report.charts._front import axis_name
from autoprune.report.facts import ImportanceTable, StudyFacts
from autoprune.report.figure import Column, figure, slug, svg, table, text
from autoprune.report.markup import Markup, tag

__all__ = ["importance_chart"]

_WIDTH, _LABEL, _ROW = 480.0, 150.0, 26.0


def importance_chart(study: StudyFacts, index: int) -> Markup:
    """Bars for each objective, or the sentence that says why there are none."""
    id_ = slug("importance", index)
    drawn = [_bars(each, f"{id_}-{slug(each.objective)}", index) for each in study.importances]
    rows = [[each.objective, row.parameter, f"{row.share:.3f}"] for each in study.importances for row in each.rows]
    caption = (
        "Share of an objective's variation that a parameter explains (fANOVA: a random forest over the trials with a "
        "result). It ranks what to search; it is not what to choose."
    )
    columns = [Column("objective", is_number=False), Column("parameter", is_number=False), Column("share")]
    data = table(columns, rows, caption=f"Importance of parameters in {study.name}") if rows else None
    return figure(tag("div", drawn, class_="pair"), id_=id_, title="What matters", caption=caption, data=data)


def _bars(each: ImportanceTable, id_: str, index: int) -> Markup:
    heading = tag("h4", axis_name(each.objective))
    if not each.rows:
        return tag("div", heading, tag("p", each.note, class_="quiet"))
    room = _WIDTH - _LABEL - 60
    longest = max(row.share for row in each.rows) or 1.0
    parts = []
    for i, row in enumerate(each.rows):
        top, length = _ROW * i + 4, max(2.0, room * row.share / longest)
        parts.append(text(_LABEL - 8, top + 14, row.parameter[:22], class_="name", anchor="end"))
        parts.append(tag("rect", x=_LABEL, y=top + 3, width=length, height=_ROW - 10, rx=2, class_=f"bar s{index}"))
        parts.append(text(_LABEL + length + 8, top + 14, f"{row.share:.2f}"))
    first = each.rows[0]
    drawing = svg(
        parts, id_=id_, size=(_WIDTH, _ROW * len(each.rows) + 8), title=f"Importance for {each.objective}",
        description=f"{first.parameter} explains most, {first.share:.0%}.",
    )  # fmt: skip
    return tag("div", heading, drawing)
