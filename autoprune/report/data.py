"""What the page's script knows of each trial: JSON that no text of a database can break out of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.report.facts import StudyFacts, TrialFacts
from autoprune.report.markup import Markup, tag, visible

__all__ = ["data_script"]

_LONGEST_TEXT = 600


def data_script(studies: Sequence[StudyFacts]) -> Markup:
    """All studies as an element that is read, never run."""
    text = json.dumps([_study(study) for study in studies], separators=(",", ":"), allow_nan=False)
    # Inside a script element only these can end it, or begin a comment.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Markup(text), type="application/json", id="facts")


def _study(study: StudyFacts) -> dict[str, Any]:
    storage = f" --storage {shlex.quote(study.storage)}" if study.storage else ""
    trials = list(study.trials.values())
    keys = [
        _keys(each) for each in ([t.values for t in trials], [t.searched for t in trials], [t.seconds for t in trials])
    ]
    return {
        "name": visible(study.name),
        "quoted": shlex.quote(study.name),
        "storage": storage,
        "metric": study.metric,
        "digits": study.metric_digits,
        "cost": study.cost,
        "groups": [[visible(group.name), group.width] for group in study.groups],
        "front": list(study.front),
        "keys": [[visible(name) for name in names] for names in keys],
        "trials": [_trial(study, trial, keys) for trial in trials],
    }


def _keys(all_: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that trials have values by: they stand once in the page, and not with each of thousands of trials."""
    return list(dict.fromkeys(name for each in all_ for name in each))


def _row(facts: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    row = [_short(facts[name]) if name in facts else None for name in names]
    while row and row[-1] is None:
        row.pop()
    return row


def _trial(study: StudyFacts, trial: TrialFacts, keys: Sequence[Sequence[str]]) -> dict[str, Any]:
    values, searched, seconds = keys
    facts: dict[str, Any] = {
        "n": trial.number,
        "s": trial.state,
        "v": _row(trial.values, values),
        "p": _row(trial.searched, searched),
        "l": study.lineage(trial.number) if trial.is_complete and trial.started_from is not None else None,
        "r": [_short(score) for score in trial.rungs] if len(trial.rungs) > 1 else None,
        "i": trial.images,
        "li": trial.lineage_images if trial.lineage_images != trial.images else None,
        "t": _row({phase: round(each, 1) for phase, each in trial.seconds.items()}, seconds),
        "h": _cut(trial.host),
        "x": _cut(trial.reason),
        "y": _cut(trial.why),
        "o": trial.taken_over_from,
        "a": trial.retry_of,
        "b": None if trial.keeps_limits else 1,
        "w": [trial.widths.get(g.name, g.width) for g in study.groups] if trial.widths else None,
    }
    if trial.tested is not None:
        sd = trial.tested.sd
        facts["e"] = [_short(trial.tested.mean), None if sd is None else _short(sd), trial.tested.n_seeds]
    # A number may be 0: of the trial, of the one that it tried again or took over.
    return {key: value for key, value in facts.items() if value not in (None, []) and (value or key in "noa")}


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    return visible(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …")


def _short(value: float | str | bool) -> float | str | bool:
    """A number with six digits that count: a page of thousands of trials holds many."""
    if isinstance(value, str):
        return visible(value)
    return float(f"{value:.6g}") if isinstance(value, float) else value
