"""Marks that stand for trials: a shape for each kind, so that none is told by its colour alone."""

from __future__ import annotations

from typing import Any

from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.markup import Markup, tag

__all__ = ["crowd", "kind_of", "mark", "reference", "spoken", "trial_link"]


def reference(study: int, number: int) -> str:
    """How the script knows a trial: the study's place on the page, and the trial's number."""
    return f"{study}.{number}"


def kind_of(study: StudyFacts, trial: TrialFacts) -> str:
    """What a trial is: ``front``, ``dominated``, ``limited`` (it breaks a constraint) or ``stopped``."""
    if not trial.is_complete:
        return "stopped"
    if not trial.keeps_limits:
        return "limited"
    return "front" if trial.number in study.front else "dominated"


def mark(
    kind: str, x: float, y: float, *, study: int = 0, trial: str | None = None, label: str | None = None
) -> Markup:
    """One mark.

    Args:
        kind: As of `kind_of`, or ``uniform``, ``dense``, ``below``.
        x: Its middle.
        y: The same.
        study: Place of the study on the page; the front of the second one has diamonds.
        trial: Its `reference`, where it can be picked.
        label: What a screen reader says; a mark that has one can be reached by keyboard.
    """
    side = f" s{study}" if study or kind == "front" else ""
    known: dict[str, Any] = {
        "data_t": trial,
        "aria_label": label,
        "role": "button" if label else None,
        "tabindex": -1 if label else None,
    }
    if kind == "dominated" or (kind == "front" and study == 0):
        radius = 5.5 if kind == "front" else 3.2
        return tag("circle", cx=float(x), cy=float(y), r=radius, class_=f"{kind}{side}", **known)
    lines = {
        "front": f"M{x:.1f},{y - 7:.1f}l7,7l-7,7l-7,-7z",
        "limited": f"M{x - 3.5:.1f},{y - 3.5:.1f}l7,7m0,-7l-7,7",
        "stopped": f"M{x - 3.5:.1f},{y - 2.5:.1f}h7l-3.5,6z",
        "below": f"M{x - 3:.1f},{y - 5:.1f}h6l-3,5z",
        "uniform": f"M{x - 5:.1f},{y - 5:.1f}h10v10h-10z",
        "dense": f"M{x:.1f},{y - 7.5:.1f}l2.2,5l5.4,.5l-4.1,3.6l1.3,5.3l-4.8,-2.9l-4.8,2.9l1.3,-5.3l-4.1,-3.6l5.4,-.5z",
    }
    return tag("path", d=lines[kind], class_=f"{kind}{side}", **known)


def spoken(study: StudyFacts, trial: TrialFacts) -> str:
    """A trial in a line, for whoever hears it."""
    score = study.score_text(trial.values.get(study.metric))
    cost = trial.values.get(study.cost)
    return f"trial {trial.number}: {study.metric} {score}, {study.cost} {'unknown' if cost is None else f'{cost:.4g}'}"


def trial_link(index: int, number: int) -> Markup:
    """A trial's number, which picks it."""
    return tag("a", str(number), href=f"#t{reference(index, number)}")


def crowd(n_lines: int) -> str:
    """The class of a bundle of lines: the more there are, the fainter each is drawn."""
    return "curves" if n_lines <= 80 else "curves many" if n_lines <= 400 else "curves many most"
