"""What a report shows, read from the database once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version as version_of
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from autoprune.api._fronts import check_same_objectives
from autoprune.api._importances import importances
from autoprune.api._reading import Study, open_study, storage_url
from autoprune.config import AS_MANY_AS_FIT, COSTS, Range, StudyConfig, digest
from autoprune.cost import CostModel
from autoprune.errors import ConfigError
from autoprune.report import Axis, Group, Growth, StudyFacts, TestedScore, TrialFacts, page
from autoprune.search import pareto
from autoprune.search.front import EvaluationRows, corner_of
from autoprune.search.storage import Database
from autoprune.search.trials import Attr, StoredTrial, dense_score, lineage_of

__all__ = ["LiveReport", "optuna_storage", "report_page"]

_MEASURED = (*COSTS, "latency_ratio", "macs", "params")


def report_page(name: str, other: str | None = None, *, storage: str | None = None) -> str:
    """A study, or two of the same objectives side by side, as a whole HTML page that needs nothing beside it.

    Args:
        name: The study.
        other: Another study of the same database.
        storage: The database's URL.

    Raises:
        StorageError: The database or a study is not there.
        ConfigError: The two can't be compared.
    """
    return LiveReport(name, other, storage=storage).render()


def optuna_storage(storage: str | None = None) -> BaseStorage:
    """The database as Optuna's own tools take it.

    Raises:
        StorageError: It is not there.
    """
    return Database.open(storage_url(storage), create=False).storage


class LiveReport:
    """The page of a study that goes on: whether there is news is told without making it.

    Args:
        name: The study.
        other: Another study of the same database.
        storage: The database's URL.
    """

    def __init__(self, name: str, other: str | None = None, *, storage: str | None = None) -> None:
        self._names = [each for each in (name, other) if each is not None]
        self._storage = storage
        if len(set(self._names)) < len(self._names):
            raise ConfigError(f"two studies must be compared, but both are {name!r}. Name another one, or one alone.")
        self._studies = self._open()
        check_same_objectives(self._studies)

    def _open(self) -> list[Study]:
        return [open_study(name, self._storage) for name in self._names]

    def version(self) -> str:
        """A hash of all that the page depends on; costs milliseconds where nothing has changed."""
        seen: list[Any] = []
        for study in self._studies:
            trials = [(t.number, t.state.name, len(t.user_attrs)) for t in study.handle.trials()]
            scores = EvaluationRows(study.handle.db, study.handle.study_id).read()
            seen.append([trials, len(scores), sorted(study.handle.revisions())])
        return str(digest(seen))

    def render(self, version: str | None = None) -> str:
        """The page.

        Args:
            version: Given by a server, of which the page then asks for news.
        """
        # A study keeps the configuration that it was opened with, and there may be a newer one.
        facts = [_facts_of(study, self._storage) for study in self._open()]
        made = f"Made {datetime.now():%Y-%m-%d %H:%M} by autoprune {version_of('autoprune')}. 1 MAC = 2 FLOPs."
        return page(facts, made=made, version=version)


def _facts_of(study: Study, storage: str | None) -> StudyFacts:
    config, metric = study.config, study.metric
    stored = {trial.number: StoredTrial(trial) for trial in study.handle.trials()}
    members = study.front()
    tested = _tested(members, metric.name)
    limits = config.constraints.limits
    names = (metric.name, study.handle.objectives)
    trials = {n: _trial(trial, stored, names, limits, tested.get(n)) for n, trial in stored.items()}
    # Another tool may have stored an infinity, which has no place in a chart.
    complete = [
        t for t in trials.values() if t.is_complete and all(name in t.values for name in config.study.objectives)
    ]
    known = {trial.number for trial in complete}
    front = _distinct([number for number in members["number"].tolist() if number in known], trials)
    groups = _groups(study)
    uniform = _cut_uniformly([t for t in complete if t.keeps_limits], groups)
    n_wanted = config.study.n_trials
    return StudyFacts(
        name=study.name,
        about=_about(study, config, stored),
        metric=metric.name,
        metric_is_maximised=metric.is_maximised,
        metric_digits=4 if metric.is_maximised else None,
        objectives=config.study.objectives,
        cost=study.cost,
        reference_point=study.reference_point,
        limits=limits,
        n_wanted=None if n_wanted == AS_MANY_AS_FIT else n_wanted,
        trials=trials,
        front=tuple(front),
        uniform_front=tuple(_front_of(uniform, config)),
        dense_score=dense_score(stored.values(), metric.name),
        groups=groups,
        axes=_axes(config),
        growth=tuple(_growth([t for t in trials.values() if not t.is_complete or t.number in known], config)),
        importances=tuple(importances(complete, config.study.objectives)),
        devices=_device(config),
        storage=study.handle.db.url if storage is not None else None,
    )


def _tested(members: Any, metric: str) -> dict[int, TestedScore]:
    """Test scores of the front's members, by number."""
    if f"test_{metric}" not in members.columns:
        return {}
    found = {}
    for row in members.to_dict("records"):
        mean, sd = float(row[f"test_{metric}"]), float(row["test_sd"])
        if math.isfinite(mean):
            deviation = sd if math.isfinite(sd) else None
            found[int(row["number"])] = TestedScore(mean, deviation, int(row["test_seeds"]), row["like_next"])
    return found


def _trial(
    stored: StoredTrial,
    all_: Mapping[int, StoredTrial],
    names: tuple[str, Sequence[str]],
    limits: Mapping[str, float],
    tested: TestedScore | None,
) -> TrialFacts:
    frozen, attrs = stored.frozen, stored.attrs
    values = _values(stored, *names)
    is_complete = stored.state is TrialState.COMPLETE
    line = lineage_of(stored, all_) if is_complete else [stored]
    begin, end = frozen.datetime_start, frozen.datetime_complete
    return TrialFacts(
        number=stored.number,
        state=stored.state.name,
        values=values,
        searched=_searched(stored),
        keeps_limits=bool(pareto.within([[values.get(name, math.inf) for name in limits]], list(limits.values()))[0]),
        rungs=tuple(score for _, score in sorted(stored.rungs.items())),
        started_from=stored.started_from if is_complete else stored.parent,
        depth=stored.depth,
        images=stored.images,
        lineage_images=sum(each.images for each in line),
        started_s=None if begin is None else begin.timestamp(),
        ended_s=None if end is None else end.timestamp(),
        host=attrs.get("host"),
        seconds=_numbers(attrs.get(Attr.WALL_S)),
        reason=stored.reason or attrs.get(Attr.STOP_REASON),
        why=attrs.get(Attr.WHY),
        retry_of=stored.retry_of,
        taken_over_from=stored.taken_over_from,
        widths={name: int(width) for name, width in _numbers(attrs.get("widths")).items()},
        tested=tested,
    )


def _values(stored: StoredTrial, metric: str, objectives: Sequence[str]) -> dict[str, float]:
    """Score and costs by name, what is not a finite number left out."""
    if stored.state is TrialState.COMPLETE:
        told = {**stored.attrs, **dict(zip(objectives, stored.frozen.values or (), strict=False))}
    else:
        told = {**stored.attrs, **{name: stored.attrs.get(f"{Attr.PARTIAL}{name}") for name in objectives}}
    return _numbers({name: told.get(name) for name in (metric, *_MEASURED)})


def _numbers(given: Any) -> dict[str, float]:
    items = given.items() if isinstance(given, Mapping) else ()
    return {
        str(name): value
        for name, value in items
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _searched(stored: StoredTrial) -> dict[str, float | str | bool]:
    """What was proposed; hyper-parameters of one name are one, whichever method has them."""
    if Attr.POINT not in stored.attrs:  # Another tool has made it.
        return {
            str(name): value for name, value in stored.frozen.params.items() if isinstance(value, int | float | str)
        }
    point = stored.point
    found: dict[str, float | str | bool] = {"method": point.method, "width_rule": point.width_rule}
    found |= {"macs_target": point.macs_target, **point.hyper, **point.recipe}
    found |= {f"{point.width_rule}.{name}": value for name, value in point.multipliers.items()}
    return found | ({} if point.epochs is None else {"epochs": point.epochs})


def _axes(config: StudyConfig) -> dict[str, Axis]:
    """Ranges of the numbers that are searched, by the names of `_searched`."""
    ranges: dict[str, list[Range]] = {"macs_target": [config.space.macs_target]}
    for hyper in config.space.methods.values():
        for name, values in hyper.items():
            ranges.setdefault(name, []).append(values)
    for name, values in config.space.finetune.items():
        ranges.setdefault(name, []).append(values)
    found = {}
    for name, all_ in ranges.items():
        ends = [end for each in all_ for end in (each.values or (each.low, each.high)) if end is not None]
        if not any(isinstance(end, str | bool) for end in ends):
            numbers = [float(end) for end in ends]
            found[name] = Axis(min(numbers), max(numbers), all(each.scale == "log" for each in all_))
    return found


def _groups(study: Study) -> tuple[Group, ...]:
    stored = study.handle.config.get("cost")
    if stored is None:  # Of a study that was made without a network.
        return ()
    model = CostModel.from_dict(stored)
    stage_of = {name: stage for stage, names in model.stages.items() for name in names}
    return tuple(Group(name, width, stage_of[name]) for name, width in zip(model.groups, model.dense, strict=True))


def _cut_uniformly(trials: Sequence[TrialFacts], groups: Sequence[Group]) -> list[TrialFacts]:
    """Trials of the rule ``uniform``, without the dense network: nothing of it was cut, so it is no baseline."""
    dense = {group.name: group.width for group in groups}
    uniform = [trial for trial in trials if trial.searched.get("width_rule") == "uniform"]
    return [trial for trial in uniform if not (dense and trial.widths == dense)]


def _distinct(front: Sequence[int], trials: Mapping[int, TrialFacts]) -> list[int]:
    """The front without trials that only took over the result of another member."""
    members = set(front)
    return [number for number in front if trials[number].taken_over_from not in members]


def _points(trials: Sequence[TrialFacts], config: StudyConfig) -> list[list[float]]:
    """The objectives as losses."""
    signs = [-1.0 if way == "maximize" else 1.0 for way in config.study.directions]
    names = config.study.objectives
    return [[sign * t.values[name] for name, sign in zip(names, signs, strict=True)] for t in trials]


def _front_of(trials: Sequence[TrialFacts], config: StudyConfig) -> list[int]:
    if not trials:
        return []
    cost = config.study.cost
    mask = pareto.front_mask(_points(trials, config))
    members = [trial for trial, is_on in zip(trials, mask, strict=True) if is_on]
    by_value = {tuple(point): t for t, point in reversed(list(zip(members, _points(members, config), strict=True)))}
    return [trial.number for trial in sorted(by_value.values(), key=lambda t: (t.values[cost], t.number))]


def _growth(trials: Iterable[TrialFacts], config: StudyConfig) -> list[Growth]:
    """The hypervolume whenever a trial has ended, and what the study had cost by then."""
    search = config.study
    if not search.has_hypervolume:
        return []
    maximised = [way == "maximize" for way in search.directions]
    worst = corner_of(search.objectives, search.directions, reference_point=search.reference_point).tolist()
    ended = sorted((t for t in trials if t.ended_s is not None), key=lambda t: (t.ended_s, t.number))
    spent = _device_seconds(ended)
    front: list[list[float]] = []
    grown, volume = [], 0.0
    for trial in ended:
        if not (trial.is_complete and trial.keeps_limits):
            continue
        values = [trial.values[name] for name in search.objectives]
        point = [1 - value if is_max else value for value, is_max in zip(values, maximised, strict=True)]
        now = pareto.hypervolume([*front, point], worst) / math.prod(worst)
        if now > volume:
            front = [each for each in front if any(a < b for a, b in zip(each, point, strict=True))] + [point]
            volume = now
        grown.append(Growth(trial.number, spent[trial.number], volume))
    return grown


def _device_seconds(ended: Sequence[TrialFacts]) -> dict[int, float]:
    """By trial, what all trials together had worked when it ended."""
    moments = [(trial.ended_s or 0.0, -1, trial.number) for trial in ended if trial.started_s is not None]
    moments += [(trial.started_s, 1, trial.number) for trial in ended if trial.started_s is not None]
    found = {trial.number: 0.0 for trial in ended}
    spent, at_work, before = 0.0, 0, 0.0
    for moment, change, number in sorted(moments):
        spent += at_work * (moment - before)
        at_work, before = at_work + change, moment
        if change < 0:
            found[number] = spent
    return found


def _device(config: StudyConfig) -> str:
    resources = config.resources
    if resources.gpu:
        return f"{resources.gpu:g} GPU"
    return f"{resources.cpu:g} CPU{'' if resources.cpu == 1 else 's'}"


def _about(study: Study, config: StudyConfig, stored: Mapping[int, StoredTrial]) -> tuple[tuple[str, str], ...]:
    search, setting = config.study, config.setting
    point = ", ".join(f"{name} {value:g}" for name, value in study.reference_point.items())
    goals = [f"{name} ({way})" for name, way in zip(search.objectives, search.directions, strict=True)]
    hosts = sorted({str(t.attrs["host"]) for t in stored.values() if t.attrs.get("host")})
    recipe = setting.finetune
    tuned = f"{recipe.epochs:g} epochs at most, batch {recipe.batch}, {recipe.optimizer} at {recipe.learning_rate:g}"
    taught = f", distilled from the dense network with weight {recipe.distill.weight:g}" if recipe.distill else ""
    convention = study.handle.identity.get("cost convention", "unknown")
    data = setting.data
    found = {
        "Network": str(study.handle.identity.get("network", setting.network.architecture or setting.network.factory)),
        "Data": f"{data.name or data.source}, validation {data.validation}" if data else str(setting.task.factory),
        "Objectives": ", ".join(goals),
        "Constraints": ", ".join(f"{name} ≤ {most:g}" for name, most in config.constraints.limits.items()),
        "Reference point": point,
        "Search space": f"{config.space.name}: {', '.join(config.space.methods)}",
        "Width rules": ", ".join(config.space.width_rules),
        "Sampler": f"{search.sampler}, seed {search.seed}{', trials inherit' if search.inherit else ''}",
        "Fine-tuning": f"{tuned}{taught}",
        "Precision": setting.precision,
        "Cost convention": f"{convention}: multiply-accumulates of convolutions and linear layers for one input",
        "Machines": ", ".join(hosts),
        "Revision": str(study.handle.revision),
    }  # fmt: skip
    return tuple((term, words) for term, words in found.items() if words)
