"""Everything known about one trial, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from autoprune.config import Metric
from autoprune.errors import ConfigError
from autoprune.search.front import TestScore, latest, summary
from autoprune.search.storage import StudyHandle
from autoprune.search.trials import StoredTrial, lineage_of

__all__ = ["facts_of"]


def facts_of(handle: StudyHandle, number: int, *, metric: Metric, scores: Sequence[TestScore]) -> dict[str, Any]:
    """Everything known about one trial, by name.

    Args:
        handle: The study.
        number: The trial.
        metric: What the study's trials are scored by.
        scores: On the test split, of all trials.

    Raises:
        ConfigError: The study has no trial of this number.
    """
    trials = handle.trials()
    found = next((trial for trial in trials if trial.number == number), None)
    if found is None:
        last = max((trial.number for trial in trials), default=None)
        known = "it has no trials yet" if last is None else f"it has trials 0 to {last}"
        raise ConfigError(f"study {handle.name!r} has no trial {number}; {known}.")
    values = dict(zip(handle.objectives, found.values or (), strict=False))
    retried = [trial.number for trial in trials if StoredTrial(trial).retry_of == number]
    facts = {"trial": number, "state": found.state.name, **values, **found.params, **found.user_attrs}
    times = {"started": found.datetime_start, "ended": found.datetime_complete}
    moments = {key: f"{value:%Y-%m-%d %H:%M:%S}" for key, value in times.items() if value is not None}
    facts |= moments | ({"tried again as": retried} if retried else {})
    facts |= _drawn(StoredTrial(found), {trial.number: StoredTrial(trial) for trial in trials}, metric)
    return facts | _tested(StoredTrial(found).computed_by, metric, scores)


def _tested(number: int, metric: Metric, scores: Sequence[TestScore]) -> dict[str, Any]:
    by_seed = latest(scores).get(number)
    if by_seed is None:
        return {}
    found = summary(by_seed.values())
    tested = {f"test_{metric.name}": found.mean, "test_sd": found.sd if found.n_seeds > 1 else None}
    return {**tested, "test_seeds": found.n_seeds, "test_scores": {str(seed): by_seed[seed] for seed in by_seed}}


def _drawn(trial: StoredTrial, trials: Mapping[int, StoredTrial], metric: Metric) -> dict[str, Any]:
    """The lineage of a trial with a result, from the dense network to it, a line each; empty where it has none."""
    if trial.state is not TrialState.COMPLETE:
        return {}
    line = lineage_of(trial, trials)
    if len(line) < 2:
        return {}
    scores = [f"{metric.name} {metric.text(each.attrs[metric.name])}" for each in line]
    told = [f"{each.attrs['macs_ratio']:.3f} of the MACs, {text}" for each, text in zip(line, scores, strict=True)]
    steps = [f"{'  ' * i}-> trial {each.number}: {text}" for i, (each, text) in enumerate(zip(line, told, strict=True))]
    images = sum(each.images for each in line)
    return {"lineage": "\n".join(["the dense network", *steps]), "lineage_images": images}
