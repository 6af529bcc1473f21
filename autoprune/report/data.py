"""What the page's script knows of each trial: JSON that no text of a database can break out of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from autoprune.report.charts import axis_name
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
    return {
        "name": visible(study.name),
        "quoted": shlex.quote(study.name),
        "storage": storage,
        "metric": study.metric,
        "digits": study.metric_digits,
        "cost": study.cost,
        "axes": {name: axis_name(name) for name in ("macs_ratio", "params_ratio", "latency_ms")},
        "groups": [[visible(group.name), group.width] for group in study.groups],
        "front": list(study.front),
        "trials": [_trial(study, trial) for trial in study.trials.values()],
    }


def _trial(study: StudyFacts, trial: TrialFacts) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "n": trial.number,
        "s": trial.state,
        "v": {name: _short(value) for name, value in trial.values.items()},
        "p": {name: _short(value) for name, value in trial.searched.items()},
        "l": study.lineage(trial.number) if trial.is_complete and trial.started_from is not None else None,
        "r": [_short(score) for score in trial.rungs] if len(trial.rungs) > 1 else None,
        "i": trial.images,
        "li": trial.lineage_images if trial.lineage_images != trial.images else None,
        "t": {phase: round(seconds, 1) for phase, seconds in trial.seconds.items()},
        "h": _cut(trial.host),
        "x": _cut(trial.reason),
        "y": _cut(trial.why),
        "o": trial.taken_over_from,
        "a": trial.retry_of,
        "b": None if trial.keeps_limits else 1,
        "w": [trial.widths.get(g.name, g.width) for g in study.groups] if trial.widths else None,
    }
    if trial.tested is not None:
        tested = trial.tested
        facts["e"] = [
            _short(tested.mean),
            None if tested.sd is None else _short(tested.sd),
            tested.n_seeds,
            tested.like_next,
        ]
    return {key: value for key, value in facts.items() if value not in (None, {}, [], 0) or key == "n"}


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    return visible(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …")


def _short(value: float | str | bool) -> float | str | bool:
    """A number with six digits that count: a page of thousands of trials holds many."""
    if isinstance(value, str):
        return visible(value)
    return float(f"{value:.6g}") if isinstance(value, float) else value
