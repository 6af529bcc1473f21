"""The front, what it has left behind, and what it must be better than."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.report.charts._marks import kind_of, mark, reference, spoken, trial_link
from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.figure import Column, Plot, axes, figure, legend, path, svg, table
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import Scale, linear, number_text, quantile, ratio_scale

__all__ = ["axis_name", "front_chart"]

_PLOT = Plot(height=460)
_NAMES = {
    "macs_ratio": "MACs, pruned / dense",
    "params_ratio": "parameters, pruned / dense",
    "latency_ms": "latency of a batch, ms",
}


def axis_name(name: str) -> str:
    """An objective as the name of an axis."""
    return _NAMES.get(name, name)


def front_chart(studies: Sequence[StudyFacts]) -> Markup:
    """Every trial with a result by cost and score; the fronts of one or two studies over them."""
    metric, cost = studies[0].metric, studies[0].cost
    x, y = _scales(studies)
    layers = [axes(_PLOT, x, y, x_label=axis_name(cost), y_label=f"{metric}, validation split")]
    kinds: set[str] = set()
    n_below = 0
    for index, study in enumerate(studies):
        others, below = _others(study, index, x, y)
        kinds |= {kind_of(study, trial) for trial in _placed(study)}
        n_below += below
        layers += [others, _uniform(study, index, x, y)]
    layers += [_front(study, index, x, y) for index, study in enumerate(studies)]
    layers += [_dense(study, x, y) for study in studies[:1]]
    title = "Front: " + " and ".join(study.name for study in studies)
    drawing = svg(
        layers, id_="front", size=(_PLOT.width, _PLOT.height), title=title, description=_description(studies),
        is_picked_from=True,
    )  # fmt: skip
    caption = (
        "Pick a point to see its widths, its history and the command that exports it. By keyboard: arrows left and "
        "right walk along the front, up and down through all points, Enter picks."
    )
    return figure(
        drawing, id_="front", title="Front", caption=caption, key=_legend(studies, kinds, n_below), data=_table(studies)
    )


def _placed(study: StudyFacts) -> list[TrialFacts]:
    """The trials that have both a score and a cost, the stopped ones as far as they came."""
    return [t for t in study.trials.values() if study.metric in t.values and study.cost in t.values]


def _scales(studies: Sequence[StudyFacts]) -> tuple[Scale, Scale]:
    placed = [(study, trial) for study in studies for trial in _placed(study)]
    costs = [trial.values[study.cost] for study, trial in placed] or [0.0, 1.0]
    x = ratio_scale(costs, *_PLOT.x)
    study = studies[0]
    best = [t.values[s.metric] for s in studies for t in s.members]
    shown = best + [s.dense_score for s in studies if s.dense_score is not None]
    shown += [
        t.tested.mean + side * (t.tested.sd or 0) for s in studies for t in s.members if t.tested for side in (-1, 1)
    ]
    # Trials that came out useless would press all others together: they stand on the lower edge.
    usual = [t.values[s.metric] for s, t in placed if t.is_complete]
    if usual:
        shown.append(quantile(usual, 0.1 if study.metric_is_maximised else 0.9))
    y = linear(shown or [0.0, 1.0], *_PLOT.y)
    return x, y if study.metric_is_maximised else y.flipped


def _is_below(study: StudyFacts, y: Scale, score: float) -> bool:
    return score < y.low if study.metric_is_maximised else score > y.high


def _others(study: StudyFacts, index: int, x: Scale, y: Scale) -> tuple[Markup, int]:
    marks, n_below = [], 0
    for trial in _placed(study):
        kind, score = kind_of(study, trial), trial.values[study.metric]
        if kind != "front":
            is_below = _is_below(study, y, score)
            n_below += is_below
            place = x(trial.values[study.cost]), y(score)
            marks.append(mark("below" if is_below else kind, *place, study=index, trial=reference(index, trial.number)))
    return tag("g", marks), n_below


def _uniform(study: StudyFacts, index: int, x: Scale, y: Scale) -> Markup:
    points = [
        (x(t.values[study.cost]), y(t.values[study.metric])) for t in map(study.trials.__getitem__, study.uniform_front)
    ]
    line = path(points, is_step=len(study.objectives) == 2, class_=f"uniform line s{index}") if len(points) > 1 else ""
    return tag("g", line, [mark("uniform", *point, study=index) for point in points], aria_hidden="true")


def _front(study: StudyFacts, index: int, x: Scale, y: Scale) -> Markup:
    points = [(x(t.values[study.cost]), y(t.values[study.metric])) for t in study.members]
    parts = []
    if len(points) > 1 and len(study.objectives) == 2:
        parts.append(path(points, is_step=True, class_=f"front line s{index}"))
    for trial, (left, top) in zip(study.members, points, strict=True):
        if trial.tested is not None:
            parts.append(_deviation(trial, left, y, index))
        label = spoken(study, trial)
        parts.append(mark("front", left, top, study=index, trial=reference(index, trial.number), label=label))
    return tag("g", parts)


def _deviation(trial: TrialFacts, x: float, y: Scale, index: int) -> Markup:
    """Mean and standard deviation on the test split, just right of the member's own mark."""
    assert trial.tested is not None
    sd, at = trial.tested.sd or 0.0, x + 9
    top, bottom = y(trial.tested.mean + sd), y(trial.tested.mean - sd)
    bar = f"M{at:.1f},{top:.1f}V{bottom:.1f}M{at - 3:.1f},{top:.1f}h6M{at - 3:.1f},{bottom:.1f}h6" if sd else ""
    mean = f"M{at - 5:.1f},{y(trial.tested.mean):.1f}h10"
    return tag("path", d=bar + mean, class_=f"deviation s{index}")


def _dense(study: StudyFacts, x: Scale, y: Scale) -> Markup:
    if study.dense_score is None:
        return Markup()
    height = y(study.dense_score)
    line = tag("path", d=f"M{_PLOT.x[0]:.1f},{height:.1f}H{_PLOT.x[1]:.1f}", class_="dense line")
    star = mark("dense", x(1.0), height) if study.cost.endswith("_ratio") and x.low <= 1 <= x.high else ""
    return tag("g", line, star, aria_hidden="true")


def _legend(studies: Sequence[StudyFacts], kinds: set[str], n_below: int) -> Markup:
    entries = []
    for index, study in enumerate(studies):
        name = f"front of {study.name}" if len(studies) > 1 else "front"
        line = path([(1, 8), (27, 8)], class_=f"front line s{index}")
        entries.append((Markup(line + mark("front", 14, 8, study=index)), f"{name}, {len(study.front)} networks"))
    for kind, words in (
        ("dominated", "dominated"), ("limited", "breaks a constraint"), ("stopped", "stopped early, as far as it came"),
    ):  # fmt: skip
        if kind in kinds:
            entries.append((mark(kind, 14, 8), words))
    if n_below:
        entries.append((mark("below", 14, 11), f"worse than the chart shows, {n_below}"))
    for index, study in enumerate(studies):
        if study.uniform_front:
            line = path([(1, 8), (27, 8)], class_=f"uniform line s{index}")
            name = f"uniform widths of {study.name}" if len(studies) > 1 else "uniform widths, the best of them"
            entries.append((Markup(line + mark("uniform", 14, 8, study=index)), name))
    if any(t.tested for s in studies for t in s.members):
        bar = tag("path", d="M14,1V15M11,1h6M11,15h6M9,8h10", class_="deviation s0")
        entries.append((bar, "test split: mean ± standard deviation over seeds"))
    if studies[0].dense_score is not None:
        line = path([(1, 8), (27, 8)], class_="dense line")
        entries.append((Markup(line + mark("dense", 14, 8)), "dense network"))
    return legend(*entries)


def _description(studies: Sequence[StudyFacts]) -> str:
    said = []
    for study in studies:
        if not study.front:
            said.append(f"{study.name} has no front yet.")
            continue
        first, last = study.members[0], study.members[-1]
        said.append(
            f"The front of {study.name} has {len(study.front)} networks, from {spoken(study, first)}, "
            f"to {spoken(study, last)}; {len(study.complete)} trials have a result."
        )
    return " ".join(said)


def _table(studies: Sequence[StudyFacts]) -> Markup:
    metric = studies[0].metric
    facts = [name for name in ("macs_ratio", "params_ratio", "latency_ms") if _has(studies, name)]
    tested = any(t.tested for s in studies for t in s.members)
    columns = [Column("study", is_number=False)] if len(studies) > 1 else []
    columns += [Column("trial"), Column(metric), *map(Column, facts)]
    columns += [
        Column(f"test {metric}"),
        Column("sd"),
        Column("seeds"),
        Column("like the next", is_number=False),
    ] * tested
    columns += [Column("method", is_number=False), Column("widths", is_number=False), Column("images, lineage")]
    rows = []
    for index, study in enumerate(studies):
        for trial in study.members:
            row: list[str | Markup] = [study.name] if len(studies) > 1 else []
            row += [trial_link(index, trial.number), study.score_text(trial.values.get(metric))]
            row += [number_text(trial.values.get(name)) for name in facts]
            if tested:
                row += _tested_cells(study, trial)
            row += [str(trial.searched.get("method", "–")), str(trial.searched.get("width_rule", "–"))]
            rows.append([*row, number_text(trial.lineage_images)])
    return table(columns, rows, caption="Members of the front, by rising cost")


def _tested_cells(study: StudyFacts, trial: TrialFacts) -> list[str]:
    tested = trial.tested
    if tested is None:
        return ["–"] * 4
    alike = {True: "can't be told apart", False: "differs", None: "–"}[tested.like_next]
    return [study.score_text(tested.mean), study.score_text(tested.sd), str(tested.n_seeds), alike]


def _has(studies: Sequence[StudyFacts], name: str) -> bool:
    return any(name in trial.values for study in studies for trial in study.members)
