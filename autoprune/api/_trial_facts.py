"""Everything known about one trial, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autoprune.config import Metric, ResourcesConfig, read
from autoprune.cost import CostModel
from autoprune.errors import ConfigError
from autoprune.search.front import TestScore, latest, summary
from autoprune.search.storage import StudyHandle
from autoprune.search.trials import StoredTrial, lineage_of, retries

__all__ = ["facts_of"]


def facts_of(handle: StudyHandle, number: int, *, metric: Metric, scores: Sequence[TestScore]) -> dict[str, Any]:
    """Everything known about one trial, by name; what is not known has no name.

    Beside what is stored: ``started``, ``ended`` and ``duration_s``; ``tried again as``; ``lineage``, a line for each
    network that it came through, and ``lineage_images``; ``test_...``, its scores on the test split; ``device_hours``
    and ``device``; ``dense_widths``, ``dense_macs`` and ``dense_params``; ``has_network``, whether its file is there.

    Args:
        handle: The study.
        number: The trial.
        metric: What the study's trials are scored by.
        scores: On the test split, of all trials.

    Raises:
        ConfigError: The study has no trial of this number.
    """
    trials = _Read(handle)
    try:
        trial = trials[number]
    except KeyError:
        counts = handle.counts()
        last = counts.taken + counts.failed - 1
        known = "it has no trials yet" if last < 0 else f"it has trials 0 to {last}"
        raise ConfigError(f"study {handle.name!r} has no trial {number}; {known}.") from None
    found = trial.frozen
    values = dict(zip(handle.objectives, found.values or (), strict=False))
    retried = retries(handle).get(number)
    facts = {"trial": number, "state": found.state.name, **values, **found.params, **found.user_attrs}
    facts |= _times(found) | ({"tried again as": retried} if retried else {})
    facts |= _drawn(trial, trials, metric)
    facts |= _tested(trial.computed_by, metric, scores)
    return facts | _device_hours(found, handle) | _dense(handle) | _network(trial)


class _Read(dict[int, StoredTrial]):
    """Trials of a study by number, each read when it is asked for: a lineage has few of thousands."""

    def __init__(self, handle: StudyHandle) -> None:
        super().__init__()
        self._handle = handle

    def __missing__(self, number: int) -> StoredTrial:
        found = self._handle.some_trials(numbers=[number])
        if not found:
            raise KeyError(number)
        self[number] = StoredTrial(found[0])
        return self[number]


def _times(trial: FrozenTrial) -> dict[str, Any]:
    """Dates by the clock of the machine that wrote them, and how long it took."""
    start, end = trial.datetime_start, trial.datetime_complete
    moments = {"started": start, "ended": end}
    told: dict[str, Any] = {key: f"{value:%Y-%m-%d %H:%M:%S}" for key, value in moments.items() if value is not None}
    if start is not None and end is not None:
        told["duration_s"] = (end - start).total_seconds()
    return told


def _tested(number: int, metric: Metric, scores: Sequence[TestScore]) -> dict[str, Any]:
    by_seed = latest(scores).get(number)
    if by_seed is None:
        return {}
    found = summary(by_seed.values())
    tested = {f"test_{metric.name}": found.mean, "test_sd": found.sd if found.n_seeds > 1 else None}
    return {**tested, "test_seeds": found.n_seeds, "test_scores": {str(seed): by_seed[seed] for seed in by_seed}}


def _device_hours(trial: FrozenTrial, handle: StudyHandle) -> dict[str, Any]:
    """Hours on the devices that it held: of its phases where it told of them, else from its start to its end."""
    stored, seconds = StoredTrial(trial), _times(trial).get("duration_s")
    phases = stored.attrs.get("wall_s")
    revision = handle.revisions().get(stored.revision or handle.revision, {})
    if phases:
        seconds = sum(phases.values())
    if seconds is None or stored.taken_over_from is not None or "config" not in revision:
        return {}
    held = read(ResourcesConfig, revision["config"].get("resources", {}), where="[stored configuration]")
    share, device = (held.gpu, "GPU") if held.gpu else (held.cpu, "CPU")
    return {"device_hours": seconds * share / 3600, "device": device}


def _dense(handle: StudyHandle) -> dict[str, Any]:
    if "cost" not in handle.config:
        return {}
    cost = CostModel.from_dict(handle.config["cost"])
    widths = dict(zip(cost.groups, cost.dense, strict=True))
    return {"dense_widths": widths, "dense_macs": cost.dense_macs, "dense_params": cost.dense_params}


def _network(trial: StoredTrial) -> dict[str, Any]:
    return {} if trial.weights is None else {"has_network": Path(trial.weights).is_file()}


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
