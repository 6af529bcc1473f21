"""What all charts have in common: the frame with its axes, the figure around it, the table beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.report.markup import Child, Markup, tag
from autoprune.report.scales import Scale, tick_texts

__all__ = ["Column", "Plot", "axes", "figure", "floor", "legend", "path", "side", "slug", "svg", "table", "text"]


@dataclass(frozen=True)
class Plot:
    """Size of a drawing and of the margins around what is plotted, in pixels at full size."""

    width: float = 760
    height: float = 420
    left: float = 64
    right: float = 20
    top: float = 18
    bottom: float = 52

    @property
    def x(self) -> tuple[float, float]:
        """Left and right end of the plotted area."""
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[float, float]:
        """Bottom and top of the plotted area: values grow upwards."""
        return self.height - self.bottom, self.top


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers."""

    heading: str
    is_number: bool = True


def slug(*parts: object) -> str:
    """Text as a part of an element's id."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(str(part) for part in parts).lower()).strip("-")


def text(x: float, y: float, *children: Child, class_: str = "tick", anchor: str = "start", **more: Any) -> Markup:
    """Words at a place; ``anchor`` is ``start``, ``middle`` or ``end``."""
    anchored = None if anchor == "start" else anchor
    return tag("text", *children, x=float(x), y=float(y), class_=class_, text_anchor=anchored, **more)


def path(points: Iterable[tuple[float, float]], *, is_step: bool = False, class_: str, **more: Any) -> Markup:
    """A line through points, straight, or with steps that keep each value until the next."""
    parts: list[str] = []
    for x, y in points:
        if not parts:
            parts.append(f"M{x:.1f},{y:.1f}")
        else:
            parts.append(f"H{x:.1f}V{y:.1f}" if is_step else f"L{x:.1f},{y:.1f}")
    return tag("path", d="".join(parts), class_=class_, **more)


def axes(plot: Plot, x: Scale, y: Scale, *, x_label: str, y_label: str) -> Markup:
    """Grid, ticks and names of both axes."""
    ticks = x.ticks(8)
    texts = [f"{tick:g}" for tick in ticks] if x.is_log else tick_texts(ticks)
    return Markup(side(plot, y, y_label) + floor(plot, [*zip(map(x, ticks), texts, strict=True)], x_label))


def floor(plot: Plot, ticks: Iterable[tuple[float, str]], label: str) -> Markup:
    """The horizontal axis: ticks as pairs of a place and a text."""
    (left, right), (bottom, top) = plot.x, plot.y
    parts: list[Markup] = []
    for place, words in ticks:
        parts.append(tag("path", d=f"M{place:.1f},{bottom:.1f}V{top:.1f}", class_="grid"))
        parts.append(text(place, bottom + 18, words, anchor="middle"))
    parts.append(tag("path", d=f"M{left:.1f},{bottom:.1f}H{right:.1f}", class_="axis"))
    parts.append(text((left + right) / 2, plot.height - 10, label, class_="label", anchor="middle"))
    return Markup("".join(parts))


def side(plot: Plot, y: Scale, label: str) -> Markup:
    """The vertical axis."""
    (left, right), (bottom, top) = plot.x, plot.y
    ticks = y.ticks(6)
    parts: list[Markup] = []
    for tick, words in zip(ticks, tick_texts(ticks), strict=True):
        parts.append(tag("path", d=f"M{left:.1f},{y(tick):.1f}H{right:.1f}", class_="grid"))
        parts.append(text(left - 9, y(tick) + 4, words, anchor="end"))
    middle = (top + bottom) / 2
    turned = {"transform": f"rotate(-90 16 {middle:.0f})"}
    parts.append(text(16, middle, label, class_="label", anchor="middle", attrs=turned))
    return Markup("".join(parts))


def svg(
    *children: Child, id_: str, size: tuple[float, float], title: str, description: str, is_picked_from: bool = False
) -> Markup:
    """A drawing with its title and description.

    Args:
        children: What is drawn.
        id_: Begins the ids of both.
        size: Width and height.
        title: What it shows, in a few words.
        description: What is to be seen there, in a sentence or two.
        is_picked_from: Whether trials are picked in it: it is then no picture to a screen reader but a group of marks.
    """
    width, height = size
    return tag(
        "svg",
        tag("title", title, id=f"{id_}-title"),
        tag("desc", description, id=f"{id_}-desc"),
        children,
        attrs={"viewBox": f"0 0 {width:.0f} {height:.0f}", "width": round(width), "height": round(height)},
        role="group" if is_picked_from else "img",
        aria_labelledby=f"{id_}-title",
        aria_describedby=f"{id_}-desc",
        data_marks=is_picked_from,
    )


def figure(
    drawing: Markup,
    *,
    id_: str,
    title: str,
    caption: Child,
    key: Markup | None = None,
    data: Child = None,
    is_wide: bool = False,
) -> Markup:
    """A chart with its heading, what there is to know, its legend, and the data behind it.

    Args:
        drawing: The chart; where it is wider than the window it is scrolled by itself.
        id_: Of the figure.
        title: Its heading.
        caption: A sentence or two.
        key: Its legend.
        data: A table, folded away, or a link to one.
        is_wide: Whether it needs the whole width, so that words stand above it and not beside it.
    """
    is_table = isinstance(data, Markup) and data.startswith("<div")
    beside = tag("details", tag("summary", "Data table"), data, class_="data") if is_table else data
    return tag(
        "figure",
        tag("figcaption", tag("h3", title, id=f"{id_}-heading"), tag("p", caption)),
        key,
        tag("div", drawing, class_="scroll", tabindex=0, role="region", aria_labelledby=f"{id_}-heading"),
        beside,
        id=id_,
        class_="wide" if is_wide else None,
    )


def legend(*entries: tuple[Markup, str]) -> Markup:
    """What marks mean: pairs of a drawing of 28 by 16 pixels and words."""
    items = [
        tag("li", tag("svg", mark, attrs={"viewBox": "0 0 28 16"}, width=28, height=16, aria_hidden="true"), words)
        for mark, words in entries
    ]
    return tag("ul", items, class_="legend")


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[Child]], *, caption: str, id_: str | None = None
) -> Markup:
    """A table that can be scrolled, and sorted where there is a script.

    Args:
        columns: Their headings.
        rows: A cell for each column; a Markup that is a whole row is taken as it is.
        caption: What it holds.
        id_: Of the table.
    """
    classes = [None if column.is_number else "t" for column in columns]
    head = [tag("th", column.heading, scope="col", class_=each) for column, each in zip(columns, classes, strict=True)]
    body = [tag("tr", [tag("td", cell, class_=each) for cell, each in zip(row, classes, strict=True)]) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body), id=id_)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
