"""Every trial as a line through all that was searched and found; a part of an axis picks the lines through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.config import duration_text
from autoprune.report.charts._marks import crowd, reference, trial_link
from autoprune.report.facts import Axis, StudyFacts, TrialFacts
from autoprune.report.figure import Column, figure, legend, path, slug, svg, table, text
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import Scale, linear, number_text, ratio_scale

__all__ = ["parallel_chart", "trials_table"]

_TOP, _BOTTOM, _NONE, _HEIGHT = 54.0, 330.0, 356.0, 372.0
_MOST_AXES = 12
_LEAST_SHARE = 1 / 3  # of the trials that have a value; an axis of hardly any is mostly none
_COSTS = ("macs_ratio", "params_ratio", "latency_ms")
_FACTS = (*_COSTS, "latency_ratio")
Value = float | str | bool


@dataclass(frozen=True)
class _Line:
    """One axis: where each of its values lies; choices lie at equal distances."""

    name: str
    scale: Scale | None
    choices: tuple[str, ...] = ()

    def place(self, value: Value | None) -> float:
        if value is None:
            return _NONE
        if self.scale is not None:
            return self.scale(float(value))
        at = self.choices.index(str(value))
        return _BOTTOM - 14 - (_BOTTOM - _TOP - 28) * at / max(1, len(self.choices) - 1)

    def ticks(self) -> list[tuple[float, str]]:
        if self.scale is not None:
            return [(self.scale(tick), f"{tick:g}") for tick in self.scale.ticks(5)]
        return [(self.place(choice), choice) for choice in self.choices]


def parallel_chart(study: StudyFacts, index: int) -> Markup | None:
    """The lines and, below them, the table of all trials that brushing narrows; None without two complete trials."""
    trials = study.complete
    if len(trials) < 2:
        return None
    lines, left_out = _lines(study, trials)
    width = max(1100.0, 104.0 * len(lines) + 40)
    places = [62 + (width - 124) * i / max(1, len(lines) - 1) for i in range(len(lines))]
    members = set(study.front)
    ordered = sorted(trials, key=lambda trial: trial.number in members)  # The front is drawn last, on top.
    drawn = [_curve(study, trial, lines, places, index) for trial in ordered]
    has_none = any(line.place(_value(study, t, line.name)) == _NONE for line in lines for t in trials)
    id_ = slug("parallel", index)
    drawing = svg(
        tag("g", drawn, class_=crowd(len(drawn))),
        [_axis(line, x, i) for i, (line, x) in enumerate(zip(lines, places, strict=True))],
        text(places[0] - 30, _NONE + 4, "none", class_="tick") if has_none else None,
        id_=id_,
        size=(width, _HEIGHT),
        title=f"Parameters and results of {study.name}",
        description=f"{len(trials)} trials over {len(lines)} axes: {', '.join(line.name for line in lines)}.",
        is_picked_from=True,
    )
    more = f" Not drawn: {', '.join(left_out)}." if left_out else ""
    caption = (
        "Drag along an axis to keep only the trials through that part of it; the front and the table of trials follow. "
        f"By keyboard: Tab to an end of an axis, arrow keys move it, Escape lets all go.{more}"
    )
    key = legend(
        (path([(1, 8), (27, 8)], class_=f"curve front s{index}"), "front"),
        (path([(1, 8), (27, 8)], class_="curve"), "all others"),
    )  # fmt: skip
    state = tag(
        "p",
        tag("output", f"{len(trials)} of {len(trials)} trials", class_="brushed"),
        tag("button", "Show all", type="button", class_="unbrush", hidden=True),
        class_="brush-state",
    )
    data = tag("p", "Data: ", tag("a", "table of all trials", href=f"#trials-{index}"), class_="quiet")
    frame = figure(
        drawing, id_=id_, title="Parallel coordinates", caption=caption, key=key, data=[state, data], is_wide=True
    )
    return tag("div", frame, class_="brushable", data_study=index)


def _value(study: StudyFacts, trial: TrialFacts, name: str) -> Value | None:
    if name in trial.values:
        return trial.values[name]
    if name == "images":
        return float(trial.images)
    if name == "depth":
        return float(trial.depth)
    return trial.searched.get(name)


def _lines(study: StudyFacts, trials: Sequence[TrialFacts]) -> tuple[list[_Line], list[str]]:
    """The axes worth drawing, what is searched before what is found, and the names of those left out."""
    searched = dict.fromkeys(name for trial in trials for name in trial.searched)
    found = [*(name for name in _COSTS if any(name in trial.values for trial in trials)), study.metric]
    lines = [line for name in [*searched, "depth", "images"] if (line := _line(study, trials, name))]
    share = {line.name: sum(_value(study, t, line.name) is not None for t in trials) / len(trials) for line in lines}
    common = sorted((line for line in lines if share[line.name] >= _LEAST_SHARE), key=lambda line: -share[line.name])
    kept = {line.name for line in common[: _MOST_AXES - len(found)]}
    left_out = [line.name for line in lines if line.name not in kept]
    results = [line for name in found if (line := _line(study, trials, name))]
    return [line for line in lines if line.name in kept] + results, left_out


def _line(study: StudyFacts, trials: Sequence[TrialFacts], name: str) -> _Line | None:
    values = [value for trial in trials if (value := _value(study, trial, name)) is not None]
    if len(set(values)) < 2:
        return None
    if any(isinstance(value, str | bool) for value in values):
        return _Line(name, None, tuple(sorted({str(value) for value in values})))
    numbers = [float(value) for value in values]
    axis = study.axes.get(name, Axis(min(numbers), max(numbers)))
    ends = (min(*numbers, axis.low), max(*numbers, axis.high))
    if axis.is_log and ends[0] > 0:
        return _Line(name, Scale(*ends, _BOTTOM, _TOP, is_log=True))
    make = ratio_scale if name in _COSTS else linear
    scale = make(ends, _BOTTOM, _TOP)
    if name == study.metric and not study.metric_is_maximised:
        scale = scale.flipped
    return _Line(name, scale)


def _curve(study: StudyFacts, trial: TrialFacts, lines: Sequence[_Line], places: Sequence[float], index: int) -> Markup:
    heights = [line.place(_value(study, trial, line.name)) for line in lines]
    d = "L".join(f"{x:.0f},{y:.0f}" for x, y in zip(places, heights, strict=True))
    kind = f"curve front s{index}" if trial.number in study.front else "curve"
    return tag("path", d=f"M{d}", class_=kind, data_t=reference(index, trial.number))


def _axis(line: _Line, x: float, i: int) -> Markup:
    ticks = [
        Markup(
            tag("path", d=f"M{x - 4:.1f},{y:.1f}h8", class_="axis") + text(x + 8, y + 4, words[:14], class_="tick halo")
        )
        for y, words in line.ticks()
    ]
    name, _, rest = line.name.partition(".") if len(line.name) > 13 else (line.name, "", "")
    heading = [text(x, 18, name[:15], class_="head", anchor="middle")]
    if rest:
        heading.append(text(x, 34, rest[:15], class_="head", anchor="middle"))
    handles = [
        tag("path", d=f"M{x - 8:.1f},{y:.1f}h16l-8,{-7 if end == 'upper' else 7}z", class_="handle", tabindex=0,
            role="slider", aria_label=f"{line.name}, {end} end of what is kept", aria_orientation="vertical",
            aria_valuemin=0, aria_valuemax=100, aria_valuenow=100 if end == "upper" else 0,
            aria_valuetext="all", data_end=end)
        for end, y in (("upper", _TOP), ("lower", _BOTTOM))
    ]  # fmt: skip
    return tag(
        "g",
        heading,
        tag("path", d=f"M{x:.1f},{_BOTTOM:.1f}V{_TOP:.1f}", class_="axis"),
        ticks,
        tag("rect", x=x - 7, y=_TOP, width=14.0, height=_BOTTOM - _TOP, class_="brush"),
        tag("rect", x=x - 16, y=_TOP - 4, width=32.0, height=_BOTTOM - _TOP + 8, class_="grip"),
        handles,
        class_="brush-axis",
        data_axis=i,
        data_name=line.name,
        data_scale=_scale_text(line),
    )


def _scale_text(line: _Line) -> str:
    """What tells the script the value at a place.

    Those at both ends, the lower one first, and whether the axis is logarithmic; or the choices, the lowest first.
    """
    if line.scale is None:
        return "|".join(choice.replace("|", " ") for choice in line.choices)
    ends = (line.scale.low, line.scale.high)
    below, above = ends if line.scale.start > line.scale.end else ends[::-1]
    return f"{below!r} {above!r} {int(line.scale.is_log)}"


def trials_table(study: StudyFacts, index: int) -> Markup:
    """All trials of every state."""
    metric = study.metric
    costs = [name for name in _FACTS if any(name in trial.values for trial in study.trials.values())]
    texts = ("state", "on the front", "method", "widths by")
    columns = [Column("trial"), *(Column(name, is_number=False) for name in texts), Column(metric), *map(Column, costs)]
    columns += [Column("started from"), Column("images"), Column("began, s"), Column("took, s")]
    begin = min((t.started_s for t in study.trials.values() if t.started_s is not None), default=0.0)
    members = set(study.front)
    rows = []
    for trial in study.trials.values():
        row: list[str | Markup] = [trial_link(index, trial.number), trial.state.lower()]
        row += ["yes" if trial.number in members else "", str(trial.searched.get("method", "–"))]
        row += [str(trial.searched.get("width_rule", "–")), study.score_text(trial.values.get(metric))]
        row += [number_text(trial.values.get(name)) for name in costs]
        row += ["–" if trial.started_from is None else str(trial.started_from), number_text(trial.images)]
        took = trial.started_s is not None and trial.ended_s is not None
        row.append("–" if trial.started_s is None else f"{trial.started_s - begin:.0f}")
        row.append(f"{(trial.ended_s or 0) - (trial.started_s or 0):.1f}" if took else "–")
        rows.append(row)
    whole = table(columns, rows, caption=f"All trials of {study.name}", id_=f"trials-{index}")
    spent = sum((t.ended_s or 0) - (t.started_s or 0) for t in study.trials.values() if t.ended_s and t.started_s)
    heading = tag("summary", f"All {len(rows)} trials, {duration_text(spent)} of work")
    return tag("details", heading, whole, class_="data trials", open=len(rows) <= 40)
