"""What the MACs say of the time: pruned layers are often slower than their share of the MACs."""

from __future__ import annotations

from autoprune.report.charts._marks import kind_of, mark, reference, spoken
from autoprune.report.facts import StudyFacts
from autoprune.report.figure import Plot, axes, figure, legend, path, slug, svg
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import linear

__all__ = ["latency_chart"]

_PLOT = Plot(height=360)


def latency_chart(study: StudyFacts, index: int) -> Markup | None:
    """MACs ratio against latency; None where it was not measured."""
    name = "latency_ratio" if any("latency_ratio" in t.values for t in study.complete) else "latency_ms"
    timed = [trial for trial in study.complete if {"macs_ratio", name} <= trial.values.keys()]
    if len(timed) < 2:
        return None
    is_ratio = name == "latency_ratio"
    x = linear([0.0, *(trial.values["macs_ratio"] for trial in timed)], *_PLOT.x, margin=0.02)
    y = linear([0.0, *(trial.values[name] for trial in timed)], *_PLOT.y, margin=0.02)
    marks = []
    for trial in sorted(timed, key=lambda trial: kind_of(study, trial) == "front"):
        kind, place = kind_of(study, trial), (x(trial.values["macs_ratio"]), y(trial.values[name]))
        label = f"{spoken(study, trial)}, {name} {trial.values[name]:.3g}" if kind == "front" else None
        marks.append(mark(kind, *place, study=index, trial=reference(index, trial.number), label=label))
    end = min(x.high, y.high)
    diagonal = path([(x(0.0), y(0.0)), (x(end), y(end))], class_="even line") if is_ratio else None
    label = "latency, pruned / dense" if is_ratio else "latency of a batch, ms"
    id_ = slug("latency", index)
    drawing = svg(
        axes(_PLOT, x, y, x_label="MACs, pruned / dense", y_label=label), diagonal, marks, id_=id_,
        size=(_PLOT.width, _PLOT.height), title=f"MACs against latency of {study.name}", is_picked_from=True,
        description=f"{len(timed)} networks were timed.",
    )  # fmt: skip
    words = " On the dashed line time would shrink as the MACs do." if is_ratio else ""
    kinds = {kind_of(study, trial) for trial in timed}
    key = legend(
        *((mark(kind, 14, 8, study=index if kind == "front" else 0), said)
          for kind, said in (("front", "front"), ("dominated", "dominated"), ("limited", "breaks a constraint"))
          if kind in kinds)
    )  # fmt: skip
    data = tag("p", "Data: ", tag("a", "table of all trials", href=f"#trials-{index}"), class_="quiet")
    return figure(
        drawing, id_=id_, title="MACs against latency", caption=f"Median time of a batch, measured at rung 0.{words}",
        key=key, data=data,
    )  # fmt: skip
