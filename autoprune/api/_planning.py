"""Looking before the launch: the traced network, the first proposals, the identity."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import methods
from autoprune.api._kept import kept_at
from autoprune.api._reading import Study, storage_url
from autoprune.config import (
    AS_MANY_AS_FIT,
    LoggersConfig,
    Range,
    ResourcesConfig,
    SearchConfig,
    SettingSpec,
    SpaceConfig,
    StudyConfig,
    load_setting,
    names_its_trials,
    read,
    resolved,
)
from autoprune.config import load_study as read_study
from autoprune.distributed import require_loggers
from autoprune.engine.contracts import Method
from autoprune.engine.training import require_trained
from autoprune.errors import ConfigError, NetworkError
from autoprune.importing import told
from autoprune.pipeline import Workbench, notes_on, open_workbench
from autoprune.search.proposals import Budget, Planner, RecipeSearch, Space, opening, sampler_named
from autoprune.search.storage import Database, StudyHandle
from autoprune.widths import rule_named

__all__ = [
    "ExistingStudy",
    "GroupRow",
    "Inspection",
    "Plan",
    "identity_of",
    "inspect",
    "load_config",
    "load_study",
    "plan",
    "planner_of",
    "recipe_search_of",
    "space_of",
]

_log = logging.getLogger(__name__)

_TO_BE_MEASURED = "what trains fastest, measured for seconds by the launch that makes the study, which keeps it"
_PLAIN = ("magnitude", "damage")  # One of them opens a study where they are there: known to be good, and quick.
_N_RUNGS = 9  # Of the opening where trials inherit; more and shorter ones were behind.


def load_study(path: Path | str) -> StudyConfig:
    """Read a study file, to be launched as it is or with parts of it replaced.

    Raises:
        ConfigError: Something in the file does not hold; file and key are named.
    """
    return read_study(Path(path), methods.catalogue())


def load_config(
    source: Path | str | StudyConfig,
    *,
    name: str | None = None,
    seed: int | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    loggers: Sequence[str] | None = None,
) -> StudyConfig:
    """A study's configuration, held against the methods there are; arguments go over it.

    Args:
        source: A study file, or a configuration.
        name: Of the study.
        seed: Of the study.
        n_trials: Number of trials.
        time_limit_s: Of the launch; it alone ends the study where nothing says how many trials.
        concurrency: Trials at once.
        loggers: Experiment trackers to tell of trials.

    Raises:
        ConfigError: Something of it does not hold.
    """
    if isinstance(source, StudyConfig):
        config, where = resolved(source, folder=Path.cwd()), ""
    else:
        config, where = load_study(source), f"{source}: "
        if n_trials is None and time_limit_s is not None and not names_its_trials(Path(source)):
            n_trials = AS_MANY_AS_FIT
    sampler_named(config.study.sampler)
    for rule in config.space.width_rules:
        rule_named(rule)
    for method, ranges in config.space.methods.items():
        for key, values in ranges.items():
            for value in values.grid or _samples(values):
                try:
                    methods.build(method, {key: value})
                except ConfigError as error:
                    advice = " Give `step = 1`, or a list `values`." if "a whole number" in str(error) else ""
                    raise ConfigError(f"{where}space {config.space.name!r}: {error}{advice}") from None
    return overridden(config, name=name, seed=seed, n_trials=n_trials, concurrency=concurrency, loggers=loggers)


def _samples(values: Range) -> tuple[float, ...]:
    """Both ends of a continuous range, and a number between them that is as good as never whole."""
    assert values.low is not None
    assert values.high is not None
    return values.low, values.high, values.low + (values.high - values.low) / math.pi


@dataclass(frozen=True)
class GroupRow:
    """One channel group: its name, dense width, and the share of the dense MACs in layers that it takes part in."""

    name: str
    width: int
    layers: int
    macs_share: float


@dataclass(frozen=True)
class Inspection:
    """What tracing a study's network found.

    Args:
        network: Its name.
        inputs: Shapes of what it is shown, for people.
        macs: Dense MACs. flops = 2 * macs.
        params: Dense parameters.
        peak_activation_bytes: The most that tensors take at once in a pass of one input, floats as float32.
        groups: Prunable channel groups.
        refused: What can't be pruned, why, and what to do about it.
        least_macs_ratio: MACs ratio at the minimum widths.
        computed_in: Precision and layout, for people.
        notes: What is in the way of a study without stopping it.
    """

    network: str
    inputs: str
    macs: int
    params: int
    peak_activation_bytes: int
    groups: tuple[GroupRow, ...]
    refused: tuple[str, ...]
    least_macs_ratio: float
    computed_in: str
    notes: tuple[str, ...] = ()


def inspection_of(workbench: Workbench, setting: SettingSpec) -> Inspection:
    cost, network = workbench.traced.cost, workbench.setting.network
    dense, rows = dict(zip(cost.groups, cost.dense, strict=True)), []
    for group in workbench.traced.groups:
        # What the layers that touch the group cost: MACs are linear in one width, so one channel tells the slope.
        fewer = cost.macs({**dense, group.name: group.width - 1})
        share = (cost.dense_macs - fewer) * group.width / cost.dense_macs
        layers = len({member.module for member in group.members})
        rows.append(GroupRow(group.name, group.width, layers, share))
    return Inspection(
        network=str(network.architecture or told(network.factory)),
        inputs=workbench.work.described,
        macs=cost.dense_macs,
        params=cost.dense_params,
        peak_activation_bytes=cost.dense_peak_activation_bytes,
        groups=tuple(rows),
        refused=tuple(str(refusal) for refusal in workbench.traced.refused),
        least_macs_ratio=cost.macs_ratio(workbench.limits().min_widths),
        computed_in=_TO_BE_MEASURED if setting.is_measured else str(setting.numerics),
        notes=notes_on(workbench.network),
    )


def inspect(path: Path | str) -> Inspection:
    """Trace a study file's network: its channel groups, what they cost, what is refused and why.

    The file's search space is not looked at, and may be missing.
    """
    setting = load_setting(Path(path))
    return inspection_of(open_workbench(setting), setting)


@dataclass(frozen=True)
class Plan:
    """What a launch would do.

    Args:
        config: The resolved configuration, its space without the methods that can't prune the network.
        inspection: The traced network.
        opening: The first proposals of a new study, in order.
        identity: What may never change within the study.
        joins: The study of that name in the database, which the launch would join, or None.
    """

    config: StudyConfig
    inspection: Inspection
    opening: tuple[dict[str, Any], ...]
    identity: Mapping[str, Any]
    joins: ExistingStudy | None


@dataclass(frozen=True)
class ExistingStudy:
    """A stored study that a launch would join.

    Args:
        url: The database.
        n_finished: Trials that have finished.
        revision: The newest revision.
        changed: Tables of the configuration that the launch would change, in a new revision.
    """

    url: str
    n_finished: int
    revision: int
    changed: tuple[str, ...]


def overridden(
    config: StudyConfig,
    *,
    name: str | None = None,
    seed: int | None = None,
    n_trials: int | None = None,
    concurrency: int | None = None,
    loggers: Sequence[str] | None = None,
) -> StudyConfig:
    """The configuration with what the arguments name replaced.

    Raises:
        ConfigError: An argument of another type, or out of range.
    """
    # Read anew rather than replaced, because an argument may be anything, unlike what has been read before.
    given = {"name": name, "seed": seed, "n_trials": n_trials}
    changes = {key: value for key, value in given.items() if value is not None}
    if changes:
        study = read(SearchConfig, {**vars(config.study), **changes}, where="arguments")
        setting = dataclasses.replace(config.setting, seed=study.seed)
        config = dataclasses.replace(config, study=study, setting=setting)
    if concurrency is not None:
        table = {**vars(config.resources), "concurrency": concurrency}
        config = dataclasses.replace(config, resources=read(ResourcesConfig, table, where="arguments"))
    if loggers is not None:
        table = {**vars(config.loggers), "use": loggers}
        config = dataclasses.replace(config, loggers=read(LoggersConfig, table, where="arguments"))
    return config


def space_of(config: StudyConfig, workbench: Workbench) -> Space:
    """The search space over the traced network.

    Raises:
        ConfigError: No MACs target of the space can be reached.
        InfeasibleError: Not even the minimum widths keep the constraints.
        NetworkError: Nothing of the network can be pruned, or not by a method of the space; or nothing of it trains.
    """
    if config.setting.finetune.epochs > 0:
        require_trained(workbench.network)
    fitting = _fitting(config.space, workbench)
    space = Space(
        fitting,
        workbench.traced.cost,
        widths=workbench.limits(),
        constraints=config.constraints,
    )
    highest = fitting.macs_target.high or max(float(v) for v in fitting.macs_target.values or (1.0,))
    if highest < space.least_macs_ratio:
        raise ConfigError(
            f"`macs_target` must reach {space.least_macs_ratio:.4f}, the MACs ratio of the minimum widths, "
            f"but ends at {highest}. Raise it, lower `min_width`, or exclude fewer layers."
        )
    return space


def planner_of(config: StudyConfig, space: Space, workbench: Workbench) -> Planner | None:
    """What decides parents, targets and lengths of a study in which trials inherit.

    None where they don't: where the study says so, or none of its methods can rank a network as it is.
    """
    search, setting = config.study, config.setting
    ranking = [name for name in space.config.methods if not methods.method_named(name).trains]
    if not search.inherit or not ranking:
        return None
    n_images, epochs = workbench.work.n_examples, setting.finetune.epochs
    budget = Budget(n_images, epochs, search.least_epochs, phase_epochs=setting.sparsify.epochs)
    metric = search.score_metric
    worst = metric.error(metric.worst), search.reference_point.get("macs_ratio", 1.0)
    n_rungs = min(_N_RUNGS, max(2, search.n_trials // 3 - 1))  # With the dense network at most a third of the trials.
    return Planner(
        space.geometric_ladder(n_rungs),
        within=space.target_range,
        budget=budget,
        worst=worst,
        metric=metric,
        methods=[name for name in _PLAIN if name in ranking] or ranking[:1],
    )


def recipe_search_of(config: StudyConfig, space: Space) -> RecipeSearch | None:
    """What searches the fine-tune recipe; None where the space searches nothing of it."""
    ranges, (low, high) = space.config.finetune, space.target_range
    if not ranges:
        return None
    middle = float(f"{math.sqrt(low * high):.4g}")
    own = config.setting.finetune.searched(ranges)
    search = config.study
    return RecipeSearch(
        ranges, own=own, target=middle, n_trials=search.n_trials, seed=search.seed, metric=search.score_metric
    )


def _fitting(space: SpaceConfig, workbench: Workbench) -> SpaceConfig:
    """The space with those of its methods that can be used, which must be all that it names.

    Of any method, those are left out that a phase of this length does not let act, and those that are searched by name
    alone, unless there are no others.
    """
    if not workbench.traced.groups:
        first = next((f" ({str(refusal).rstrip('.')})" for refusal in workbench.traced.refused), "")
        raise NetworkError(
            f"the network must have a channel group that can be pruned, but there is none{first}. "
            "`autoprune inspect` lists what is refused and why."
        )
    reasons = unfit_methods(space.methods, workbench)
    fit = {name: ranges for name, ranges in space.methods.items() if name not in reasons}
    if reasons and not (space.any_method and fit):
        name, reason = next(iter(reasons.items()))
        raise NetworkError(f"[space] `methods`: {name!r} can't prune this network: {reason}")
    if space.any_method:
        fit = {name: fit[name] for name in methods.stock(fit, n_steps=workbench.sparsify_plan().n_steps)}
    return dataclasses.replace(space, methods=fit)


def unfit_methods(space: Mapping[str, Mapping[str, Range]], workbench: Workbench) -> dict[str, str]:
    """Why a method can't prune the network with the study's recipe, by the names of those that can't.

    One that can't with one of its choices can't.

    Args:
        space: Ranges of the hyper-parameters by method.
        workbench: The network.
    """
    reasons, n_processes = {}, workbench.setting.n_processes
    for name, ranges in space.items():
        if n_processes > 1 and (alone := _needs_whole_batches(name)):
            reasons[name] = (
                f"{alone}, but {n_processes} processes share a trial's batches. Use `gpu` = 1 in [resources]."
            )
            continue
        choices = {key: r.values for key, r in ranges.items() if r.values and isinstance(r.values[0], str)}
        try:
            for chosen in itertools.product(*choices.values()):
                _try(methods.build(name, dict(zip(choices, chosen, strict=True))), workbench)
        except (NetworkError, ConfigError) as error:
            reasons[name] = str(error)
        except Exception as error:  # A method may be somebody's own and raise anything; the others still prune.
            _log.warning("the method %r failed on the network", name, exc_info=True)
            told = str(error).splitlines()[0].rstrip(".") if str(error) else "no message"
            reasons[name] = (
                f"its `attach` must prepare the network or raise NetworkError, but failed with {type(error).__name__}: "
                f"{told}. Use another method, or mend this one."
            )
    return reasons


def _needs_whole_batches(name: str) -> str | None:
    """Why a method can't be trained by several processes; None where it can."""
    named = methods.method_named(name)
    return "it measures whole batches as it trains" if named.trains and not named.shares_batches else None


def _try(method: Method, workbench: Workbench) -> None:
    """Prepare a copy of the network for the sparsify phase of the method.

    Raises:
        NetworkError: The method has nothing to work on, or nothing trains in its phase.
        ConfigError: Hyper-parameters and recipe do not go together.
    """
    copied, plan = copy.deepcopy(workbench.network), workbench.sparsify_plan()
    method.attach(copied, workbench.traced, plan=plan)
    if method.trains and plan.n_steps:
        require_trained(copied)


def plan(
    source: Path | str | StudyConfig,
    *,
    name: str | None = None,
    seed: int | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    loggers: Sequence[str] | None = None,
    storage: str | None = None,
) -> Plan:
    """Work out what `launch` would do, without writing to any database.

    Raises:
        IdentityError: The database has a study of this name that is another one.
    """
    config = load_config(
        source, name=name, seed=seed, n_trials=n_trials, concurrency=concurrency, time_limit_s=time_limit_s,
        loggers=loggers,
    )  # fmt: skip
    require_loggers(config.loggers)
    url = storage_url(storage)
    config = kept_at(url, config)
    workbench = open_workbench(config.setting)
    space = space_of(config, workbench)
    planner = planner_of(config, space, workbench)
    points = tuple(point.to_dict() for point in opening(space, config.study.n_trials, planner=planner))
    identity = identity_of(config, workbench)
    joins = _joined(config, identity, url)
    config = dataclasses.replace(config, space=space.config)
    return Plan(config, inspection_of(workbench, config.setting), points, identity, joins)


def _joined(config: StudyConfig, identity: Mapping[str, Any], url: str) -> ExistingStudy | None:
    if not Database.is_there(url):
        return None
    db, search = Database.open_readonly(url), config.study
    try:
        record = StudyHandle.find(
            db, name=search.name, identity=identity, directions=search.directions, objectives=search.objectives
        )
        if record is None:
            return None
        ours, stored = config.to_dict(), Study(db, record).config.to_dict()
        changed = tuple(key for key in ours if json.dumps(ours[key]) != json.dumps(stored[key]))
        return ExistingStudy(db.url, record.counts().finished, record.revision, changed)
    finally:
        db.close()


def identity_of(config: StudyConfig, workbench: Workbench) -> dict[str, Any]:
    """What may never change within a study, JSON-serialisable."""
    search = config.study
    reference = {objective: search.reference_point[objective] for objective in search.objectives}
    # Studies from before there were directions to choose have none here.
    direction = {} if search.direction == "maximize" else {"direction": search.direction}
    return {**workbench.identity, "objectives": list(search.objectives), "reference point": reference, **direction}
