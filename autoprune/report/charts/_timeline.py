"""What ran when: one bar a trial, one lane for what ran at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from autoprune.report.charts._marks import reference
from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.figure import Plot, figure, floor, legend, slug, svg, text
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import Scale

__all__ = ["timeline_chart"]

_LANE = 22.0
_LONGEST_PAUSE = 0.04  # of the busy time; what is longer is cut out


@dataclass(frozen=True)
class _Clock:
    """Time without the long pauses: pairs of when a busy stretch began, and what had been cut out before it."""

    stretches: tuple[tuple[float, float], ...]

    def __call__(self, moment: float) -> float:
        cut_out = 0.0
        for begin, cut in self.stretches:
            if moment >= begin:
                cut_out = cut
        return moment - cut_out


def timeline_chart(study: StudyFacts, index: int) -> Markup | None:
    """The lanes of each machine; None before anything has run."""
    ran = [trial for trial in study.trials.values() if trial.started_s is not None]
    if not ran:
        return None
    now = max(max(trial.ended_s or 0, trial.started_s or 0) for trial in ran)
    spans = [(trial, trial.started_s or 0.0, trial.ended_s if trial.ended_s is not None else now) for trial in ran]
    spans.sort(key=lambda span: (span[1], span[0].number))
    clock = _clock(spans)
    lanes, hosts = _lanes(spans)
    n_lanes = max(lanes.values()) + 1
    plot = Plot(height=34 + _LANE * n_lanes + 52, left=96, top=22)
    begin, end = clock(spans[0][1]), max(clock(last) for _, _, last in spans)
    x = Scale(0.0, max(end - begin, 1e-3), *plot.x)
    bars = [
        _bar(trial, (x(clock(first) - begin), x(clock(last) - begin)), 26 + _LANE * lanes[trial.number], index)
        for trial, first, last in spans
    ]
    pauses = [
        tag("path", d=f"M{x(clock(at) - begin):.1f},{plot.top:.1f}V{plot.y[0]:.1f}", class_="pause")
        for at, _ in clock.stretches[1:]
    ]
    unit, seconds = ("h", 3600.0) if x.high > 3 * 3600 else ("min", 60.0) if x.high > 180 else ("s", 1.0)
    ticks = [(x(tick * seconds), f"{tick:g}") for tick in Scale(0.0, x.high / seconds, *plot.x).ticks(8)]
    names = [text(plot.left - 10, 41 + _LANE * lane, host[:13], class_="name", anchor="end") for host, lane in hosts]
    busy = sum(last - first for _, first, last in spans)
    share = busy / (x.high * n_lanes)
    id_ = slug("timeline", index)
    drawing = svg(
        floor(plot, ticks, f"{unit} since the first trial began"), pauses, bars, names, id_=id_,
        size=(plot.width, plot.height), title=f"Timeline of {study.name}", is_picked_from=True,
        description=f"{len(spans)} trials on {n_lanes} lanes, which were busy for {share:.0%} of the time.",
    )  # fmt: skip
    cut = f" Pauses are cut out, at the dashed lines: {len(pauses)}." if pauses else ""
    caption = f"Trials that ran at once lie below each other; the lanes were busy for {share:.0%} of the time.{cut}"
    data = tag("p", "Data: ", tag("a", "table of all trials", href=f"#trials-{index}"), class_="quiet")
    return figure(drawing, id_=id_, title="Timeline", caption=caption, key=_key(study, index), data=data)


def _clock(spans: Sequence[tuple[TrialFacts, float, float]]) -> _Clock:
    stretches: list[list[float]] = []
    for _, first, last in spans:
        if stretches and first <= stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], last)
        else:
            stretches.append([first, last])
    busy = sum(last - first for first, last in stretches)
    most, cut = max(_LONGEST_PAUSE * busy, 1.0), 0.0
    kept = [(stretches[0][0], 0.0)]
    for (_, before), (first, _) in pairwise(stretches):
        if first - before > most:
            cut += first - before - most / 2
            kept.append((first, cut))
    return _Clock(tuple(kept))


def _lanes(spans: Sequence[tuple[TrialFacts, float, float]]) -> tuple[dict[int, int], list[tuple[str, int]]]:
    """The lane of each trial, and the first lane of each machine."""
    hosts = list(dict.fromkeys(trial.host or "" for trial, _, _ in spans))
    found: dict[int, int] = {}
    firsts: list[tuple[str, int]] = []
    base = 0
    for host in hosts:
        free: list[float] = []
        for trial, first, last in spans:
            if (trial.host or "") == host:
                lane = next((i for i, until in enumerate(free) if until <= first), len(free))
                free[lane : lane + 1] = [last]
                found[trial.number] = base + lane
        firsts.append((host or "unknown", base))
        base += len(free)
    return found, firsts


def _bar(trial: TrialFacts, ends: tuple[float, float], top: float, index: int) -> Markup:
    left, width = ends[0], max(1.5, ends[1] - ends[0] - 1)
    kind = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state, "running")
    side = f" s{index}" if index else ""
    thin = " thin" if width < 5 else ""
    outline = f"M{left:.1f},{top:.0f}h{width:.1f}v{_LANE - 4:.0f}h-{width:.1f}z"
    bar = tag("path", d=outline, class_=f"bar {kind}{thin}{side}", data_t=reference(index, trial.number))
    if width < 22:
        return bar
    return Markup(bar + text(left + width / 2, top + 13, str(trial.number), class_=f"bar-text {kind}", anchor="middle"))


def _key(study: StudyFacts, index: int) -> Markup:
    words = {"COMPLETE": ("complete", "complete"), "PRUNED": ("pruned", "stopped early"), "FAIL": ("failed", "failed"),
             "RUNNING": ("running", "running")}  # fmt: skip
    present = {trial.state for trial in study.trials.values() if trial.started_s is not None}
    return legend(
        *((tag("rect", x=2, y=2, width=24, height=12, rx=2, class_=f"bar {kind} s{index}"), said)
          for state, (kind, said) in words.items() if state in present)
    )  # fmt: skip
