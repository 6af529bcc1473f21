"""Two studies of the same objectives, side by side."""

from __future__ import annotations

from autoprune.config import duration_text
from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.figure import Column, table
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import number_text

__all__ = ["comparison"]

_TERMS = ("hypervolume", "networks on the front", "trials with a result", "device time")
_COSTS = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)


def comparison(one: StudyFacts, other: StudyFacts) -> Markup:
    """A sentence and a table: the best score under each cost, hypervolume, who dominates whom."""
    costs = _COSTS if one.cost.endswith("_ratio") else ()
    rows = [row for cost in costs if (row := _best_row(one, other, cost)) is not None]
    rows += [[*cells, ""] for cells in zip(_TERMS, _came_to(one), _came_to(other), strict=True)]
    columns = [Column("", is_number=False), Column(one.name), Column(other.name), Column("difference")]
    caption = "Best score of a network of no more cost, and what the searches came to"
    return tag(
        "section",
        tag("h2", "Side by side"),
        tag("p", _sentence(one, other)),
        table(columns, rows, caption=caption),
        id="comparison",
    )


def _came_to(study: StudyFacts) -> list[str]:
    """What a search came to, in the order of `_TERMS`."""
    last = study.growth[-1] if study.growth else None
    counts = [str(len(study.front)), str(len(study.complete))]
    return [f"{last.hypervolume:.4f}" if last else "–", *counts, duration_text(last.device_s if last else None)]


def _best(study: StudyFacts, cost: float) -> float | None:
    scores = [t.values[study.metric] for t in study.members if t.values[study.cost] <= cost * (1 + 1e-9)]
    if not scores:
        return None
    return max(scores) if study.metric_is_maximised else min(scores)


def _best_row(one: StudyFacts, other: StudyFacts, cost: float) -> list[str] | None:
    here, there = _best(one, cost), _best(other, cost)
    if here is None and there is None:
        return None
    differ = "" if here is None or there is None else f"{there - here:+.4f}"
    return [f"{one.metric} at {one.cost} ≤ {cost:g}", one.score_text(here), other.score_text(there), differ]


def _sentence(one: StudyFacts, other: StudyFacts) -> str:
    beaten, lost = _dominated(other, one), _dominated(one, other)
    same = "" if one.reference_point == other.reference_point else (
        " Their reference points differ, so their hypervolumes can't be compared."
    )  # fmt: skip
    return (
        f"{number_text(beaten)} of the {len(other.front)} networks on the front of {other.name} are dominated by one "
        f"of {one.name}, and {number_text(lost)} of {len(one.front)} the other way round.{same}"
    )


def _dominated(study: StudyFacts, by: StudyFacts) -> int:
    return sum(any(_dominates(by, rival, trial) for rival in by.members) for trial in study.members)


def _dominates(study: StudyFacts, rival: TrialFacts, trial: TrialFacts) -> bool:
    pairs = [(rival.values[name], trial.values[name]) for name in study.objectives]
    signs = [-1 if name == study.metric and study.metric_is_maximised else 1 for name in study.objectives]
    no_worse = all(sign * a <= sign * b for (a, b), sign in zip(pairs, signs, strict=True))
    return no_worse and any(a != b for a, b in pairs)
