"""Whose network the members of the front came from."""

from __future__ import annotations

from autoprune.report.charts._marks import kind_of, mark, reference, spoken, trial_link
from autoprune.report.facts import StudyFacts
from autoprune.report.figure import Column, figure, slug, svg, table, text
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import number_text

__all__ = ["lineage_chart"]

_ROW, _MOST_LEAVES = 30.0, 60
_DENSE = -1
Tree = dict[int, list[int]]


def lineage_chart(study: StudyFacts, index: int) -> Markup | None:
    """The tree of the front's lineages from the dense network on; None where nothing was inherited."""
    lines = [study.lineage(number) for number in study.front if study.trials[number].is_complete]
    if not any(len(line) > 1 for line in lines):
        return None
    tree: Tree = {}
    for line in lines[:_MOST_LEAVES]:
        for before, after in zip([_DENSE, *line[:-1]], line, strict=True):
            children = tree.setdefault(before, [])
            if after not in children:
                children.append(after)
    rows: dict[int, float] = {}
    depths: dict[int, int] = {}
    _lay_out(tree, rows, depths)
    deepest = max(depths.values())
    step = min(170.0, max(88.0, 740 / (deepest + 1)))
    size = (max(480.0, 40 + step * (deepest + 1)), 40 + _ROW * (max(rows.values()) + 1))
    at = {number: (24 + step * depths[number], 34 + _ROW * rows[number]) for number in rows}
    id_ = slug("lineage", index)
    drawing = svg(
        [_branch(at[before], at[after]) for before, all_ in tree.items() for after in all_],
        [_node(study, number, at[number], index) for number in sorted(at, key=lambda each: at[each])],
        id_=id_, size=size, title=f"Lineages of the front of {study.name}", is_picked_from=True,
        description=f"{len(lines)} members; the longest lineage has {max(map(len, lines))} trials.",
    )  # fmt: skip
    more = "" if len(lines) <= _MOST_LEAVES else f" The first {_MOST_LEAVES} of {len(lines)} lineages are drawn."
    caption = f"Each network was cut from the one before it and fine-tuned on; the dense one stands on the left.{more}"
    return figure(
        drawing, id_=id_, title="Lineage", caption=caption, data=_table(study, lines, index),
    )  # fmt: skip


def _lay_out(tree: Tree, rows: dict[int, float], depths: dict[int, int]) -> None:
    """Leaves one below the other, each parent beside its first child: lines then never cross."""
    next_row = 0
    waiting = [(_DENSE, 0)]
    while waiting:
        number, depth = waiting.pop()
        depths[number] = depth
        children = tree.get(number, [])
        # A parent is met just before its first child, so it stands in the row that the next leaf takes.
        rows[number] = float(next_row)
        if not children:
            next_row += 1
        waiting += [(child, depth + 1) for child in reversed(children)]


def _branch(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        return tag("path", d=f"M{x0:.1f},{y0:.1f}H{x1:.1f}", class_="branch")
    return tag("path", d=f"M{x0:.1f},{y0:.1f}V{y1 - 8:.1f}q0,8 8,8H{x1:.1f}", class_="branch")


def _node(study: StudyFacts, number: int, place: tuple[float, float], index: int) -> Markup:
    x, y = place
    if number == _DENSE:
        return tag("g", mark("dense", x, y), text(x + 10, y - 7, "dense", class_="tick halo"))
    trial = study.trials[number]
    score = study.score_text(trial.values.get(study.metric))
    label = spoken(study, trial)
    kind = kind_of(study, trial)
    marked = mark(kind, x, y, study=index, trial=reference(index, number), label=label)
    words = text(x + 8, y - 7, tag("tspan", f"{number}", class_="strong"), f"  {score}", class_="tick halo")
    return tag("g", marked, words)


def _table(study: StudyFacts, lines: list[list[int]], index: int) -> Markup:
    columns = [Column("trial"), Column("came through", is_number=False), Column("images, whole lineage")]
    rows = []
    for line in lines:
        trial = study.trials[line[-1]]
        came = " → ".join(["dense", *map(str, line[:-1])])
        rows.append([trial_link(index, line[-1]), came, number_text(trial.lineage_images)])
    return table([*columns], rows, caption=f"Lineages of the front of {study.name}")
