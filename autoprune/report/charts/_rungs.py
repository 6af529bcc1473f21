"""Scores on the way: what each trial had at its rungs."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.report.charts._marks import reference, trial_link
from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.figure import Column, Plot, figure, floor, legend, path, side, slug, svg, table
from autoprune.report.markup import Markup
from autoprune.report.scales import linear, quantile

__all__ = ["rungs_chart"]

_PLOT = Plot(height=340)
_MOST_LINES = 200


def rungs_chart(study: StudyFacts, index: int) -> Markup | None:
    """A line a trial; None where no trial has two rungs."""
    curves = [trial for trial in study.trials.values() if len(trial.rungs) > 1]
    if not curves:
        return None
    members = set(study.front)
    drawn = [t for t in curves if t.number in members] + [t for t in curves if t.number not in members]
    drawn = drawn[:_MOST_LINES]
    scores = [score for trial in drawn for score in trial.rungs]
    low, high = (0.05, 1.0) if study.metric_is_maximised else (0.0, 0.95)
    y = linear([quantile(scores, low), quantile(scores, high)], *_PLOT.y)
    y = y if study.metric_is_maximised else y.flipped
    n_rungs = max(len(trial.rungs) for trial in drawn)
    left, right = _PLOT.x
    places = [left + 40 + (right - left - 80) * i / (n_rungs - 1) for i in range(n_rungs)]
    lines = []
    for trial in reversed(drawn):  # The front is drawn last, on top.
        kind = f" front s{index}" if trial.number in members else "" if trial.is_complete else " stopped"
        points = [(x, y(score)) for x, score in zip(places, trial.rungs, strict=False)]
        lines.append(path(points, class_=f"curve{kind}", data_t=reference(index, trial.number)))
    id_ = slug("rungs", index)
    ticks = [(place, str(i)) for i, place in enumerate(places)]
    drawing = svg(
        side(_PLOT, y, study.metric), floor(_PLOT, ticks, "rung"), lines, id_=id_, size=(_PLOT.width, _PLOT.height),
        title=f"Scores at the rungs of {study.name}", description=_description(study, drawn), is_picked_from=True,
    )  # fmt: skip
    more = (
        "" if len(drawn) == len(curves) else f" {len(drawn)} of {len(curves)} trials are drawn, the front among them."
    )
    caption = (
        f"Rung 0 is the score after surgery and recalibration, the last one that after the whole fine-tuning.{more}"
    )
    kinds = ((f"curve front s{index}", "front"), ("curve", "dominated"), ("curve stopped", "stopped early"))
    key = legend(
        *((path([(1, 8), (27, 8)], class_=kind), words) for kind, words in kinds
          if any(f'class="{kind}"' in line for line in lines))
    )  # fmt: skip
    return figure(drawing, id_=id_, title="Rungs", caption=caption, key=key, data=_table(study, drawn, index))


def _description(study: StudyFacts, drawn: Sequence[TrialFacts]) -> str:
    gains = sorted(abs(trial.rungs[-1] - trial.rungs[0]) for trial in drawn if trial.is_complete)
    if not gains:
        return f"{len(drawn)} trials."
    return f"{len(drawn)} trials; fine-tuning moves the {study.metric} by {gains[len(gains) // 2]:.3g} in the median."


def _table(study: StudyFacts, drawn: Sequence[TrialFacts], index: int) -> Markup:
    n_rungs = max(len(trial.rungs) for trial in drawn)
    rows = []
    for trial in drawn:
        scores = [study.score_text(score) for score in trial.rungs]
        rows.append([trial_link(index, trial.number), trial.state.lower(), *scores, *["–"] * (n_rungs - len(scores))])
    columns = [Column("trial"), Column("state", is_number=False), *(Column(f"rung {i}") for i in range(n_rungs))]
    return table(columns, rows, caption=f"{study.metric} at each rung of {study.name}")
