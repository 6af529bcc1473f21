"""What the front has dominated, over the trials and over the time of the devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoprune.report.facts import Growth, StudyFacts
from autoprune.report.figure import Column, Plot, axes, figure, legend, path, svg, table
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import Scale, linear, number_text

__all__ = ["hypervolume_chart"]

_PLOT = Plot(width=480, height=320)


def hypervolume_chart(studies: Sequence[StudyFacts]) -> Markup | None:
    """Two drawings; None where no study tells a hypervolume."""
    told = [(index, study) for index, study in enumerate(studies) if study.growth]
    if not told:
        return None
    hours = max(study.growth[-1].device_s for _, study in told)
    unit, seconds = ("hours", 3600.0) if hours >= 7200 else ("minutes", 60.0)
    by_trial = _drawing(told, lambda i, growth: float(i), name="trials", x_label="trials ended")
    by_time = _drawing(told, lambda _, growth: growth.device_s / seconds, name="time", x_label=f"device {unit}")
    pair = tag("div", by_trial, by_time, class_="pair")
    point = ", ".join(f"{name} {value:g}" for name, value in studies[0].reference_point.items())
    caption = (
        f"Share of the box up to the reference point ({point}) that the front dominates. A flat end says that more "
        f"trials will bring little. Device {unit} are the times of all trials added up; a device is "
        f"{studies[0].devices}."
    )
    key = legend(*((path([(1, 8), (27, 8)], class_=f"front line s{i}"), study.name) for i, study in told))
    return figure(
        pair, id_="hypervolume", title="Hypervolume", caption=caption, key=key if len(told) > 1 else None,
        data=_table(told, unit, seconds),
    )  # fmt: skip


def _drawing(
    told: Sequence[tuple[int, StudyFacts]], place: Callable[[int, Growth], float], *, name: str, x_label: str
) -> Markup:
    lines = [(index, [(place(i, g), g.hypervolume) for i, g in enumerate(s.growth, 1)]) for index, s in told]
    points = [point for _, line in lines for point in line]
    last = max(left for left, _ in points)
    x = Scale(0.0, last * 1.02 or 1.0, *_PLOT.x)
    # The first trials are mostly on the way: the end is what is compared.
    ends = [high for _, high in points]
    y = linear([max(0.0, max(ends) - 4 * (max(ends) - sorted(ends)[len(ends) // 4])), max(ends)], *_PLOT.y)
    drawn = [axes(_PLOT, x, y, x_label=x_label, y_label="hypervolume")]
    for index, line in lines:
        corners = _corners(line)
        drawn.append(path([(x(left), y(high)) for left, high in corners], is_step=True, class_=f"front line s{index}"))
    said = ". ".join(
        f"{study.name}: {study.growth[-1].hypervolume:.4f} after {len(study.growth)} trials" for _, study in told
    )
    return svg(
        drawn, id_=f"hypervolume-{name}", size=(_PLOT.width, _PLOT.height), title=f"Hypervolume over {x_label}",
        description=said,
    )  # fmt: skip


def _corners(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line with steps, without the points that lie on it anyway."""
    kept = [point for i, point in enumerate(line) if i == 0 or point[1] != line[i - 1][1]]
    return kept if kept[-1] == line[-1] else [*kept, line[-1]]


def _table(told: Sequence[tuple[int, StudyFacts]], unit: str, seconds: float) -> Markup:
    columns = [Column("study", is_number=False), Column("trials ended"), Column("by trial"), Column(f"device {unit}")]
    rows = []
    for _, study in told:
        before = None
        for i, growth in enumerate(study.growth, 1):
            if growth.hypervolume != before or i == len(study.growth):
                time = number_text(growth.device_s / seconds)
                rows.append([study.name, str(i), str(growth.number), time, f"{growth.hypervolume:.4f}"])
            before = growth.hypervolume
    return table([*columns, Column("hypervolume")], rows, caption="Where the hypervolume grew")
