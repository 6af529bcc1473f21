"""The widths of the front: one row a channel group, one column a network."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.report.charts._marks import reference, spoken
from autoprune.report.facts import Group, StudyFacts, TrialFacts
from autoprune.report.figure import Column, figure, slug, svg, table, text
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import number_text

__all__ = ["widths_chart"]

_MOST_COLUMNS, _MANY_COLUMNS = 24, 14
_LABEL, _DENSE, _TOP = 178.0, 52.0, 52.0
_LONGEST_NAME = 26


def widths_chart(study: StudyFacts, index: int) -> Markup | None:
    """How much of each group the members keep; None where no widths are known."""
    members = [trial for trial in study.members if trial.widths]
    if not members or not study.groups:
        return None
    shown = _spread(members)
    cell = min(58.0, max(36.0, (760 - _LABEL - _DENSE) / len(shown)))
    row = 22.0 if len(study.groups) <= 24 else 17.0
    size = (max(560.0, _LABEL + cell * len(shown) + _DENSE + 4), _TOP + row * len(study.groups) + 8)
    columns = [
        _column(study, trial, index=index, x=_LABEL + cell * i, cell=(cell, row)) for i, trial in enumerate(shown)
    ]
    id_ = slug("widths", index)
    drawing = svg(
        _labels(study.groups, row, right=_LABEL + cell * len(shown)),
        columns,
        id_=id_,
        size=size,
        title=f"Widths of the front of {study.name}",
        description=_description(study, members),
        is_picked_from=True,
    )
    left_out = (
        "" if len(shown) == len(members) else f" {len(shown)} of {len(members)} members are drawn, spread in cost."
    )
    caption = (
        "Channels that each group keeps, one column a network, the cheapest first; the stronger the colour, the larger "
        f"the share of the dense width on the right.{left_out}"
    )
    return figure(
        drawing,
        id_=id_,
        title="Widths of the front",
        caption=caption,
        key=_key(index),
        data=_table(study, members),
        is_wide=len(shown) > _MANY_COLUMNS,
    )


def _spread(members: Sequence[TrialFacts]) -> list[TrialFacts]:
    if len(members) <= _MOST_COLUMNS:
        return list(members)
    last = len(members) - 1
    picked = dict.fromkeys(round(i * last / (_MOST_COLUMNS - 1)) for i in range(_MOST_COLUMNS))
    return [members[i] for i in picked]


def _labels(groups: Sequence[Group], row: float, *, right: float) -> list[Markup]:
    parts = [text(_LABEL - 10, 20, "trial", anchor="end"), text(right + 10, 38, "dense", class_="tick")]
    for i, group in enumerate(groups):
        base = _TOP + row * i + row / 2 + 4
        parts.append(text(_LABEL - 10, base, _short(group.name), class_="name", anchor="end"))
        parts.append(text(right + 10, base, str(group.width)))
    return parts


def _short(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:8]}…{name[-(_LONGEST_NAME - 9) :]}"


def _column(study: StudyFacts, trial: TrialFacts, *, index: int, x: float, cell: tuple[float, float]) -> Markup:
    width, row = cell
    middle = x + width / 2
    cost = trial.values.get(study.cost)
    parts = [
        text(middle, 20, str(trial.number), class_="head", anchor="middle"),
        text(middle, 38, number_text(cost, digits=2), anchor="middle"),
    ]
    for i, group in enumerate(study.groups):
        kept = trial.widths.get(group.name, group.width)
        share, top = min(1.0, kept / group.width), _TOP + row * i
        fill = {"fill-opacity": f"{0.06 + 0.94 * share:.2f}"}
        parts.append(
            tag("rect", x=x + 0.5, y=top + 0.5, width=width - 1, height=row - 1, class_=f"cell s{index}", attrs=fill)
        )
        class_ = "in cell-text" if share > 0.82 else "cell-text"
        parts.append(text(middle, top + row / 2 + 4, str(kept), class_=class_, anchor="middle"))
    height = _TOP + row * len(study.groups)
    parts.append(tag("rect", x=float(x), y=4.0, width=float(width), height=height - 4, class_="frame"))
    label = f"widths of {spoken(study, trial)}"
    return tag("g", parts, class_="column", role="button", tabindex=-1, aria_label=label,
               data_t=reference(index, trial.number))  # fmt: skip


def _key(index: int) -> Markup:
    steps = [
        tag("rect", x=float(4 + 30 * i), y=2.0, width=29.0, height=12.0, class_=f"cell s{index}",
            attrs={"fill-opacity": f"{0.06 + 0.94 * share:.2f}"})
        for i, share in enumerate((0.0, 0.25, 0.5, 0.75, 1.0))
    ]  # fmt: skip
    ramp = tag("svg", steps, attrs={"viewBox": "0 0 158 16"}, width=158, height=16, aria_hidden="true")
    return tag("ul", tag("li", "0 %", ramp, "100 %"), class_="legend ramp")


def _description(study: StudyFacts, members: Sequence[TrialFacts]) -> str:
    cheapest = members[0]
    shares = {group.name: cheapest.widths.get(group.name, group.width) / group.width for group in study.groups}
    least, most = min(shares, key=lambda name: shares[name]), max(shares, key=lambda name: shares[name])
    return (
        f"{len(members)} networks and {len(study.groups)} groups. The cheapest, trial {cheapest.number}, keeps least "
        f"of {least}, {shares[least]:.0%}, and most of {most}, {shares[most]:.0%}."
    )


def _table(study: StudyFacts, members: Sequence[TrialFacts]) -> Markup:
    columns = [Column("group", is_number=False), Column("stage", is_number=False), Column("dense")]
    columns += [Column(f"trial {trial.number}") for trial in members]
    rows = [
        [group.name, group.stage, str(group.width), *(str(t.widths.get(group.name, group.width)) for t in members)]
        for group in study.groups
    ]
    caption = f"Widths of the front of {study.name}: channels kept by each network, the cheapest first"
    return table(columns, rows, caption=caption)
